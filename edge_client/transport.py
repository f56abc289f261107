"""Requests to the server: signed, counted, repeated byte for byte when the network fails, and only to the pinned one.

transport = Transport(url, pinned_pool(root.tls_root_pem), signer=..., clock=..., jitter=random.random)
transport.send("POST", CHECK_IN, body)   -> Reply, or a FedloomError that the server named
transport.poll(target, deadline_s)       -> the body, once there is one
"""

from __future__ import annotations

import io
import math
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from edge_client.answers import arriving, asked_wait_s, is_clear, require_data, unreachable
from edge_client.between import captive_portal, is_sign_in, who_answers
from edge_client.permits import Permits
from edge_client.problems import CohortOver, NotNow, VersionClosed, not_the_server, problem
from edge_client.traffic import Downward, Traffic, Upward
from shared.clock import Clock
from shared.errors import BrokenState, FedloomError, TooManyRequests, TryLater
from shared.limits import MAX_JSON_BYTES, MAX_POLL_HOLD_S, READ_PIECE_BYTES
from shared.wire.canonical import Fields, decode, octets_to_text, sha256
from shared.wire.requests import (
    BODY_HEADER,
    COUNTER_HEADER,
    DEVICE_HEADER,
    JSON,
    SIGNATURE_HEADER,
    request_message,
)
from shared.wire.signed import SigningKey

CONNECT_TIMEOUT_S = 20.0  # also for each piece of a body that goes up
READ_TIMEOUT_S = MAX_POLL_HOLD_S + 20.0
ATTEMPTS = 6  # of one request, at least; about 15 s when the server is down
PATIENCE_S = 600.0  # in a cohort and on the way to one: the trained update would be lost
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 8.0
BUSY_PATIENCE_S = 120.0  # with a server that says that it gets too many requests
MAX_WAIT_MS = 60_000  # a longer retry_after_ms is cut: the server may open a round earlier
USER_AGENT = "fedloom-agent/1"
LOOK_AGAIN_S = 60.0  # between two looks at who answers instead of the server
_HEAD_BYTES = 512  # that the head of an answer may have
_NOTHING_SENT = (NewConnectionError, ConnectTimeoutError, SSLError)


def pinned_pool(tls_root_pem: str) -> urllib3.PoolManager:
    """Return connections that TLS leads to ``tls_root_pem`` and nowhere else; the system's roots if it is empty.

    Raises:
        BrokenState: ``bad-tls-root``.
    """
    try:
        context = ssl.create_default_context(cadata=tls_root_pem or None)
    except (ssl.SSLError, ValueError) as error:
        raise BrokenState("bad-tls-root", "The root document's certificate is unreadable.", "ask for a code") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return urllib3.PoolManager(ssl_context=context, maxsize=1, retries=False)


def unverified_pool() -> urllib3.PoolManager:
    """Return connections to anyone: only for the root document, whose hash the enrolment code pins."""
    return urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False, maxsize=1, retries=False)


@dataclass(frozen=True)
class Signer:
    """Proves requests to be this device's own.

    Attributes:
        fingerprint: of the pinned root document.
        device: the pseudonym.
        key: the identity's key.
        next_counter: a larger number each time, durable before it is returned.
    """

    fingerprint: bytes
    device: str
    key: SigningKey
    next_counter: Callable[[], int]

    def headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """Return the four headers of one request."""
        counter, digest = self.next_counter(), sha256(body).hex()
        message = request_message(self.fingerprint, self.device, counter, method, target, digest)
        return {
            DEVICE_HEADER: self.device,
            COUNTER_HEADER: str(counter),
            BODY_HEADER: digest,
            SIGNATURE_HEADER: octets_to_text(self.key.sign(message)),
        }


@dataclass(frozen=True)
class Reply:
    """An answer below status 400."""

    status: int
    body: bytes


class Transport:
    """One device's way to its server.

    Args:
        url: ``https://host:port``.
        pool: verified connections, see ``pinned_pool``.
        signer: None before enrolment.
        clock: for waiting between attempts.
        jitter: random numbers in [0, 1), so that devices do not come back all at once.
        permits: asked before bytes are moved.
    """

    def __init__(
        self,
        url: str,
        pool: urllib3.PoolManager,
        *,
        signer: Signer | None,
        clock: Clock,
        jitter: Callable[[], float],
        permits: Permits | None = None,
    ) -> None:
        self.traffic = Traffic()
        self.permits = permits or Permits()
        self._url = url
        self._pool = pool
        self._signer = signer
        self._clock = clock
        self._jitter = jitter
        self._asked_wait_s = 0.0  # by the last answer
        self._looked_s = -math.inf
        self._seen_between: TryLater | None = None

    def sign_with(self, signer: Signer) -> None:
        """Sign later requests as ``signer``."""
        self._signer = signer

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        content_type: str = JSON,
        counts_as: Upward = "other_up",
        until_s: float = 0.0,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> Reply:
        """Send one request until it is answered.

        Every attempt carries the same bytes, counter and signature included, so the server can tell a repeat.

        Args:
            method: in capitals.
            target: the path.
            body: the whole body.
            content_type: of the body.
            counts_as: what the body is in the ledger.
            until_s: attempts go on until then (seconds since the epoch), and at least ``ATTEMPTS`` times.
            max_bytes: of the answer.

        Raises:
            TryLater: ``no-connection``, ``captive-portal``, ``not-the-server``, ``too-slow``, ``answer-damaged`` or the
                server's code, after every attempt failed.
            FedloomError: the error that the server named.
        """
        headers = self._headers(method, target, body, content_type)
        failures, busy_until_s = 0, self.busy_until_s(until_s)
        while True:
            self.back_off(failures)
            try:
                return self._attempt(method, target, headers, body, counts_as, max_bytes)
            except TryLater as error:
                if self.come_back(error, busy_until_s):
                    continue
                failures += 1
                if isinstance(error, CohortOver | VersionClosed | NotNow) or (
                    failures >= ATTEMPTS and self._clock.now_s() >= until_s
                ):
                    raise

    def send_once(
        self,
        method: str,
        target: str,
        body: bytes,
        *,
        content_type: str,
        counts_as: Upward,
        headers: Mapping[str, str],
    ) -> Reply:
        """Make one attempt, with further ``headers``; what to send next depends on how far it came.

        Raises:
            TryLater, FedloomError: as ``send``.
        """
        own = self._headers(method, target, body, content_type)
        return self._attempt(method, target, {**headers, **own}, body, counts_as, MAX_JSON_BYTES)

    def _headers(self, method: str, target: str, body: bytes, content_type: str) -> dict[str, str]:
        about = {"Content-Type": content_type, "Content-Length": str(len(body))} if body else {}
        return self.signed(method, target, body) | about

    def _attempt(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, counts_as: Upward, max_bytes: int
    ) -> Reply:
        try:
            with self.open(method, target, headers, body, counts_as=counts_as) as response:
                reply = Reply(response.status, self.read(response, max_bytes))
        except (HTTPError, OSError) as error:
            raise self.unreachable(error) from error
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise problem(reply.status, reply.body)
        require_data(reply.status, reply.body, max_bytes)
        return reply

    def poll(
        self,
        target: str,
        deadline_s: float,
        method: str = "GET",
        body: bytes = b"",
        *,
        max_bytes: int = MAX_JSON_BYTES,
        before_each: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Ask until the answer, of at most ``max_bytes``, is there; ``before_each`` may wait, or end it by raising.

        Raises:
            CohortOver: ``deadline-passed`` when it was not by ``deadline_s`` (seconds since the epoch).
            FedloomError: as ``send``.
        """
        while self._clock.now_s() <= deadline_s:
            before_each()
            until_s = min(deadline_s, self._clock.now_s() + PATIENCE_S)
            reply = self.send(method, target, body, until_s=until_s, max_bytes=max_bytes)
            if reply.status != HTTPStatus.ACCEPTED:
                return reply.body
            fields = Fields(decode(reply.body), "wait")
            self._clock.sleep(min(fields.integer("retry_after_ms", 0, 2**53), MAX_WAIT_MS) / 1000)
        raise CohortOver("deadline-passed", f"{target} had no answer before its deadline.", "it is tried again")

    def signed(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        """Return the headers of a new request."""
        own = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        return own | (self._signer.headers(method, target, body) if self._signer else {})

    def back_off(self, failures: int) -> None:
        """Wait before the next attempt: not at all after no failure, then longer and longer.

        Never shorter than the last answer asked for: a proxy before a server that is away may know when it is back.
        """
        if failures:
            longest = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16))
            asked_s = min(self._asked_wait_s, MAX_WAIT_MS / 1000)
            self._clock.sleep(max(longest * (0.5 + 0.5 * self._jitter()), asked_s * (1.0 + self._jitter())))

    def busy_until_s(self, until_s: float) -> float:
        """Return until when a request that is tried until ``until_s`` comes back to a server that is too busy."""
        return until_s or self._clock.now_s() + BUSY_PATIENCE_S

    def come_back(self, error: FedloomError | None, busy_until_s: float) -> bool:
        """Wait for as long as a busy server asks for, and up to as long again; say whether it did ask, in time.

        That is no failure: the next attempt is the very same one.
        """
        if not isinstance(error, TooManyRequests) or self._clock.now_s() > busy_until_s:
            return False
        self._clock.sleep(min(error.retry_after_ms, MAX_WAIT_MS) / 1000 * (1.0 + self._jitter()))
        return True

    def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"", *, counts_as: Upward = "other_up"
    ) -> urllib3.BaseHTTPResponse:
        """Make one attempt and return the response with its body unread; raises urllib3's errors and OSError."""
        # A file goes up in pieces with a time limit each; bytes would have one limit for all.
        source = _Body(body, self.permits.up)
        head = len(f"{method} {target} HTTP/1.1\r\nHost: {self._url[8:]}\r\n\r\n")
        head += sum(len(name) + len(value) + 4 for name, value in headers.items())
        self.permits.transfer(head + len(body) + _HEAD_BYTES)
        self._asked_wait_s = 0.0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
                response = self._pool.urlopen(
                    method,
                    self._url + target,
                    body=source if body else None,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                )
        except _NOTHING_SENT:
            raise
        except (HTTPError, OSError):
            self._count_up(head, source.tell(), counts_as)
            raise
        self._count_up(head, source.tell(), counts_as)
        self._asked_wait_s = asked_wait_s(response.status, response.headers)
        status_line = len(f"HTTP/1.1 {response.status} {response.reason or ''}\r\n\r\n")
        self.traffic.count(
            "other_down", status_line + sum(len(name) + len(value) + 4 for name, value in response.headers.items())
        )
        return response

    def read(self, response: urllib3.BaseHTTPResponse, max_bytes: int, *, counts_as: Downward = "other_down") -> bytes:
        """Return a body of at most ``max_bytes``.

        Raises:
            TryLater: ``not-the-server`` for a longer one, ``captive-portal``, ``too-slow``.
        """
        announced = response.headers.get("Content-Length", "")[:16]
        self.permits.transfer(
            min(max_bytes, int(announced)) if announced.isascii() and announced.isdigit() else max_bytes
        )
        data = bytearray()
        for piece in self.pieces(response):
            self.traffic.count(counts_as, len(piece))
            data += piece
            if len(data) > max_bytes:
                response.close()
                raise not_the_server(f"more than {max_bytes} bytes")
        self.require_no_sign_in(response, bytes(data))
        response.release_conn()
        return bytes(data)

    def pieces(self, response: urllib3.BaseHTTPResponse, size_bytes: int = READ_PIECE_BYTES) -> Iterator[bytes]:
        """Yield a body in pieces; raises ``too-slow``, urllib3's errors and OSError after what came before them."""
        return arriving(response, self._clock.now_s, size_bytes)

    def require_no_sign_in(self, response: urllib3.BaseHTTPResponse, body: bytes = b"") -> None:
        """Refuse what a network's sign-in page answers in the server's place.

        Raises:
            TryLater: ``captive-portal``.
        """
        if is_sign_in(response.status, response.headers, body, self._url):
            raise captive_portal()

    def unreachable(self, error: Exception) -> TryLater:
        """Return the error for a request that found no server, or another one."""
        return self._between(error) or unreachable(error, self._clock.now_s(), self._url)

    def _between(self, error: Exception) -> TryLater | None:
        """Return who answered instead of the server, as far as that shows; it is asked now and then only."""
        now_s = self._clock.now_s()
        if not is_clear(error) and not 0 <= now_s - self._looked_s < LOOK_AGAIN_S:
            self.permits.transfer(2 * _HEAD_BYTES)
            self.traffic.count("other_up", _HEAD_BYTES)
            self.traffic.count("other_down", _HEAD_BYTES)
            self._looked_s = now_s
            fingerprint = self._signer.fingerprint if self._signer else None
            self._seen_between = who_answers(self._url, error, fingerprint)
        return None if is_clear(error) else self._seen_between

    def _count_up(self, head: int, body: int, counts_as: Upward) -> None:
        self.traffic.count("other_up", head)
        self.traffic.count(counts_as, body)


class _Body(io.BytesIO):
    """A body that says before each of its pieces that there is more to send."""

    def __init__(self, data: bytes, before_piece: Callable[[int], None]) -> None:
        super().__init__(data)
        self._before_piece = before_piece

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece."""
        piece = super().read(size)
        self._before_piece(len(piece))
        return piece

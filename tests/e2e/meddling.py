"""A proxy that knows HTTP: it counts a device's requests by kind, and does one thing wrong with the n-th of a kind.

    with meddling(port, keys, {"check-in": Wrong("black-hole")}) as proxy: ... proxy.url ...

It ends TLS with the server's own certificate, as a network cannot, so that every kind of request can be told apart.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO, Final

from cloud_server.tls import CERTIFICATE_FILE, KEY_FILE
from shared.wire.requests import BODY_HEADER, COUNTER_HEADER
from tests.e2e.proxy import accept

_LINGER: Final = struct.pack("ii", 1, 0)  # close with a reset
_PIECE_BYTES: Final = 65536
HELD_S: Final = 0.05  # for which a delayed answer is held
PAGE: Final = b"<!DOCTYPE html><html><body>Welcome to the Grand Hotel. Room number?</body></html>"

_KINDS: Final = (
    ("root", "GET", r"/v1/root"),
    ("enrol", "POST", r"/v1/enrol"),
    ("admit", "POST", r"/v1/admit"),
    ("renew", "POST", r"/v1/renew"),
    ("certificate", "POST", r"/v1/certificate"),
    ("leave", "POST", r"/v1/leave"),
    ("check-in", "POST", r"/v1/check-in"),
    ("rendezvous", "POST", r"/v1/rendezvous"),
    ("release", "GET", r"/v1/releases/\d+"),
    ("decision", "GET", r"/v1/decision"),
    ("release-key", "GET", r"/v1/release-key"),
    ("blob", "GET", r"/v1/blobs/[0-9a-f]{64}"),
    ("difference", "GET", r"/v1/blobs/[0-9a-f]{64}/from/[0-9a-f]{64}"),
    ("join", "PUT", r"/v1/cohorts/[^/]+/join"),
    ("roster", "GET", r"/v1/cohorts/[^/]+/roster"),
    ("shares", "PUT", r"/v1/cohorts/[^/]+/shares"),
    ("inbox", "GET", r"/v1/cohorts/[^/]+/inbox"),
    ("vector", "PUT", r"/v1/cohorts/[^/]+/vector"),
    ("vector-rest", "PUT", r"/v1/cohorts/[^/]+/vector\?offset=\d+&sha256=[0-9a-f]{64}"),
    ("vector-received", "GET", r"/v1/cohorts/[^/]+/vector\?sha256=[0-9a-f]{64}"),
    ("survivors", "GET", r"/v1/cohorts/[^/]+/survivors"),
    ("agreement", "PUT", r"/v1/cohorts/[^/]+/agreement"),
    ("agreements", "GET", r"/v1/cohorts/[^/]+/agreements"),
    ("answer", "PUT", r"/v1/cohorts/[^/]+/answer"),
    ("outcome", "GET", r"/v1/cohorts/[^/]+/outcome"),
)
KINDS: Final = (*(name for name, _, _ in _KINDS), "blob-rest", "difference-rest")


@dataclass(frozen=True)
class Request:
    """One request as it came: its bytes, and what it is."""

    kind: str
    method: str
    target: str
    head: bytes
    headers: Mapping[str, str]
    body: bytes

    @property
    def signed(self) -> tuple[str, str, str, str]:
        """What repeats of one request have in common."""
        headers = self.headers
        return self.method, self.target, headers.get(COUNTER_HEADER, ""), headers.get(BODY_HEADER, "")


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def code(self) -> str:
        """The problem that it names, empty if none."""
        return str(json.loads(self.body)["code"]) if self.status >= HTTPStatus.BAD_REQUEST else ""

    def to_bytes(self, body: bytes | None = None) -> bytes:
        """Return it with another body, and the length of that."""
        body = self.body if body is None else body
        names = ("content-length", "transfer-encoding", "connection")
        lines = [f"{name}: {value}" for name, value in self.headers if name.lower() not in names]
        head = "\r\n".join([f"HTTP/1.1 {self.status} X", *lines, f"Content-Length: {len(body)}", "", ""])
        return head.encode("latin-1") + body


@dataclass(frozen=True)
class Wrong:
    """What is wrong with requests of one kind.

    Attributes:
        what: one of ``WRONGS``.
        first: the number of the first one, from 0.
        times: with how many in a row.
    """

    what: str
    first: int = 0
    times: int = 1


@dataclass
class Meddler:
    """A running proxy.

    Attributes:
        port: on 127.0.0.1.
        upstream_port: of the server.
        wrongs: by kind.
        seen: every request, in order.
        answers: of the server to them, by place in ``seen``, None where it was not asked or did not answer.
        done: which wrong was done, by kind.
        late_answers: of the server to requests that came late.
    """

    port: int
    upstream_port: int
    context: ssl.SSLContext
    wrongs: Mapping[str, Wrong]
    seen: list[Request] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    late_answers: list[Answer] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    late: list[Request] = field(default_factory=list)
    next_lookups: list[str] = field(default_factory=list)
    open_ends: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where a device finds the server through the proxy."""
        return f"https://127.0.0.1:{self.port}"

    def carry(self, device: socket.socket) -> None:
        """Answer the requests of one connection."""
        with suppress(OSError), self.context.wrap_socket(device, server_side=True) as end:
            self.open_ends.append(end)
            with end.makefile("rb") as stream:
                while (request := _read_request(stream)) is not None and self._answer(request, end):
                    pass

    def _answer(self, request: Request, end: ssl.SSLSocket) -> bool:
        """Answer one request, and say whether the connection goes on."""
        with self.lock:
            number = sum(one.kind == request.kind for one in self.seen)
            place = len(self.seen)
            self.seen.append(request)
            wrong = self.wrongs.get(request.kind)
            hit = wrong is not None and wrong.first <= number < wrong.first + wrong.times
            if hit:
                self.done[request.kind] += 1
            late, self.late = self.late, []
        goes_on = WRONGS[wrong.what](self, request, end, place) if hit and wrong else self.forward(request, end, place)
        for one in late:
            self.late_answers.append(self.ask(one))
        return goes_on

    def ask(self, request: Request, place: int | None = None) -> Answer:
        """Let the server answer a request."""
        answer = replay(request, self.upstream_port)
        if place is not None:
            self.answers[place] = answer
        return answer

    def forward(self, request: Request, end: ssl.SSLSocket, place: int) -> bool:
        """Do nothing wrong."""
        end.sendall(self.ask(request, place).to_bytes())
        return True

    def upstream(self) -> ssl.SSLSocket:
        """Return a connection to the server."""
        return connection_to(self.upstream_port)

    def look_up(self) -> int:
        """Return the port to which this proxy's address leads now; raises as the resolver does."""
        with self.lock:
            wrong = self.next_lookups.pop(0) if self.next_lookups else ""
        if wrong == "no-name":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return _closed_port() if wrong == "refused" else self.port


Trick = Callable[[Meddler, Request, ssl.SSLSocket, int], bool]


def _refused(proxy: Meddler, _request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    proxy.next_lookups += ["refused"] * 2
    return _reset(end)


def _no_name(proxy: Meddler, _request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    proxy.next_lookups += ["no-name"] * 2
    return _reset(end)


def _reset_request(proxy: Meddler, request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    with proxy.upstream() as server:
        whole = request.head + request.body
        server.sendall(whole[: len(request.head) // 2 if not request.body else len(whole) - len(request.body) // 2])
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    return _reset(end)


def _reset_response(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    answer = proxy.ask(request, place)
    whole = answer.to_bytes()
    end.sendall(whole[: len(whole) - (len(answer.body) + 1) // 2])
    return _reset(end)


def _black_hole(proxy: Meddler, _request: Request, _end: ssl.SSLSocket, _place: int) -> bool:
    proxy.stopped.wait()
    return False


def _lost_response(proxy: Meddler, request: Request, _end: ssl.SSLSocket, place: int) -> bool:
    proxy.ask(request, place)
    return False


def _portal_page(_proxy: Meddler, _request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    end.sendall(Answer(200, (("Content-Type", "text/html"),), PAGE).to_bytes())
    return True


def _portal_redirect(_proxy: Meddler, _request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    end.sendall(Answer(302, (("Location", "http://login.hotel.example/?from=here"),), b"").to_bytes())
    return True


def _bad_gateway(_proxy: Meddler, _request: Request, end: ssl.SSLSocket, _place: int) -> bool:
    page = b"<html><head><title>502 Bad Gateway</title></head></html>"
    end.sendall(Answer(502, (("Content-Type", "text/html"), ("Retry-After", "1")), page).to_bytes())
    return True


def _crawling(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    answer = proxy.ask(request, place)
    whole = answer.to_bytes()
    start = len(whole) - len(answer.body)
    end.sendall(whole[:start])
    for byte in answer.body:
        end.sendall(bytes([byte]))
        if proxy.stopped.wait(1.0):
            break
    return True


def _twice(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    proxy.ask(request)
    return proxy.forward(request, end, place)


def _late_again(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    proxy.late.append(request)  # once more, after the next one
    return proxy.forward(request, end, place)


def _delayed(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    proxy.stopped.wait(HELD_S)
    answer = proxy.ask(request, place)
    proxy.stopped.wait(HELD_S)
    end.sendall(answer.to_bytes())
    return True


def _truncated(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    answer = proxy.ask(request, place)
    end.sendall(answer.to_bytes(answer.body[: len(answer.body) // 2]))
    return True


def _bit_flipped(proxy: Meddler, request: Request, end: ssl.SSLSocket, place: int) -> bool:
    answer = proxy.ask(request, place)
    body = bytearray(answer.body)
    if body:
        body[len(body) // 2] ^= 1
    end.sendall(answer.to_bytes(bytes(body)))
    return True


WRONGS: Final[Mapping[str, Trick]] = {
    "refused": _refused,
    "no-name": _no_name,
    "reset-request": _reset_request,
    "reset-response": _reset_response,
    "black-hole": _black_hole,
    "lost-response": _lost_response,
    "portal-page": _portal_page,
    "portal-redirect": _portal_redirect,
    "bad-gateway": _bad_gateway,
    "crawling": _crawling,
    "twice": _twice,
    "late-again": _late_again,
    "delayed": _delayed,
    "truncated": _truncated,
    "bit-flipped": _bit_flipped,
}


def replay(request: Request, port: int) -> Answer:
    """Send a request as it was recorded to a server, and return its answer."""
    with connection_to(port) as server:
        server.sendall(request.head + request.body)
        return _read_answer(server, request.method)


def connection_to(port: int) -> ssl.SSLSocket:
    """Return a connection to whoever listens on a port."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))


def kind_of(method: str, target: str, headers: Mapping[str, str]) -> str:
    """Return the kind of a request.

    Raises:
        AssertionError: for a request that no test knows.
    """
    for name, its_method, pattern in _KINDS:
        if method == its_method and re.fullmatch(pattern, target):
            return f"{name}-rest" if "range" in headers else name
    raise AssertionError(f"no test knows {method} {target}")


def _read_request(stream: BinaryIO) -> Request | None:
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.split(": ", 1) for line in lines if line)
    headers = {name.title(): value for name, value in pairs}
    body = stream.read(int(headers.get("Content-Length", "0")))
    lower = {name.lower(): value for name, value in headers.items()}
    return Request(kind_of(method, target, lower), method, target, bytes(head), headers, body)


def _read_answer(server: ssl.SSLSocket, method: str) -> Answer:
    with closing(HTTPResponse(server, method=method)) as response:
        response.begin()
        return Answer(response.status, tuple(response.getheaders()), response.read())


def _reset(end: ssl.SSLSocket) -> bool:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    return False


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def meddling(upstream_port: int, keys: Path, wrongs: Mapping[str, Wrong]) -> Iterator[Meddler]:
    """Run a proxy until the block ends; ``keys`` has the server's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / CERTIFICATE_FILE, keys / KEY_FILE)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        proxy = Meddler(listener.getsockname()[1], upstream_port, context, wrongs)
        carriers: list[threading.Thread] = []
        accepting = threading.Thread(target=accept, args=(listener, proxy.carry, carriers))
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for end in proxy.open_ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in carriers:
                thread.join()

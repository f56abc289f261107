"""What comes back: whole and in time, or why not."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError

from edge_client.problems import TooSlow, clock_behind, not_the_server
from shared.errors import TryLater, UsageError
from shared.limits import BODY_GRACE_S, MIN_BODY_BYTES_PER_S
from shared.wire.canonical import decode

Message = TypeVar("Message")
GRACE_S = BODY_GRACE_S  # of one body, after which it must have come at MIN_BODY_BYTES_PER_S on average
_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL
_WAITS: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


def arriving(response: urllib3.BaseHTTPResponse, now_s: Callable[[], float], size_bytes: int) -> Iterator[bytes]:
    """Yield a body in pieces of ``size_bytes``; what came before an error is yielded before it is raised.

    Raises:
        TooSlow: ``too-slow``.
        HTTPError, OSError: of a connection that broke.
    """
    began_s, arrived, piece = now_s(), 0, bytearray()
    try:
        while some := response.read1(size_bytes - len(piece)):
            # Not of a body that is there at once, however long this machine was busy with something else.
            late = arrived and arrived < (now_s() - began_s - GRACE_S) * MIN_BODY_BYTES_PER_S
            arrived += len(some)
            piece += some
            if len(piece) == size_bytes:
                yield bytes(piece)
                piece.clear()
            if late:
                raise _too_slow()
    except (HTTPError, OSError, TooSlow):
        if piece:
            yield bytes(piece)
        raise
    if piece:
        yield bytes(piece)


def asked_wait_s(status: int, headers: Mapping[str, str]) -> float:
    """Return for how long an answer asks to stay away, in seconds; 0 where it does not say so."""
    told = headers.get("Retry-After", "").strip()
    return float(told[:9]) if status in _WAITS and told.isascii() and told.isdigit() else 0.0


def require_data(status: int, body: bytes, max_bytes: int) -> None:
    """Refuse what cannot be the server's answer: it sends a JSON object, or nothing.

    Raises:
        TryLater: ``not-the-server``, ``answer-damaged``.
    """
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        raise not_the_server(f"a redirect (status {status})")
    if body and not body.startswith(b"{"):
        raise not_the_server("a page instead of data")
    understood(lambda data: decode(data, max_bytes=max_bytes), body or b"{}")


def understood(read: Callable[[bytes], Message], body: bytes) -> Message:
    """Return what ``read`` makes of an answer.

    Raises:
        TryLater: ``answer-damaged`` where that is no message of this protocol.
    """
    try:
        return read(body)
    except UsageError as error:
        raise TryLater(
            "answer-damaged",
            f"An answer of the server arrived damaged: {error.message}",
            "look for a proxy on this network, or before the server; it is tried again",
        ) from error


def unreachable(error: Exception, now_s: float, url: str) -> TryLater:
    """Return the error for a request that found no server at ``url``, or another one; the clock shows ``now_s``."""
    if _is_not_valid_yet(error):
        return clock_behind("the server's certificate is valid from a later time on", now_s)
    if isinstance(error, SSLError):
        return not_the_server(
            "its TLS certificate is not valid now, or not the one that the enrolment code leads to",
            also=", and check this device's clock",
        )
    return TryLater(
        "no-connection",
        f"The server at {url} cannot be reached ({type(error).__name__}).",
        "check the network and this address; `run` tries again by itself",
    )


def is_clear(error: Exception) -> bool:
    """Say whether an error tells all that there is to know: a clock that is wrong, or a name that nobody knows."""
    return _is_not_valid_yet(error) or isinstance(error, NameResolutionError)


def _is_not_valid_yet(error: BaseException) -> bool:
    """Say whether a certificate was refused because it begins later than now."""
    causes = (error, error.__cause__, *error.args)
    return any(isinstance(one, ssl.SSLCertVerificationError) and one.verify_code == _NOT_YET_VALID for one in causes)


def _too_slow() -> TooSlow:
    return TooSlow(
        "too-slow",
        f"The server's answer comes at less than {MIN_BODY_BYTES_PER_S} bytes a second.",
        "check the network; it is tried again, and a download goes on where it stopped",
    )

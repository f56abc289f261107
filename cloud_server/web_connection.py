"""One connection of a web process: how many there may be, and how slow each part of what it carries.

Whoever sends a byte a second holds a greenlet and a descriptor, no more, and not for ever: TLS and headers have a time
limit, bodies may neither fall silent nor crawl, and an answer that nobody takes is given up.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from gunicorn.http.errors import ParseException

from shared.limits import (
    BODY_GRACE_S,
    MAX_BODY_SILENCE_S,
    MAX_HEAD_S,
    MAX_SEND_SILENCE_S,
    MIN_BODY_BYTES_PER_S,
    SEND_PIECE_BYTES,
)


class TooSlow(ParseException):  # type: ignore[misc]  # gunicorn is not typed
    """Headers or a body came more slowly than allowed."""


@dataclass(frozen=True)
class Pace:
    """How slow a connection may be.

    Attributes:
        head_s: from a request's first byte to the end of its headers; what is left of the body before counts.
        silence_s: between two pieces of a body.
        grace_s: of waiting for a body, after which ``bytes_per_s`` is demanded.
        bytes_per_s: of a body, on average.
        send_s: for each piece of an answer to be taken.
    """

    head_s: float = MAX_HEAD_S
    silence_s: float = MAX_BODY_SILENCE_S
    grace_s: float = BODY_GRACE_S
    bytes_per_s: float = MIN_BODY_BYTES_PER_S
    send_s: float = MAX_SEND_SILENCE_S


USUAL_PACE: Final = Pace()
Within = Callable[[float | None], AbstractContextManager[object]]


def unbounded(_seconds: float | None) -> AbstractContextManager[object]:
    """Leave the time limit to the socket."""
    return nullcontext()


class PacedSocket:
    """A connected socket whose other side is waited for only so long; everything else is the socket's own.

    Args:
        inner: the socket, blocking.
        pace: how slow it may be.
        within: ends a block with TimeoutError after so many seconds. A TLS socket's own time limit begins anew with
            each byte of a record, which can come one by one.
    """

    def __init__(
        self,
        inner: Any,  # noqa: ANN401  # a socket
        pace: Pace = USUAL_PACE,
        within: Within = unbounded,
    ) -> None:
        self._inner = inner
        self._pace = pace
        self._within = within
        self.expect_head()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the socket has
        return getattr(self._inner, name)

    def expect_head(self) -> None:
        """From now on a request may begin, at any time."""
        self._in_body = False
        self._began_s: float | None = None

    def expect_body(self) -> None:
        """From now on comes the body of the request whose headers have come."""
        self._in_body = True
        self._waited_s = 0.0
        self._received = 0

    def recv(self, size: int) -> bytes:
        """Return what comes next; raises TooSlow."""
        limit_s = self._body_limit_s() if self._in_body else self._head_limit_s()
        if limit_s is not None and limit_s <= 0:
            raise TooSlow
        self._inner.settimeout(limit_s)
        asked_s = time.monotonic()
        try:
            with self._within(limit_s):
                data: bytes = self._inner.recv(size)
        except TimeoutError as error:
            raise TooSlow from error
        now_s = time.monotonic()
        if self._in_body:
            self._waited_s += now_s - asked_s
            self._received += len(data)
        elif self._began_s is None:
            self._began_s = now_s
        return data

    def _head_limit_s(self) -> float | None:
        # Until a request begins, gunicorn's keep-alive is the limit.
        return None if self._began_s is None else self._began_s + self._pace.head_s - time.monotonic()

    def _body_limit_s(self) -> float:
        pace = self._pace
        return min(pace.silence_s, pace.grace_s + self._received / pace.bytes_per_s - self._waited_s)

    def sendall(self, data: bytes) -> None:
        """Send ``data``; raises ConnectionResetError where nobody takes it."""
        if self._inner.gettimeout() == 0:  # gunicorn's last words to a connection that it closes
            self._inner.sendall(data)
            return
        self._inner.settimeout(self._pace.send_s)
        view = memoryview(data)
        try:
            for start in range(0, len(view), SEND_PIECE_BYTES):
                with self._within(self._pace.send_s):
                    self._inner.sendall(view[start : start + SEND_PIECE_BYTES])
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "nobody takes the answer") from error

    def send(self, data: bytes) -> int:
        """Send all of a few bytes, as ``sendall``."""
        self.sendall(data)
        return len(data)


class Connections:
    """Counts one process's connections.

    Args:
        most_per_address: at once; 0 for any number.
    """

    def __init__(self, most_per_address: int) -> None:
        self._most = most_per_address
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, key: str) -> Iterator[bool]:
        """Count one until the block ends, and say whether it may be there."""
        self._open[key] += 1
        try:
            yield not self._most or self._open[key] <= self._most
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

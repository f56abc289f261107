"""Around every request: an id that the server makes, what it cost, and a line in the log.

Neither path, query, headers nor device enter the log or the metrics: the route's pattern says what was asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, Final

from flask import Flask, request
from gunicorn.http.errors import ParseException

from cloud_server import logs
from cloud_server.api.policy import path_of
from cloud_server.web_connection import TooSlow
from shared.errors import TryLater, UsageError
from shared.ids import random_id
from shared.wire.requests import REQUEST_ID_HEADER

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("fedloom.access")
NO_ROUTE: Final = "none"  # in place of a pattern, where the request fits no route
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_ROUTE: Final = "fedloom.route"


class SlowBody(TryLater):
    """The body came too slowly, or not at all."""

    http_status = HTTPStatus.REQUEST_TIMEOUT


@dataclass
class Exchange:
    """One request and its answer.

    Attributes:
        method: in capitals, ``OTHER`` if it is none of HTTP's usual ones.
        route: the pattern of its path.
        status: of the answer, 0 if there was none.
        duration_s: from the first byte that was parsed to the last one sent, waiting included.
        received_bytes: of the request's body, as far as it was read.
        sent_bytes: of the answer's body.
    """

    method: str
    route: str = NO_ROUTE
    status: int = 0
    duration_s: float = 0.0
    received_bytes: int = 0
    sent_bytes: int = 0


Record = Callable[[Exchange], None]


def observe(app: Flask, random_bytes: Callable[[int], bytes], *records: Record) -> None:
    """Let every request of ``app`` have an id, a line in the log, and be shown to ``records`` when it is over."""

    @app.before_request
    def note_route() -> None:
        if request.url_rule is not None:
            request.environ[_ROUTE] = path_of(request.url_rule.rule)

    app.wsgi_app = _Observed(app.wsgi_app, random_bytes, (_log, *records))  # type: ignore[method-assign]  # as Flask says


def _log(exchange: Exchange) -> None:
    duration_ms = round(1000 * exchange.duration_s)
    log.info(
        "%s %s %d, %d bytes in %d ms",
        exchange.method,
        exchange.route,
        exchange.status,
        exchange.sent_bytes,
        duration_ms,
        extra=logs.fields(
            method=exchange.method,
            route=exchange.route,
            status=exchange.status,
            duration_ms=duration_ms,
            bytes=exchange.sent_bytes,
            received_bytes=exchange.received_bytes,
        ),
    )


class _Observed:
    def __init__(
        self, inner: WSGIApplication, random_bytes: Callable[[int], bytes], records: tuple[Record, ...]
    ) -> None:
        self._inner = inner
        self._random_bytes = random_bytes
        self._records = records

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started_s = time.monotonic()
        method = environ["REQUEST_METHOD"]
        exchange = Exchange(method if method in METHODS else "OTHER")
        name = random_id("request", self._random_bytes)
        logs.request_id.set(name)
        environ["wsgi.input"] = _Input(environ["wsgi.input"], exchange)

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:  # noqa: ANN401  # WSGI's
            exchange.status = int(status[:3])
            return start_response(status, [*headers, (REQUEST_ID_HEADER, name)], *error)

        def end() -> None:
            exchange.route = environ.get(_ROUTE, NO_ROUTE)
            exchange.duration_s = time.monotonic() - started_s
            for record in self._records:
                record(exchange)
            logs.request_id.set("")

        try:
            return _Output(self._inner(environ, start), exchange, end)
        except BaseException:
            end()
            raise


class _Input:
    """Counts what is read of a request's body."""

    def __init__(self, stream: IO[bytes], exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, size: int = -1) -> bytes:
        """Read; raises ``broken-body`` (UsageError) where that is not the body which was announced, or SlowBody."""
        try:
            data = self._stream.read(size)
        except TooSlow as error:
            raise SlowBody("too-slow", "The body came too slowly.", "it is tried again later") from error
        except (OSError, ParseException) as error:
            raise UsageError("broken-body", "The body ended early, or its chunks are not as HTTP has them.") from error
        self._exchange.received_bytes += len(data)
        return data


class _Output:
    """Counts what is sent of an answer's body, and says when that is over."""

    def __init__(self, pieces: Iterable[bytes], exchange: Exchange, end: Callable[[], None]) -> None:
        self._pieces = pieces
        self._exchange = exchange
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._exchange.sent_bytes += len(piece)
            yield piece

    def close(self) -> None:
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._end()

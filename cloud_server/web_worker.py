"""gunicorn's worker and logger: what cannot be parsed is a problem like any other, and there is one log."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import gevent
from gevent.server import StreamServer
from gunicorn import glogging, util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from cloud_server import logs
from cloud_server.api.limiting import EXTENSION
from cloud_server.api.problems import document
from cloud_server.proxies import limit_key
from cloud_server.web_connection import Connections, PacedSocket, TooSlow
from shared.ids import random_id
from shared.limits import MAX_HANDSHAKE_S
from shared.wire.requests import PROBLEM, REQUEST_ID_HEADER

log = logging.getLogger("fedloom.web")
# What could not even be parsed, by gunicorn's error: status, code, what happened.
_UNREADABLE: Final[dict[type[Exception], tuple[HTTPStatus, str, str]]] = {
    errors.LimitRequestLine: (HTTPStatus.REQUEST_URI_TOO_LONG, "target-too-long", "The request's target is too long."),
    errors.LimitRequestHeaders: (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "The request has too many headers, or too long ones.",
    ),
    TooSlow: (HTTPStatus.REQUEST_TIMEOUT, "too-slow", "The request came too slowly."),
    errors.ExpectationFailed: (HTTPStatus.EXPECTATION_FAILED, "bad-expectation", "The expectation cannot be met."),
}
_NOT_HTTP: Final = (HTTPStatus.BAD_REQUEST, "bad-http", "The request is not the HTTP that this server reads.")
_FAILED: Final = (HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", "The server failed; nothing was stored.")
_OUR_FAULT: Final = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName, errors.ConfigurationProblem)


def unreadable(error: BaseException) -> tuple[HTTPStatus, str, str]:
    """Return status, code and text of the problem for an error of gunicorn."""
    for kind, answer in _UNREADABLE.items():
        if isinstance(error, kind):
            return answer
    client_errors = (errors.ParseException, errors.ForbiddenProxyRequest, OSError)
    return _NOT_HTTP if isinstance(error, client_errors) and not isinstance(error, _OUR_FAULT) else _FAILED


class ProblemWorker(GeventWorker):  # type: ignore[misc]  # gunicorn is not typed
    """Answers what gunicorn cannot parse with a problem document, too."""

    def run(self) -> None:
        """Serve; what fails outside any request, TLS handshakes above all, is one line in the log, too."""
        gevent.get_hub().print_exception = _outside_requests
        limiter = self.wsgi.extensions[EXTENSION]
        self._proxies = limiter.limits.proxies
        self._connections = Connections(limiter.limits.connections_per_address)
        self.server_class = self._make_server
        super().run()

    def _make_server(self, listener: Any, *, ssl_context: Any, spawn: Any, **_: object) -> StreamServer:  # noqa: ANN401
        """Return what accepts connections, in gevent's form."""
        server = _BoundedServer(
            listener,
            connection=self._connection,
            handle=partial(self.handle, listener),
            spawn=spawn,
            ssl_context=ssl_context,
        )
        if self.cfg.workers > 1:
            server.max_accept = 1  # leaves the others theirs
        return server

    def _connection(self, peer: str) -> AbstractContextManager[bool]:
        """Count a connection, unless it is a proxy's, who counts its own."""
        trusted = self._proxies.trusts(peer)
        return nullcontext(enter_result=True) if trusted else self._connections.one(limit_key(peer))

    def handle(self, listener: Any, client: Any, address: Any) -> None:  # noqa: ANN401  # sockets
        """Answer the requests of a connection."""
        super().handle(listener, PacedSocket(client, within=_within), address)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:  # noqa: ANN401
        """Answer a request whose headers have come."""
        client.expect_body()
        try:
            super().handle_request(listener_name, request, client, address)
        finally:
            client.expect_head()

    def handle_error(self, _request: object, client: Any, _address: object, error: Exception) -> None:  # noqa: ANN401  # a socket
        """Answer, and close; the error's text, which quotes the request, goes nowhere."""
        status, code, text = unreadable(error)
        name = random_id("request", os.urandom)
        logs.request_id.set(name)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("a request failed: %s", type(error).__name__, extra=logs.where(error))
        else:
            log.info("no request: %s", code, extra=logs.fields(code=code))
        body = document(status, code, text)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: {PROBLEM}\r\n"
            f"Content-Length: {len(body)}\r\n{REQUEST_ID_HEADER}: {name}\r\n\r\n"
        )
        logs.request_id.set("")
        try:
            util.write_nonblock(client, head.encode("ascii") + body)
        except OSError:
            log.debug("nobody waits for the answer")


def _within(seconds: float | None) -> AbstractContextManager[object]:
    """End a block with TimeoutError after so many seconds."""
    return cast("AbstractContextManager[object]", gevent.Timeout(seconds, TimeoutError("it took too long")))


class _BoundedServer(StreamServer):  # type: ignore[misc]  # gevent is not typed
    """Accepts as many connections of an address as ``connection`` lets it, with a time limit for TLS."""

    def __init__(
        self,
        listener: Any,  # noqa: ANN401  # a socket
        *,
        connection: Callable[[str], AbstractContextManager[bool]],
        **options: Any,  # noqa: ANN401  # gevent's
    ) -> None:
        super().__init__(listener, **options)
        self._connection = connection

    def wrap_socket_and_handle(self, client: Any, address: Any) -> None:  # noqa: ANN401  # as gevent calls it
        """Serve a connection, or close it before it costs anything."""
        with closing(client), self._connection(address[0]) as admitted:
            if not admitted:
                log.info("no connection: its address has too many")
                return
            with _within(MAX_HANDSHAKE_S):
                wrapped = self.wrap_socket(client, **self.ssl_args)
            with closing(wrapped):
                self.handle(wrapped, address)


def _outside_requests(_context: object, kind: type[BaseException], error: BaseException, _frames: object) -> None:
    if issubclass(kind, OSError):  # ssl.SSLError is one
        log.info("a connection ended before its first request: %s", kind.__name__)
    else:
        log.error("a greenlet failed: %s", kind.__name__, extra=logs.where(error))


class OneLog(glogging.Logger):  # type: ignore[misc]  # gunicorn is not typed
    """Hands gunicorn's own messages to the processes' log."""

    def setup(self, cfg: object) -> None:
        """Set up, also in the process that starts the workers."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logs.set_up_logging()

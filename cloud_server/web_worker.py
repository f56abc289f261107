"""gunicorn's worker and logger: what cannot be parsed is a problem like any other, and there is one log."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import gevent
from gevent.threadpool import ThreadPool
from gunicorn import glogging, util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from cloud_server import logs
from cloud_server.api.problems import document
from shared.ids import random_id
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
        super().run()

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


def _outside_requests(_context: object, kind: type[BaseException], error: BaseException, _frames: object) -> None:
    if issubclass(kind, OSError):  # ssl.SSLError is one
        log.info("a connection ended before its first request: %s", kind.__name__)
    else:
        log.error("a greenlet failed: %s", kind.__name__, extra=logs.where(error))


@lru_cache(maxsize=1)
def _thread() -> ThreadPool:
    return ThreadPool(1)  # made after the worker was forked


def in_a_thread(function: Callable[[], None]) -> None:
    """Run a function in a thread of its own, one after another, while this worker reads further requests."""
    _thread().apply(function)


class OneLog(glogging.Logger):  # type: ignore[misc]  # gunicorn is not typed
    """Hands gunicorn's own messages to the processes' log."""

    def setup(self, cfg: object) -> None:
        """Set up, also in the process that starts the workers."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logs.set_up_logging()

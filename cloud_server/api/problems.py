"""Errors as problem details (RFC 9457): one code per cause, what happened, what to try, nothing secret."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from cloud_server import logs
from cloud_server.storage.failures import failure_of
from shared.errors import FedloomError, TooManyRequests
from shared.wire.canonical import Json, encode
from shared.wire.requests import PROBLEM

log = logging.getLogger("fedloom.web")


def document(status: int, code: str, detail: str, remedy: str = "", **more: Json) -> bytes:
    """Return the body of a problem, with ``more`` fields; ``instance`` names the request, as the log does."""
    fields: dict[str, Json] = {
        "type": f"urn:fedloom:problem:{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": detail,
        "try": remedy,
        **more,
    }
    if name := logs.request_id.get():
        fields["instance"] = f"urn:fedloom:{name.replace('-', ':', 1)}"
    return encode(fields)


def problem(status: int, code: str, detail: str, remedy: str = "") -> Response:
    """Return a problem document."""
    return Response(document(status, code, detail, remedy), status=status, content_type=PROBLEM)


def register(app: Flask) -> None:
    """Turn every exception of ``app`` into a problem document."""
    for kind in (FedloomError, HTTPException, OSError, DBAPIError, PoolTimeout, Exception):
        app.register_error_handler(kind, answer)


def answer(error: Exception) -> Response:
    """Return the problem document of an exception, and log what happened."""
    if isinstance(error, FedloomError):
        return _named(error)
    if isinstance(error, HTTPException):
        code = (error.name or "error").lower().replace(" ", "-")
        return problem(error.code or 500, code, error.description or "")
    if isinstance(error, DataError):
        # PostgreSQL stores no NUL in a text: nothing is wrong with it, and trying again does not help.
        log.info("%s %s: %s", request.method, request.endpoint, failure_of(error))
        return problem(400, "bad-value", "The request has a text or number that cannot be stored.", "mend it")
    if isinstance(error, OSError | DBAPIError | PoolTimeout):
        # Nothing was acknowledged, so the same request may be sent again.
        log.error("%s %s: %s", request.method, request.endpoint, failure_of(error))
        return problem(503, "storage-unavailable", "The server cannot store anything now.", "it is tried again later")
    kind = type(error).__name__
    log.error("%s %s: %s", request.method, request.endpoint, kind, extra=logs.where(error))
    return problem(500, "internal-error", "The server failed; nothing was stored.", "try again later")


def _named(error: FedloomError) -> Response:
    # The route and not the path, in which a stranger could write line breaks.
    log.info("%s: %s", request.endpoint, error.code, extra=logs.fields(code=error.code))
    if not isinstance(error, TooManyRequests):
        return problem(error.http_status, error.code, error.message, error.remedy)
    wait_ms = error.retry_after_ms
    body = document(error.http_status, error.code, error.message, error.remedy, retry_after_ms=wait_ms)
    response = Response(body, status=error.http_status, content_type=PROBLEM)
    response.headers["Retry-After"] = str(-(-wait_ms // 1000))
    return response

"""Who sends a request: the proof that it is a device's own."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, ParamSpec, TypeVar

from flask import g, request
from sqlalchemy import Row

from cloud_server.api.context import context
from cloud_server.api.limiting import limiter
from cloud_server.api.policy import stating
from cloud_server.devices import Request
from shared.errors import Unauthenticated, UsageError
from shared.limits import MAX_JSON_BYTES
from shared.wire.canonical import MAX_SAFE_INTEGER, octets_from_text, sha256
from shared.wire.requests import (
    BODY_HEADER,
    COUNTER_HEADER,
    DEVICE_HEADER,
    JSON,
    SIGNATURE_HEADER,
    request_message,
)
from shared.wire.signed import SIGNATURE_BYTES, verify

P = ParamSpec("P")
R = TypeVar("R")
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class UnsupportedType(UsageError):
    """The body is of another type, or packed, and was not read."""

    http_status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


@dataclass(frozen=True)
class Caller:
    """The device that sent the current request.

    Attributes:
        device: its pseudonym.
        task: the task that it is enrolled in.
        body_sha256: hexadecimal; a body that is streamed must match it.
        row: what is known of it, see ``KNOWN``; as it was before this request.
    """

    device: str
    task: str
    body_sha256: str
    row: Row[*tuple[Any, ...]]


def for_devices(view: Callable[P, R]) -> Callable[P, R]:
    """Let only enrolled devices call a route, each request once."""

    @stating("device")
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        g.caller = _authenticate()
        return view(*args, **kwargs)

    return guarded


def caller() -> Caller:
    """Return the device that sent the current request."""
    found = g.caller
    if not isinstance(found, Caller):
        raise TypeError("the route has no device policy")
    return found


def require_type(media_type: str) -> None:
    """Refuse a body that says that it is something else, or that it must be unpacked first.

    Raises:
        UnsupportedType: ``wrong-content-type`` or ``content-encoded``.
    """
    if request.content_type is not None and request.mimetype != media_type:
        raise UnsupportedType("wrong-content-type", f"The body should be {media_type}.")
    if "Content-Encoding" in request.headers:
        raise UnsupportedType("content-encoded", "The body is packed; this server unpacks nothing.")


def body() -> bytes:
    """Return the request's whole body, JSON, checked against the hash that was signed.

    Raises:
        UsageError: ``body-too-large`` or ``body-hash``; UnsupportedType as ``require_type``.
    """
    require_type(JSON)
    data = request.stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise UsageError("body-too-large", f"The body is larger than {MAX_JSON_BYTES} bytes.")
    signed = g.caller.body_sha256 if "caller" in g else None
    if signed is not None and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), signed):
        raise UsageError("body-hash", "The body is not the one that was signed.")
    return data


def _authenticate() -> Caller:
    name = request.headers.get(DEVICE_HEADER, "")
    counter = _counter(request.headers.get(COUNTER_HEADER, ""))
    body_sha256 = request.headers.get(BODY_HEADER, "")
    signature = octets_from_text(request.headers.get(SIGNATURE_HEADER, ""))
    if not _SHA256.fullmatch(body_sha256) or len(signature) != SIGNATURE_BYTES:
        raise Unauthenticated("unsigned-request", "The request is not signed.", "use fedloom-agent")
    parts = context()
    key = parts.identity_keys.of(name)
    target = request.full_path if request.query_string else request.path
    message = request_message(parts.root.fingerprint, name, counter, request.method, target, body_sha256)
    verify(key, message, signature, "the request")
    limiter().charge_device(name)
    taken = parts.acceptor.accept(Request(name, counter, sha256(message).hex(), parts.clock.now_s()))
    limiter().proven(request.remote_addr or "")
    return Caller(name, taken.task, body_sha256, taken)


def _counter(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 17) or int(text) > MAX_SAFE_INTEGER:
        raise Unauthenticated("unsigned-request", "The request has no counter.", "use fedloom-agent")
    return int(text)

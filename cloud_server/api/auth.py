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
from cloud_server.device_keys import made_by, unknown
from cloud_server.devices import Request, take_key
from shared.errors import FedloomError, Unauthenticated, UsageError
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
from shared.wire.signed import SIGNATURE_BYTES, Certificate, verify

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


def body(claim: Claim | None = None) -> bytes:
    """Return the request's whole body, JSON, checked against the hash that was signed.

    Args:
        claim: where the route authenticates its caller by what is in the body.

    Raises:
        UsageError: ``body-too-large`` or ``body-hash``; UnsupportedType as ``require_type``.
    """
    require_type(JSON)
    data = request.stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise UsageError("body-too-large", f"The body is larger than {MAX_JSON_BYTES} bytes.")
    signed = claim.body_sha256 if claim else g.caller.body_sha256 if "caller" in g else None
    if signed is not None and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), signed):
        raise UsageError("body-hash", "The body is not the one that was signed.")
    return data


@dataclass(frozen=True)
class Claim:
    """What the headers of a signed request say; nothing is verified yet.

    Attributes:
        device: the pseudonym.
        counter: larger than in every request before.
        body_sha256: hexadecimal.
        signature: 64 octets.
        message: that was signed.
    """

    device: str
    counter: int
    body_sha256: str
    signature: bytes
    message: bytes

    @classmethod
    def read(cls) -> Claim:
        """Read the current request's headers.

        Raises:
            Unauthenticated: ``unsigned-request``; ``unknown-device`` for a name that no device can have.
            UsageError: ``bad-octets``.
        """
        name = request.headers.get(DEVICE_HEADER, "")
        counter = _counter(request.headers.get(COUNTER_HEADER, ""))
        body_sha256 = request.headers.get(BODY_HEADER, "")
        signature = octets_from_text(request.headers.get(SIGNATURE_HEADER, ""))
        if not _SHA256.fullmatch(body_sha256) or len(signature) != SIGNATURE_BYTES:
            raise Unauthenticated("unsigned-request", "The request is not signed.", "use fedloom-agent")
        if not name.isprintable():
            raise unknown()
        target = request.full_path if request.query_string else request.path
        fingerprint = context().root.fingerprint
        message = request_message(fingerprint, name, counter, request.method, target, body_sha256)
        return cls(name, counter, body_sha256, signature, message)

    def verify(self, key: bytes) -> None:
        """Raise ``bad-signature`` (Unauthenticated) unless ``key`` signed the request."""
        verify(key, self.message, self.signature, "the request")

    def signed_by(self, key: bytes) -> Request:
        """Return the request that ``key`` was seen to have signed."""
        return Request(self.device, self.counter, sha256(self.message).hex(), context().clock.now_s(), key)


def _authenticate() -> Caller:
    claim, parts = Claim.read(), context()
    key = parts.identity_keys.of(claim.device)
    try:
        claim.verify(key)
    except Unauthenticated:
        key = _newer_key(claim, key)
    limiter().charge_device(claim.device)
    try:
        taken = parts.acceptor.accept(claim.signed_by(key))
    except FedloomError:
        parts.identity_keys.forget(claim.device)  # another process may have taken a newer key
        raise
    limiter().proven(request.remote_addr or "")
    return Caller(claim.device, taken.task, claim.body_sha256, taken)


def _newer_key(claim: Claim, known: bytes) -> bytes:
    """Return the key that signed a request, where another process has taken it.

    Raises:
        Unauthenticated: ``bad-signature``, or ``key-superseded`` where the device had the key before. That is not
            charged to the device: whoever has an old key must not be in its way.
    """
    parts = context()
    newest = parts.identity_keys.newest(claim.device)
    if newest == known or not made_by(newest, claim.message, claim.signature):
        former = parts.identity_keys.former(claim.device, claim.message, claim.signature)
        if former is not None:
            parts.acceptor.accept(claim.signed_by(former))
        claim.verify(newest)
    return newest


def take_certificate(claim: Claim, certificate: Certificate) -> None:
    """Take a signed request that shows its signer's certificate, and let a newer key count from then on.

    Raises:
        Unauthenticated: ``bad-signature``, ``wrong-device``, ``key-superseded`` or as every signed request.
        FedloomError: as every signed request.
    """
    parts = context()
    claim.verify(certificate.identity_key)
    if certificate.device != claim.device:
        raise Unauthenticated("wrong-device", "The certificate is another device's.")
    if not parts.identity_keys.is_former(certificate):  # else its holder must not be in the device's way
        limiter().charge_device(claim.device)
    with parts.database.write() as connection:
        taken = take_key(connection, claim.signed_by(certificate.identity_key), certificate)
    parts.identity_keys.forget(claim.device)
    if isinstance(taken, Exception):
        raise taken
    limiter().proven(request.remote_addr or "")


def _counter(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 17) or int(text) > MAX_SAFE_INTEGER:
        raise Unauthenticated("unsigned-request", "The request has no counter.", "use fedloom-agent")
    return int(text)

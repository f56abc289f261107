"""Enrolment: the root document for everybody, a certificate for a code."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import insert, select

from cloud_server import audit
from cloud_server.api.auth import Claim, body, caller, for_devices, take_certificate
from cloud_server.api.context import Context, context
from cloud_server.api.policy import public, stating
from cloud_server.authority.renewal import verified_renewal
from cloud_server.devices import require_active, set_state
from cloud_server.storage.schema import device
from cloud_server.tasks import load_task
from shared.errors import Refused
from shared.wire.canonical import Fields, decode
from shared.wire.messages import EnrolRequest, RenewalRequest, read_signed, write_signed
from shared.wire.requests import ADMIT, CERTIFICATE, ENROL, JSON, LEAVE, RENEW, ROOT
from shared.wire.signed import Certificate

blueprint = Blueprint("enrolment", __name__)


@blueprint.get(ROOT)
@public
def root() -> Response:
    """Return the document whose fingerprint enrolment codes carry."""
    return Response(context().root.to_bytes(), content_type=JSON)


@blueprint.post(ENROL)
@public
def enrol() -> Response:
    """Redeem a code."""
    parts = context()
    certificate = parts.authority.redeem(EnrolRequest.from_bytes(body()), parts.root.fingerprint)
    _admit(parts, certificate)
    return Response(write_signed("certificate", certificate.signed), content_type=JSON)


@blueprint.post(ADMIT)
@public
def admit() -> Response:
    """Let a device in that redeemed its code at an authority elsewhere."""
    parts = context()
    _admit(parts, _current(parts, body()))
    return Response(b"{}", content_type=JSON)


@blueprint.post(RENEW)
@public
def renew() -> Response:
    """Certify a device's next key, which the one in its certificate and itself have signed for."""
    parts, request = context(), RenewalRequest.from_bytes(body())
    certificate = verified_renewal(request, parts.root.fingerprint, parts.authority.public_key)
    with parts.database.read() as connection:
        require_active(connection, certificate.device)
    renewed = parts.authority.renew(request, parts.root.fingerprint)
    return Response(write_signed("certificate", renewed.signed), content_type=JSON)


@blueprint.post(CERTIFICATE)
@stating("device")
def show_certificate() -> Response:
    """Take the certificate of the key that signs this request; from then on only that one counts for the device."""
    parts, claim = context(), Claim.read()
    parts.identity_keys.of(claim.device)
    take_certificate(claim, _current(parts, body(claim)))
    return Response(b"{}", content_type=JSON)


@blueprint.post(LEAVE)
@for_devices
def leave() -> Response:
    """Let the caller take part no more, for good: its owner gives its identity up."""
    parts, name = context(), caller().device
    fields = Fields(decode(body()), "leaving")
    fields.choice("device", (name,))  # it cannot be undone: no request means it by accident
    fields.end()
    now_s = parts.clock.now_s()
    with parts.database.write() as connection:
        set_state(connection, name, "revoked", "the device left", now_s, actor="device")
    return Response(b"{}", content_type=JSON)


def _current(parts: Context, data: bytes) -> Certificate:
    """Return the certificate in a body.

    Raises:
        Unauthenticated: ``bad-signature`` where another authority signed it.
        Refused: ``expired-certificate``.
    """
    certificate = Certificate.verified(read_signed(data, "certificate"), parts.authority.public_key)
    if certificate.expires_at_s < parts.clock.now_s():
        raise Refused("expired-certificate", "The certificate has expired.", "enrol with a new code")
    return certificate


def _admit(parts: Context, certificate: Certificate) -> None:
    """Let the certified device send requests; once is enough.

    It is in the audit log, and anchored before the device is answered: a restore from before would let its code be
    redeemed by another key, and know nothing of the device.

    Raises:
        Missing: ``task-unknown``, where an authority elsewhere made codes for a task that was never created here.
    """
    with parts.recorded() as connection:
        load_task(connection, certificate.task)
        if connection.execute(select(device.c.device).where(device.c.device == certificate.device)).one_or_none():
            return
        now_s = parts.clock.now_s()
        connection.execute(
            insert(device).values(
                device=certificate.device,
                task=certificate.task,
                certificate=certificate.signed.to_bytes(),
                identity_key=certificate.identity_key,
                enrolled_s=now_s,
                counter=0,
                last_request="",
                last_seen_s=0.0,
                version=-1,
                code_group=certificate.group,
                serial=certificate.serial,
            )
        )
        detail = {"task": certificate.task, "group": certificate.group}
        audit.record(connection, now_s, "device", "device-enrolled", certificate.device, detail)

"""Enrolment: the root document for everybody, a certificate for a code."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import insert, select

from cloud_server.api.auth import body
from cloud_server.api.context import Context, context
from cloud_server.api.policy import public
from cloud_server.storage.schema import device
from cloud_server.tasks import load_task
from shared.errors import Refused
from shared.wire.messages import EnrolRequest, read_signed, write_signed
from shared.wire.requests import ADMIT, ENROL, JSON, ROOT
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
    certificate = Certificate.verified(read_signed(body(), "certificate"), parts.authority.public_key)
    if certificate.expires_at_s < parts.clock.now_s():
        raise Refused("expired-certificate", "The certificate has expired.", "enrol with a new code")
    _admit(parts, certificate)
    return Response(b"{}", content_type=JSON)


def _admit(parts: Context, certificate: Certificate) -> None:
    """Let the certified device send requests; once is enough.

    Raises:
        Missing: ``task-unknown``, where an authority elsewhere made codes for a task that was never created here.
    """
    with parts.database.write() as connection:
        load_task(connection, certificate.task)
        if connection.execute(select(device.c.device).where(device.c.device == certificate.device)).one_or_none():
            return
        connection.execute(
            insert(device).values(
                device=certificate.device,
                task=certificate.task,
                certificate=certificate.signed.to_bytes(),
                identity_key=certificate.identity_key,
                enrolled_s=parts.clock.now_s(),
                counter=0,
                last_request="",
                last_seen_s=0.0,
                version=-1,
                code_group=certificate.group,
            )
        )

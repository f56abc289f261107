"""Who may have a next certificate: the holder of the key in the newest one, who also holds the next key."""

from __future__ import annotations

from shared.errors import Refused, Unauthenticated
from shared.wire.messages import RenewalRequest
from shared.wire.requests import renewal_message
from shared.wire.signed import MAX_SERIAL, Certificate, verify


def verified_renewal(request: RenewalRequest, fingerprint: bytes, authority_key: bytes) -> Certificate:
    """Return the certificate in a request that both keys have signed.

    Args:
        request: from a device.
        fingerprint: of the root document that the device pins.
        authority_key: that signed its certificate.

    Raises:
        Unauthenticated: ``bad-signature`` of the certificate or of one of the two keys.
        UsageError: for a malformed certificate.
        Refused: ``too-many-keys``.
    """
    certificate = Certificate.verified(request.certificate, authority_key)
    if certificate.serial == MAX_SERIAL:
        raise Refused("too-many-keys", "This device has had as many keys as one may have.", "enrol with a new code")
    message = renewal_message(fingerprint, request.certificate.body, certificate.serial + 1, request.identity_key)
    verify(certificate.identity_key, message, request.signature, "the renewal by the key so far")
    verify(request.identity_key, message, request.proof, "the renewal by the next key")
    return certificate


def already_renewed() -> Unauthenticated:
    """Return the error for a certificate in whose place another one was issued."""
    return Unauthenticated(
        "key-superseded",
        "Another key has been certified for this device in the place of this one.",
        "unless this is an old copy of the device's state, somebody else has its identity: tell the operator, and then"
        " `fedloom-agent leave` and enrol with a new code",
    )

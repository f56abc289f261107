"""One signed document or message of every kind."""

from __future__ import annotations

from typing import Final

from shared.secagg.graph_seed import GRAPH_SEED_DOMAIN, GraphSeed
from shared.secagg.keys import KeyPair
from shared.secagg.roster import JOIN_DOMAIN, make_member
from shared.secagg.session import agreement_message
from shared.secagg.signed_inbox import inbox_message
from shared.wire.canonical import sha256
from shared.wire.requests import enrolment_message, renewal_message, request_message, seed_request_message
from shared.wire.signed import CERTIFICATE_DOMAIN, Certificate, Signed, SigningKey
from tools.vectors.cohort import AUTHORITY, PLAIN, certificate_of, identity_of
from tools.vectors.document import Case, Document, octets_for

_RELEASE_KEY: Final = SigningKey(octets_for("release key"))
_NEXT_KEY: Final = SigningKey(octets_for("next identity 0"))


def signatures() -> Document:
    """Return the file's content."""
    return {"documents": [*_documents()], "messages": [*_messages()]}


def _documents() -> list[Case]:
    certificate, device = certificate_of(0), identity_of(0)
    channel, mask = (KeyPair.of(octets_for(f"{kind} of a document")).public for kind in ("channel", "mask"))
    member = make_member(device, certificate, PLAIN.binding, channel_key=channel, mask_key=mask)
    seed = GraphSeed.issue(
        AUTHORITY, cohort=PLAIN.cohort, roster_root=octets_for("roster root"), seed=octets_for("graph seed")
    )
    return [
        _document("certificate", AUTHORITY, CERTIFICATE_DOMAIN, certificate.signed),
        _document("renewed certificate", AUTHORITY, CERTIFICATE_DOMAIN, _renewed(certificate).signed),
        _document("join", device, JOIN_DOMAIN, member.join),
        _document("graph seed", AUTHORITY, GRAPH_SEED_DOMAIN, seed.signed),
    ]


def _renewed(before: Certificate) -> Certificate:
    """Return the certificate of the same device's next key, of a group."""
    return Certificate.issue(
        AUTHORITY,
        task=before.task,
        device=before.device,
        identity_key=_NEXT_KEY.public,
        expires_at_s=before.expires_at_s,
        group="kitchen",
        serial=1,
    )


def _document(kind: str, key: SigningKey, domain: str, signed: Signed) -> Case:
    return {
        "kind": kind,
        "secret": key.secret.hex(),
        "public": key.public.hex(),
        "domain": domain,
        "body": signed.body.decode(),
        "signature": signed.signature.hex(),
    }


def _messages() -> list[Case]:
    device, fingerprint, sid = identity_of(0), octets_for("root fingerprint"), octets_for("sid")
    root, target, body = octets_for("roster root"), "/v1/cohorts/cohort-a/join", b'{"a":1}'
    request = request_message(fingerprint, "device-000", 7, "PUT", target, sha256(body).hex())
    enrolment = enrolment_message(fingerprint, octets_for("secret of a code"), device.public)
    renewal = renewal_message(fingerprint, certificate_of(0).signed.body, 1, _NEXT_KEY.public)
    return [
        _message("agreement", device, agreement_message(sid, bytes([0b10111]))),
        _message("inbox", device, inbox_message(sid, 0, bytes([0b1110]))),
        _message("request", device, request),
        _message("seed request", _RELEASE_KEY, seed_request_message(PLAIN.cohort, root)),
        _message("enrolment", device, enrolment),
        _message("renewal by the key so far", device, renewal),
        _message("renewal by the next key", _NEXT_KEY, renewal),
    ]


def _message(kind: str, key: SigningKey, message: bytes) -> Case:
    return {
        "kind": kind,
        "secret": key.secret.hex(),
        "public": key.public.hex(),
        "message": message.hex(),
        "signature": key.sign(message).hex(),
    }

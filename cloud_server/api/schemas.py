"""JSON Schemas of the bodies that travel (JSON Schema 2020-12), for the OpenAPI document.

They say what a well-formed body is; ``shared/wire/messages.py`` reads them, and refuses more than a schema can say.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from shared.limits import MAX_COHORT_MEMBERS, MAX_MEMORY_MIB, MAX_RETRY_AFTER_MS, MAX_VECTOR_BYTES
from shared.release import MAX_VERSION
from shared.secagg.roster import Purpose
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.shares import SECRET_BYTES
from shared.wire.messages import Action, Reason
from shared.wire.signed import PUBLIC_KEY_BYTES, SIGNATURE_BYTES

Schema = dict[str, Any]
_SIGN: Final = "[A-Za-z0-9_-]"
_LAST: Final = ("", "[AQgw]", "[AEIMQUYcgkosw048]")  # after so many octets: unused bits are 0


def octets(length: int | None = None, text: str = "") -> Schema:
    """Return the schema of ``length`` octets, or any number, as base64url without padding."""
    schema: Schema = {"type": "string", "description": text or "Octets as base64url without padding."}
    if length is None:
        return schema | {"pattern": f"^({_SIGN}{{4}})*({_SIGN}[AQgw]|{_SIGN}{{2}}[AEIMQUYcgkosw048])?$"}
    return schema | {"pattern": f"^{_SIGN}{{{length * 4 // 3}}}{_LAST[length % 3]}$"}


def closed(**properties: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def by_index(length: int | None) -> Schema:
    """Return the schema of octets by roster index."""
    return {
        "type": "object",
        "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,3})$"},
        "additionalProperties": octets(length),
        "maxProperties": MAX_COHORT_MEMBERS,
    }


def whole(low: int, high: int, text: str = "") -> Schema:
    """Return the schema of an integer in ``low .. high``."""
    return {"type": "integer", "minimum": low, "maximum": high} | ({"description": text} if text else {})


def ref(name: str) -> Schema:
    """Return a reference to one of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


_COHORT: Final[Schema] = {"type": "string", "maxLength": 64}
SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": {
        "description": "Problem details (RFC 9457). `code` is the contract; `detail` and `try` are for people.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "pattern": "^urn:fedloom:problem:[a-z0-9-]+$"},
            "title": {"type": "string"},
            "status": whole(400, 599),
            "code": {"type": "string", "pattern": "^[a-z0-9-]{1,64}$"},
            "detail": {"type": "string", "minLength": 1},
            "try": {"type": "string"},
            "instance": {"type": "string", "pattern": "^urn:fedloom:request:[0-9a-f]{32}$"},
            "retry_after_ms": whole(0, MAX_RETRY_AFTER_MS, "When to come back; of `too-many-requests` alone."),
        },
        "required": ["type", "title", "status", "code", "detail", "try", "instance"],
        "additionalProperties": False,
    },
    "Signed": closed(body=octets(), signature=octets(SIGNATURE_BYTES)),
    "Root": {
        "type": "object",
        "properties": {
            "format": {"const": "fedloom-root-1"},
            "authority_key": octets(PUBLIC_KEY_BYTES),
            "release_key": octets(PUBLIC_KEY_BYTES),
            "tls_root_pem_octets": octets(),
            "authority_url": {"type": "string"},
            "authority_tls_root_pem_octets": octets(),
        },
        "required": ["format", "authority_key", "release_key", "tls_root_pem_octets"],
        "additionalProperties": False,
    },
    "EnrolRequest": closed(
        secret=octets(), identity_key=octets(PUBLIC_KEY_BYTES), proof=octets(SIGNATURE_BYTES, "Ed25519, by that key.")
    ),
    "RenewalRequest": closed(
        certificate=ref("Signed"),
        identity_key=octets(PUBLIC_KEY_BYTES, "The next one."),
        signature=octets(SIGNATURE_BYTES, "Ed25519, by the key in the certificate."),
        proof=octets(SIGNATURE_BYTES, "Ed25519, by the next key."),
    ),
    "SignedCertificate": closed(certificate=ref("Signed")),
    "CheckIn": closed(
        version=whole(-1, MAX_VERSION, "That the device uses, -1 before the first."),
        memory_mib=whole(0, MAX_MEMORY_MIB, "That the device has."),
        declined=whole(0, MAX_VERSION, "Round in which the device will not take part, 0 for none."),
        declined_evaluation=whole(0, MAX_VERSION, "Promotion that the device will not evaluate, 0 for none."),
    ),
    "Assignment": closed(
        action={"enum": list(get_args(Action))},
        version=whole(0, MAX_VERSION, "The newest; the candidate where it is to evaluate."),
        round=whole(0, MAX_VERSION, "Or the promotion."),
        decision=whole(0, MAX_VERSION, "Sequence of the release decision, 0 where the newest version is used."),
        release_key=whole(0, MAX_VERSION, "Number of the key that signs releases, 0 for the root document's."),
        reason={"enum": list(get_args(Reason)), "description": "Why the device waits."},
        retry_after_ms=whole(0, MAX_RETRY_AFTER_MS),
    ),
    "ComeBack": closed(retry_after_ms=whole(0, MAX_RETRY_AFTER_MS)),
    "Leaving": closed(device={"type": "string", "description": "The sender's own pseudonym."}),
    "Rendezvous": closed(
        version=whole(0, MAX_VERSION, "That the device trained from, or evaluated."),
        purpose={"enum": list(get_args(Purpose))},
    ),
    "SignedDecision": closed(decision=ref("Signed")),
    "SignedReleaseKey": closed(release_key=ref("Signed")),
    "Meeting": closed(cohort=_COHORT, expires_at_s=whole(0, 253_402_300_799)),
    "Release": closed(
        release=octets(text="The exact bytes of release.json."), signature=octets(SIGNATURE_BYTES, "Ed25519, detached.")
    ),
    "Join": closed(join=ref("Signed"), certificate=ref("Signed")),
    "Shares": closed(commitment=octets(32), boxes=by_index(SEALED_BYTES)),
    "Agreement": closed(signature=octets(SIGNATURE_BYTES)),
    "Answer": closed(self_mask=by_index(SECRET_BYTES), mask_key=by_index(SECRET_BYTES)),
    "Nothing": closed(),
    "Received": closed(received_bytes=whole(0, MAX_VECTOR_BYTES, "Of the vector, on disk.")),
    "Roster": {
        "type": "object",
        "properties": {
            "members": {"type": "array", "items": ref("Join"), "maxItems": MAX_COHORT_MEMBERS},
            "seed": ref("Signed"),
        },
        "required": ["members"],
        "additionalProperties": False,
    },
    "Inbox": closed(boxes=by_index(SEALED_BYTES)),
    "Survivors": closed(bitmap=octets()),
    "Agreements": closed(signatures=by_index(SIGNATURE_BYTES), inboxes=by_index(None)),
    "Outcome": closed(counted={"enum": ["yes", "no"]}),
    "Health": closed(status={"enum": ["alive", "ready"]}),
}

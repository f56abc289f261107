"""Rosters of the first session that device 0 must refuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from shared.secagg.graph_seed import GraphSeed
from shared.secagg.keys import KeyPair
from shared.secagg.roster import CohortBinding, Member, make_member
from shared.wire.canonical import Json
from shared.wire.signed import Certificate, SigningKey
from tools.vectors.cohort import AUTHORITY, EXPIRES_AT_S, MEMBERS, NOW_S, PLAIN, Cohort, certificate_of, identity_of
from tools.vectors.document import Case, octets_for

VICTIM: Final = 0
FIELD_PRIME: Final = 2**255 - 19
LOW_ORDER: Final = {
    "zero": 0,
    "one": 1,
    "of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "another of order 8": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "minus one": FIELD_PRIME - 1,
}
LONG_FORMS: Final = {"nine, in its second form": FIELD_PRIME + 9, "with bit 255 set": 2**255 + 9}


def case(comment: str, code: str, *steps: str, **messages: Json) -> Case:
    """Return a case: ``messages`` take the place of the session's; the last of ``steps`` fails."""
    return {"comment": comment, "code": code, "device": VICTIM, "steps": [*steps], **messages}


def stranger(
    number: int = 4,
    *,
    binding: CohortBinding = PLAIN.binding,
    certificate: Certificate | None = None,
    signer: int | None = None,
    channel: bytes | None = None,
    mask: bytes | None = None,
) -> Member:
    """Return a well-signed roster entry in place of a member's."""
    return make_member(
        identity_of(number if signer is None else signer),
        certificate or certificate_of(number),
        binding,
        channel_key=channel or KeyPair.of(octets_for(f"channel of a stranger {number}")).public,
        mask_key=mask or KeyPair.of(octets_for(f"mask of a stranger {number}")).public,
    )


def _roster(comment: str, code: str, *entries: Json, **others: Json) -> Case:
    """Return a case whose roster has ``entries``, a number standing for the session's own entry."""
    return case(comment, code, "share", roster={"members": [*entries], **others})


def _instead(comment: str, code: str, entry: Member) -> Case:
    return _roster(comment, code, *range(MEMBERS - 1), entry.to_json())


def refused_rosters(cohort: Cohort) -> list[Case]:
    """Return the cases."""
    return [*_foreign(), *_identities(), *_keys(cohort), *_wholes(cohort)]


def _foreign() -> Iterator[Case]:
    ours, other = PLAIN.binding, octets_for("something else")
    yield _instead("another plan", "other-plan", stranger(binding=replace(ours, plan_sha256=other)))
    yield _instead("another model", "other-model", stranger(binding=replace(ours, model_sha256=other)))
    yield _instead("another cohort", "other-cohort", stranger(binding=replace(ours, cohort="cohort-z")))
    yield _instead("another expiry", "other-cohort", stranger(binding=replace(ours, expires_at_s=EXPIRES_AT_S + 1)))
    yield _instead("another task", "other-task", stranger(certificate=certificate_of(4, task="other")))


def _identities() -> Iterator[Case]:
    server = SigningKey(octets_for("the server itself"))
    forged = certificate_of(4, authority=server)
    yield _instead("a certificate by another authority", "bad-signature", stranger(certificate=forged))
    yield _instead("a join message signed by another member", "bad-signature", stranger(signer=2))
    expired = certificate_of(4, expires_at_s=NOW_S - 1)
    yield _instead("an expired certificate", "expired-certificate", stranger(certificate=expired))
    yield case("an expired cohort", "expired-certificate", "share", now_s=EXPIRES_AT_S + 1)
    honest = certificate_of(4)
    renamed = stranger(certificate=replace(honest, device="device-009"))
    yield _instead("a join message for another name", "wrong-device", replace(renamed, certificate=honest))


def _keys(cohort: Cohort) -> Iterator[Case]:
    same = KeyPair.of(octets_for("one key for both")).public
    yield _instead("one key for sealing and masking", "same-keys", stranger(channel=same, mask=same))
    taken = cohort.roster.members[1].mask_key
    yield _instead("another member's key", "duplicate-member", stranger(mask=taken))
    for comment, coordinate in {**LOW_ORDER, **LONG_FORMS}.items():
        key = coordinate.to_bytes(32, "little")
        yield _instead(f"a mask key: {comment}", "bad-public-key", stranger(mask=key))
    low = LOW_ORDER["of order 8"].to_bytes(32, "little")
    yield _instead("a channel key: of order 8", "bad-public-key", stranger(channel=low))


def _wholes(cohort: Cohort) -> Iterator[Case]:
    everybody = range(MEMBERS)
    yield _roster("a member twice", "duplicate-member", *everybody, 4)
    yield _roster("a device with two join messages", "duplicate-member", *everybody, stranger().to_json())
    yield _roster("this device is missing", "not-in-roster", *range(1, MEMBERS))
    replaced = stranger(VICTIM).to_json()
    yield _roster("another join message for this device", "not-in-roster", replaced, *range(1, MEMBERS))
    yield _roster("two members", "cohort-size", 0, 1)
    seed = GraphSeed.issue(AUTHORITY, cohort=PLAIN.cohort, roster_root=cohort.roster.root, seed=octets_for("seed"))
    yield _roster("a graph's seed where none belongs", "no-graph-seed", *everybody, seed=seed.signed.to_json())
    yield _roster("an unknown field", "bad-field", *everybody, threshold=2)
    yield _roster("a member without certificate", "bad-field", *range(MEMBERS - 1), {"join": {}})

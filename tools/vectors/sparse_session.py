"""One device's part in a sparse cohort: whom it shares with, at which points, and what it masks and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np

from shared.secagg.graph import Graph
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.parameters import CohortRules, thresholds
from shared.secagg.roster import CohortBinding, Roster, to_bitmap
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession, UnmaskAnswer, agreement_message
from shared.secagg.signed_inbox import sign_inbox
from shared.wire.canonical import Json, octets_to_text
from shared.wire.messages import Agreements, write_answer, write_indexed, write_octets, write_shares
from shared.wire.signed import SigningKey
from tools.vectors.cohort import AUTHORITY, EXPIRES_AT_S, NOW_S, TASK, certificate_of, identity_of
from tools.vectors.document import Case, Document, Drawn, hexadecimal, octets_for, whole, words_to_hex
from tools.vectors.session import signed_to_json

DEVICE: Final = 7
_MEMBERS: Final = 66
_RULES: Final = CohortRules(min_survivors=10, largest=128, corrupt_share=0.05, dropout_share=0.1)
_BINDING: Final = CohortBinding(TASK, "cohort-c", octets_for("plan"), octets_for("model"), EXPIRES_AT_S)
_LIMITS: Final = thresholds(_MEMBERS, _RULES)
_KEYS: Final = ("channel_secret", "mask_secret", "self_mask_seed")  # as they are drawn


@dataclass(frozen=True)
class _Cohort:
    sources: list[Drawn]
    sessions: list[DeviceSession]
    roster: Roster

    @classmethod
    def joined(cls) -> _Cohort:
        sources = [Drawn(f"sparse device {number}") for number in range(_MEMBERS)]
        sessions = [
            DeviceSession(
                identity=identity_of(number),
                certificate=certificate_of(number),
                binding=_BINDING,
                rules=_RULES,
                authority_key=AUTHORITY.public,
                random_bytes=source,
            )
            for number, source in enumerate(sources)
        ]
        roster = Roster.of(_BINDING, [session.join() for session in sessions])
        seed = GraphSeed.issue(
            AUTHORITY, cohort=_BINDING.cohort, roster_root=roster.root, seed=octets_for("sparse graph")
        )
        return cls(sources, sessions, replace(roster, seed=seed))

    @property
    def graph(self) -> Graph:
        return self.roster.graph(_LIMITS.neighbours)


def sparse_session() -> Document:
    """Return the file's content."""
    cohort = _Cohort.joined()
    binding = asdict(_BINDING)
    hashes = {name: binding.pop(name).hex() for name in ("plan_sha256", "model_sha256")}
    seed = cohort.roster.seed
    return {
        "cohort": {**binding, **hashes, "cipher": "aes-256-ctr"},
        "authority_secret": AUTHORITY.secret.hex(),
        "authority_key": AUTHORITY.public.hex(),
        "now_s": NOW_S,
        "certificates_expire_at_s": cohort.roster.members[0].certificate.expires_at_s,
        "rules": asdict(_RULES),
        "thresholds": asdict(_LIMITS),
        "members": [_member(cohort, number) for number in range(_MEMBERS)],
        "roster_root": cohort.roster.root.hex(),
        "graph_seed": None if seed is None else signed_to_json(seed.signed),
        "sid": cohort.roster.sid.hex(),
        "ring": whole(cohort.graph.ring),
        "index": DEVICE,
        **_device(cohort),
        "refused": [*_refused(cohort)],
    }


def _member(cohort: _Cohort, number: int) -> Case:
    keys = zip(_KEYS, hexadecimal(cohort.sources[number].draws), strict=True)
    member = cohort.roster.members[number]
    return {
        "device": member.device,
        "identity_secret": identity_of(number).secret.hex(),
        **dict(keys),
        "leaf": member.leaf.hex(),
    }


def _device(cohort: _Cohort) -> Document:
    """Return the steps of one device: its first neighbour sends no shares, the next two no vector."""
    session, roster = cohort.sessions[DEVICE], cohort.roster.to_json()
    neighbours = cohort.graph.neighbours_of(DEVICE)
    shares = write_shares(session.share(roster, NOW_S))
    coefficients = hexadecimal(cohort.sources[DEVICE].draws[len(_KEYS) :])
    inbox = {other: cohort.sessions[other].share(roster, NOW_S).boxes[DEVICE] for other in neighbours[1:]}
    words = np.array([0, 1, 2**64 - 1, 12345], dtype=np.uint64)
    plain = words_to_hex(words)
    vector = session.mask(inbox, words).to_bytes()
    survivors = sorted(set(range(_MEMBERS)) - set(neighbours[:3]))
    bitmap = to_bitmap(frozenset(survivors), _MEMBERS)
    signature, message = session.agree(bitmap), agreement_message(session.sid, bitmap)
    agreements = {number: identity_of(number).sign(message) for number in survivors[: _LIMITS.quorum]}
    graph, sid = cohort.graph, session.sid
    # Each of the others used the boxes of all its neighbours that shared their keys.
    sharers = set(range(_MEMBERS)) - {neighbours[0]}
    inboxes = {
        other: sign_inbox(identity_of(other), sid, other, graph.neighbours_of(other), sharers)
        for other in neighbours[3:]
    }
    answer = session.unmask(agreements, inboxes)
    return {
        "neighbours": whole(neighbours),
        "self_mask_coefficients": coefficients[: _LIMITS.threshold - 1],
        "mask_secret_coefficients": coefficients[_LIMITS.threshold - 1 :],
        "shares": shares.decode(),
        "inbox": write_indexed("boxes", inbox).decode(),
        "words": plain,
        "vector": vector.hex(),
        "survivors": write_octets("bitmap", bitmap).decode(),
        "agreement": write_octets("signature", signature).decode(),
        "signed_inbox": octets_to_text(session.signed_inbox),
        "agreements": Agreements(agreements, inboxes).to_bytes().decode(),
        "answer": write_answer(answer).decode(),
        "withheld": [*_withheld(cohort, agreements, inboxes, answer)],
    }


def _withheld(
    cohort: _Cohort, agreements: Mapping[int, bytes], inboxes: Mapping[int, bytes], answer: UnmaskAnswer
) -> Iterator[Case]:
    """Yield lists for which the device keeps one share to itself."""
    sid, graph = cohort.sessions[DEVICE].sid, cohort.graph
    neighbours = graph.neighbours_of(DEVICE)
    owner, other = sorted(inboxes)[:2]
    around = graph.neighbours_of(owner)
    survivor = next(index for index in around if index in inboxes)  # not this device, and it did survive

    def signed_by(signer: int, session: bytes, without: int) -> bytes:
        return sign_inbox(identity_of(signer), session, owner, around, set(around) - {without})

    for comment, reason, signed in (
        ("no list", "no-signed-inbox", None),
        ("without this device", "masked-without", signed_by(owner, sid, DEVICE)),
        ("without another survivor", "masked-without", signed_by(owner, sid, survivor)),
        ("signed by another member", "bad-signature", signed_by(other, sid, neighbours[0])),
        ("of another session", "bad-signature", signed_by(owner, octets_for("other sid"), neighbours[0])),
        ("another member's list", "bad-signature", inboxes[other]),
        ("an octet too many", "bad-signed-inbox", b"\0" + inboxes[owner]),
    ):
        shown = {index: octets for index, octets in inboxes.items() if index != owner}
        shown |= {} if signed is None else {owner: signed}
        seeds = {index: share for index, share in answer.self_mask.items() if index != owner}
        yield {
            "comment": comment,
            "survivor": owner,
            "reason": reason,
            "agreements": Agreements(agreements, shown).to_bytes().decode(),
            "answer": write_answer(UnmaskAnswer(seeds, answer.mask_key)).decode(),
        }


def _refused(cohort: _Cohort) -> Iterator[Case]:
    """Yield what the device must refuse; the last step fails."""
    name, root, seed = _BINDING.cohort, cohort.roster.root, octets_for("sparse graph")
    server = SigningKey(octets_for("the server itself"))
    for comment, code, drawn in (
        ("a seed by the server", "bad-signature", GraphSeed.issue(server, cohort=name, roster_root=root, seed=seed)),
        ("of another roster", "other-roster", GraphSeed.issue(AUTHORITY, cohort=name, roster_root=seed, seed=seed)),
        ("of another cohort", "other-cohort", GraphSeed.issue(AUTHORITY, cohort="z", roster_root=root, seed=seed)),
    ):
        yield _case(comment, code, "share", graph_seed=signed_to_json(drawn.signed))
    yield _case("no seed", "no-graph-seed", "share", graph_seed=None)
    neighbours = cohort.graph.neighbours_of(DEVICE)
    stranger = next(index for index in range(_MEMBERS) if index not in neighbours and index != DEVICE)
    box = octets_for("a box", SEALED_BYTES)
    boxes = dict.fromkeys(neighbours[: _LIMITS.threshold - 1], box)
    yield _case("a box from no neighbour", "bad-inbox", "share", "mask", inbox=_boxes({**boxes, stranger: box}))
    yield _case("too few boxes", "too-few-shares", "share", "mask", inbox=_boxes(boxes))
    others = set(range(_MEMBERS))
    for comment, code, gone in (
        ("a neighbour that sent no shares", "unknown-survivor", set(neighbours[1:3])),
        ("too few in the roster", "too-few-survivors", {*neighbours[:3], *sorted(others - {*neighbours, DEVICE})[:4]}),
        ("this device listed as dropped out", "listed-dead", {*neighbours[:3], DEVICE}),
    ):
        bitmap = to_bitmap(frozenset(others - gone), _MEMBERS)
        yield _case(comment, code, "share", "mask", "agree", survivors=write_octets("bitmap", bitmap).decode())


def _case(comment: str, code: str, *steps: str, **messages: Json) -> Case:
    return {"comment": comment, "code": code, "steps": [*steps], **messages}


def _boxes(boxes: Mapping[int, bytes]) -> str:
    return write_indexed("boxes", boxes).decode()

"""What device 0, or the aggregator, must refuse in the first session: the message, the step, and the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from shared.secagg.roster import to_bitmap
from shared.secagg.sealing import SharePair, seal
from shared.secagg.session import UnmaskAnswer, agreement_message
from shared.secagg.shares import SECRET_BYTES
from shared.wire.messages import Agreements, write_answer, write_indexed, write_octets
from tools.vectors.cohort import DROPPED, MEMBERS, PLAIN, Cohort, identity_of
from tools.vectors.document import Case, Document, octets_for, whole
from tools.vectors.refused_rosters import VICTIM, case, refused_rosters

_TO_MASK: Final = ("share", "mask")
_TO_AGREE: Final = (*_TO_MASK, "agree")
_TO_UNMASK: Final = (*_TO_AGREE, "unmask")


def refused_sessions() -> Document:
    """Return the file's content."""
    cohort = Cohort.run(PLAIN)
    devices = [*refused_rosters(cohort), *_inboxes(cohort), *_survivors(cohort), *_agreements(cohort), *_orders()]
    return {"session": f"session-{PLAIN.cipher}.json", "devices": [*devices], "aggregator": [*_sums(cohort)]}


def _inbox(comment: str, code: str, boxes: Mapping[int, bytes]) -> Case:
    return case(comment, code, *_TO_MASK, inbox=write_indexed("boxes", boxes).decode())


def _inboxes(cohort: Cohort) -> Iterator[Case]:
    good = cohort.inbox(VICTIM)
    for_another = cohort.shares[1].boxes[2]
    yield _inbox("a box for another receiver", "bad-sealed-share", {**good, 1: for_another})
    yield _inbox("two senders' boxes swapped", "bad-sealed-share", {**good, 1: good[2], 2: good[1]})
    yield _inbox("this device's own box sent back", "bad-sealed-share", {**good, 1: cohort.shares[VICTIM].boxes[1]})
    yield _inbox("sealed in another session", "bad-sealed-share", {**good, 1: _sealed(cohort, octets_for("other sid"))})
    yield _inbox("sealed with the other cipher", "bad-sealed-share", {**good, 1: _sealed(cohort, other_cipher=True)})
    for comment, place in (("tag", -1), ("share of the seed", 0), ("share of the mask secret", SECRET_BYTES)):
        yield _inbox(f"an altered {comment}", "bad-sealed-share", {**good, 1: _flipped(good[1], place)})
    yield _inbox("a shortened tag", "bad-field", {**good, 1: good[1][:-1]})
    yield _inbox("a box from this device", "bad-inbox", {**good, VICTIM: good[1]})
    yield _inbox("a box from beyond the roster", "bad-inbox", {**good, MEMBERS: good[1]})
    yield _inbox("too few boxes", "too-few-shares", {1: good[1], 2: good[2]})


def _sealed(cohort: Cohort, sid: bytes | None = None, *, other_cipher: bool = False) -> bytes:
    """Return shares that member 1 sealed for device 0, otherwise than it should."""
    return seal(
        SharePair(octets_for("a share"), octets_for("another share")),
        secret=cohort.devices[1].source.draws[0],
        public=cohort.roster.members[VICTIM].channel_key,
        sid=sid or cohort.roster.sid,
        sender=1,
        receiver=VICTIM,
        cipher="chacha20" if other_cipher else PLAIN.cipher,
    )


def _flipped(octets: bytes, place: int) -> bytes:
    changed = bytearray(octets)
    changed[place] ^= 1
    return bytes(changed)


def _bitmap(comment: str, code: str, bitmap: bytes) -> Case:
    return case(comment, code, *_TO_AGREE, survivors=write_octets("bitmap", bitmap).decode())


def _survivors(cohort: Cohort) -> Iterator[Case]:
    alive = frozenset(cohort.masked)
    yield _bitmap("a bit beyond the roster", "bad-bitmap", to_bitmap(alive | {MEMBERS}, 8))
    yield _bitmap("an octet too many", "bad-bitmap", cohort.bitmap + b"\0")
    yield _bitmap("an empty bitmap", "bad-bitmap", b"")
    yield _bitmap("this device listed as dropped out", "listed-dead", to_bitmap(alive - {VICTIM} | {DROPPED}, MEMBERS))
    yield _bitmap("three survivors", "too-few-survivors", to_bitmap(frozenset({0, 1, 2}), MEMBERS))
    without = {sender: box for sender, box in cohort.inbox(VICTIM).items() if sender != DROPPED}
    ghost = _bitmap("a survivor that sent no shares", "unknown-survivor", to_bitmap(alive | {DROPPED}, MEMBERS))
    yield {**ghost, "inbox": write_indexed("boxes", without).decode()}


def _signatures(comment: str, signatures: Mapping[int, bytes]) -> Case:
    agreements = Agreements(signatures, {}).to_bytes().decode()
    return case(comment, "no-agreement", *_TO_UNMASK, agreements=agreements)


def _agreements(cohort: Cohort) -> Iterator[Case]:
    good, sid = cohort.signatures, cohort.roster.sid
    everybody = to_bitmap(frozenset(range(MEMBERS)), MEMBERS)
    yield _signatures("too few signatures", {index: good[index] for index in (0, 1, 2)})
    yield _signatures("a signature over another bitmap", {**good, 1: _signed(1, sid, everybody)})
    yield _signatures("a signature of another session", {**good, 1: _signed(1, octets_for("other sid"), cohort.bitmap)})
    yield _signatures("one member's signature under two indices", {**good, 1: good[2]})
    yield _signatures(
        "a signature by a member that dropped out",
        {0: good[0], 1: good[1], 2: good[2], DROPPED: _signed(DROPPED, sid, cohort.bitmap)},
    )
    yield _signatures("an altered signature", {**good, 1: _flipped(good[1], 0)})


def _signed(number: int, sid: bytes, bitmap: bytes) -> bytes:
    return identity_of(number).sign(agreement_message(sid, bitmap))


def _orders() -> Iterator[Case]:
    yield case("masked before sharing", "out-of-order", "mask")
    yield case("shared twice", "out-of-order", "share", "share")
    yield case("masked twice", "out-of-order", *_TO_MASK, "mask")
    yield case("agreed before masking", "out-of-order", "share", "agree")
    yield case("agreed twice", "out-of-order", *_TO_AGREE, "agree")
    yield case("unmasked before agreeing", "out-of-order", *_TO_MASK, "unmask")
    yield case("unmasked twice", "out-of-order", *_TO_UNMASK, "unmask")


def _sum(comment: str, code: str, survivors: Iterable[int], answers: Mapping[int, UnmaskAnswer]) -> Case:
    texts = {str(index): write_answer(answer).decode() for index, answer in answers.items()}
    return {"comment": comment, "code": code, "survivors": whole(sorted(survivors)), "answers": {**texts}}


def _sums(cohort: Cohort) -> Iterator[Case]:
    good = cohort.answers
    wrong = {index: octets_for(f"wrong share {index}") for index in range(MEMBERS)}
    seeds, keys = good[1].self_mask, good[1].mask_key
    yield _sum("too few answers", "too-few-shares", good, {index: good[index] for index in (0, 1, 2)})
    liar = UnmaskAnswer({index: wrong[index] for index in seeds}, keys)
    yield _sum("wrong shares of seeds, none to spare", "bad-shares", good, {**good, 1: liar})
    liar = UnmaskAnswer(seeds, {index: wrong[index] for index in keys})
    yield _sum("wrong shares of a mask secret, none to spare", "bad-shares", good, {**good, 1: liar})
    swapped = UnmaskAnswer({**seeds, 0: seeds[2], 2: seeds[0]}, keys)
    yield _sum("two members' shares swapped", "bad-shares", good, {**good, 1: swapped})
    outside = UnmaskAnswer({**seeds, 0: b"\xff" * SECRET_BYTES}, keys)
    yield _sum("a share outside the field, none to spare", "too-few-shares", good, {**good, 1: outside})
    yield _sum("three vectors", "too-few-survivors", (0, 1, 2), good)

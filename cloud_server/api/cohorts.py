"""The steps of secure aggregation: members' messages are checked and recorded, never acted upon, here.

Every PUT is idempotent: the same bytes again get the same answer, other bytes 409, too late 410. Every GET holds
until the driver has moved the cohort to the phase that has the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from flask import Blueprint, Response, request
from sqlalchemy import Connection

from cloud_server.api.auth import body, caller, for_devices, require_type
from cloud_server.api.context import context
from cloud_server.api.limiting import limiter
from cloud_server.api.vectors import announced_inbox, announced_part, asked_vector, receive, vector_bytes
from cloud_server.api.waiting import hold
from cloud_server.device_keys import require_newest
from cloud_server.rounds.eligibility import require_eligible
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.records import (
    StepName,
    StoredCohort,
    check_step,
    cohort_over,
    devices_in_order,
    load_cohort,
    require_place,
    step_bodies,
    store_step,
)
from cloud_server.rounds.releasing import require_in_stage
from cloud_server.rounds.sealed import boxes_for, store_shares
from cloud_server.tasks import load_task
from shared.errors import Missing, Unauthenticated, UsageError
from shared.secagg.parameters import thresholds
from shared.secagg.roster import to_bitmap, verify_member
from shared.secagg.session import agreement_message
from shared.secagg.signed_inbox import verified_inbox
from shared.wire.canonical import decode, sha256
from shared.wire.messages import (
    Agreements,
    Outcome,
    read_answer,
    read_octets,
    read_shares,
    write_indexed,
    write_octets,
    write_received,
)
from shared.wire.requests import COHORTS, JSON, OCTETS
from shared.wire.signed import SIGNATURE_BYTES, verify

blueprint = Blueprint("cohorts", __name__, url_prefix=f"{COHORTS}/<cohort_id>")
ORDER = (Phase.FORMING, Phase.SEEDING, Phase.SHARING, Phase.COLLECTING, Phase.AGREEING, Phase.UNMASKING, Phase.SUMMED)


def _load(cohort_id: str) -> StoredCohort:
    with context().database.read() as connection:
        record = load_cohort(connection, cohort_id)
    if record.task != caller().task:
        raise Missing("cohort-unknown", "There is no such cohort.")
    return record


def _index(record: StoredCohort) -> int:
    """Return the caller's place in the roster."""
    devices = devices_in_order(record.roster_body) if record.roster_body is not None else ()
    if caller().device not in devices:
        raise Missing("not-in-roster", "This device is not a member of the cohort.")
    return devices.index(caller().device)


def _record(
    record: StoredCohort,
    name: StepName,
    data: bytes,
    check: Callable[[Connection, StoredCohort], None] = lambda _connection, _cohort: None,
) -> Response:
    """Store a checked step; the phase, and ``check``, are looked at in the storing transaction."""
    parts = context()
    with parts.database.write() as connection:
        current = load_cohort(connection, record.id, lock=True)
        if check_step(connection, current, caller().device, name, data):
            check(connection, current)
            store_step(connection, record.id, caller().device, name, data, parts.clock.now_s())
    return _accepted()


def _is_new(record: StoredCohort, name: StepName, data: bytes) -> bool:
    with context().database.read() as connection:
        return check_step(connection, record, caller().device, name, data)


def _accepted() -> Response:
    return Response(b"{}", content_type=JSON)


@blueprint.put("/join")
@for_devices
def join(cohort_id: str) -> Response:
    """Take a signed join message."""
    record, data = _load(cohort_id), body()
    if not _is_new(record, "join", data):
        return _accepted()
    parts = context()
    member = verify_member(decode(data), record.binding, parts.authority.public_key, parts.clock.now_s())
    member.require_current()
    if member.device != caller().device:
        raise Unauthenticated("wrong-device", "The join message is another device's.")

    def check(connection: Connection, current: StoredCohort) -> None:
        plan = load_task(connection, record.task).plan
        require_newest(connection, member.device, member.certificate.identity_key)
        require_eligible(connection, member.device, plan, parts.clock.now_s())
        if record.purpose == "evaluation":
            require_in_stage(connection, record, member.device)
        require_place(connection, current, data=data, largest=plan.cohort.largest)

    return _record(record, "join", data, check)


@blueprint.put("/shares")
@for_devices
def shares(cohort_id: str) -> Response:
    """Take a commitment and one sealed pair of shares for every neighbour."""
    record, data = _load(cohort_id), body()
    digest = sha256(data)  # what was sent is kept by its parts
    if not _is_new(record, "shares", digest):
        return _accepted()
    index, message = _index(record), read_shares(data)
    if message.boxes.keys() != set(_neighbours(record, index)):
        raise UsageError("wrong-receivers", "Shares must be sealed for every neighbour, and for nobody else.")
    return _record(
        record, "shares", digest, lambda connection, current: store_shares(connection, current.id, index, message)
    )


def _neighbours(record: StoredCohort, index: int) -> tuple[int, ...]:
    return record.graph(context().authority.public_key).neighbours_of(index)


@blueprint.put("/vector")
@for_devices
def vector(cohort_id: str) -> Response:
    """Take a masked vector, or the rest of one; the answer comes when all of it is on disk.

    Every request says, signed, whose boxes the member masked with: those of all its neighbours that shared their keys.
    """
    require_type(OCTETS)
    record, part = _load(cohort_id), announced_part()
    if _is_new(record, "vector", part.whole_sha256.encode()):
        _require_sharer(record)
        inbox = _own_inbox(record, announced_inbox())
        with limiter().upload(caller().device, request.remote_addr or ""):
            receive(record, part, inbox)
    else:
        _is_new(record, "inbox", announced_inbox())
    return _accepted()


def _own_inbox(record: StoredCohort, signed: bytes) -> bytes:
    """Return ``signed`` if it is what the other members will want to see of the caller.

    Raises:
        UsageError: ``bad-signed-inbox``, ``wrong-inbox``.
        Unauthenticated: ``bad-signature``.
    """
    index, roster = _index(record), record.roster(context().authority.public_key)
    neighbours, key = _neighbours(record, index), roster.members[index].certificate.identity_key
    if verified_inbox(signed, key, roster.sid, index, neighbours) != record.state.sharers.intersection(neighbours):
        raise UsageError("wrong-inbox", "A member masks with the boxes of all neighbours that shared their keys.")
    return signed


@blueprint.get("/vector")
@for_devices
def received(cohort_id: str) -> Response:
    """Say how much of the caller's vector is on disk: where the next ``PUT`` goes on."""
    record, whole_sha256 = _load(cohort_id), asked_vector()
    size_bytes = vector_bytes(record)
    if not _is_new(record, "vector", whole_sha256.encode()):
        return Response(write_received(size_bytes), content_type=JSON)
    _require_sharer(record)
    held = context().uploads.incoming(record.id, caller().device, whole_sha256).sync()
    # All of it may be here and still not count, for the server failed just then: the last byte is what makes it count.
    return Response(write_received(min(held, size_bytes - 1)), content_type=JSON)


def _require_sharer(record: StoredCohort) -> None:
    if _index(record) not in record.state.sharers:
        raise UsageError("never-shared", "A device that did not share its keys cannot send a vector.")


@blueprint.put("/agreement")
@for_devices
def agreement(cohort_id: str) -> Response:
    """Take a survivor's signature over the survivors."""
    record, data = _load(cohort_id), body()
    if not _is_new(record, "agreement", data):
        return _accepted()
    signature = read_octets(data, "signature", SIGNATURE_BYTES)
    index = _index(record)
    if index not in record.state.survivors:
        raise UsageError("not-a-survivor", "Only survivors sign.")
    roster = record.roster(context().authority.public_key)
    bitmap = to_bitmap(record.state.survivors, record.state.members)
    key = roster.members[index].certificate.identity_key
    verify(key, agreement_message(roster.sid, bitmap), signature, "the agreement")
    return _record(record, "agreement", data)


@blueprint.put("/answer")
@for_devices
def answer(cohort_id: str) -> Response:
    """Take one share per member whose shares the caller holds, by that member's fate."""
    record, data = _load(cohort_id), body()
    if not _is_new(record, "answer", data):
        return _accepted()
    index, state = _index(record), record.state
    if index not in state.survivors:
        raise UsageError("not-a-survivor", "Only survivors answer.")
    revealed, owners = read_answer(data), set(_owners(record, index))
    alive, dropped = owners & state.survivors, owners & (state.sharers - state.survivors)
    if revealed.self_mask.keys() != alive or revealed.mask_key.keys() != dropped:
        raise UsageError("wrong-shares", "The answer does not hold one share per member by its fate.")
    return _record(record, "answer", data)


def _owners(record: StoredCohort, index: int) -> tuple[int, ...]:
    """Return those whose shares a member holds; being a holder is mutual."""
    return record.graph(context().authority.public_key).holders_of(index)


def _when(cohort_id: str, phase: Phase, read: Callable[[StoredCohort], bytes]) -> Response:
    """Hold until the cohort has reached ``phase``, then return what ``read`` makes of it."""
    first = _load(cohort_id)
    if phase is not Phase.SHARING or first.roster_body is not None:
        _index(first)

    def attempt() -> bytes | None:
        record = _load(cohort_id)
        if record.state.phase is Phase.FAILED:
            raise cohort_over(record)
        return read(record) if ORDER.index(record.state.phase) >= ORDER.index(phase) else None

    return hold(attempt)


@blueprint.get("/roster")
@for_devices
def roster(cohort_id: str) -> Response:
    """Return every member's signed join message, once the cohort is formed."""

    def read(record: StoredCohort) -> bytes:
        _index(record)  # who asked before there was a roster may not be in it
        return record.roster_body or b""

    return _when(cohort_id, Phase.SHARING, read)


@blueprint.get("/inbox")
@for_devices
def inbox(cohort_id: str) -> Response:
    """Return the shares that its neighbours sealed for the caller."""

    def read(record: StoredCohort) -> bytes:
        own = _index(record)
        with context().database.read() as connection:
            return write_indexed("boxes", boxes_for(connection, record.id, own, record.state.sharers))

    return _when(cohort_id, Phase.COLLECTING, read)


@blueprint.get("/survivors")
@for_devices
def survivors(cohort_id: str) -> Response:
    """Return the frozen survivor bitmap."""
    return _when(
        cohort_id,
        Phase.AGREEING,
        lambda record: write_octets("bitmap", to_bitmap(record.state.survivors, record.state.members)),
    )


@blueprint.get("/agreements")
@for_devices
def agreements(cohort_id: str) -> Response:
    """Return the survivors' signatures, once there is a quorum, and what those of whom the caller holds shares used."""

    def read(record: StoredCohort) -> bytes:
        places = {name: index for index, name in enumerate(devices_in_order(record.roster_body or b""))}
        with context().database.read() as connection:
            bodies, inboxes = (step_bodies(connection, record.id, name) for name in ("agreement", "inbox"))
        quorum = thresholds(record.state.members, record.rules).quorum  # more would only be more to verify
        signatures = {places[name]: read_octets(data, "signature") for name, data in islice(bodies.items(), quorum)}
        own = _index(record)
        owners = record.state.survivors.intersection(_owners(record, own)) - {own}
        lists = {places[name]: data for name, data in inboxes.items() if places[name] in owners}
        return Agreements(signatures, lists).to_bytes()

    return _when(cohort_id, Phase.UNMASKING, read)


@blueprint.get("/outcome")
@for_devices
def outcome(cohort_id: str) -> Response:
    """Say, once the cohort is over, whether the caller is in the sum."""
    return _when(cohort_id, Phase.SUMMED, lambda record: Outcome(_index(record) in record.state.survivors).to_bytes())

"""Reads and writes of rounds, cohorts and their members' messages, each inside the caller's transaction."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal

from sqlalchemy import Connection, Row, desc, insert, select, update

from cloud_server.rounds.machine import OVER, CohortState, Phase
from cloud_server.storage.database import bump
from cloud_server.storage.schema import cohort, step, version
from shared.errors import Conflict, FedloomError, Missing
from shared.limits import MAX_COHORT_MEMBERS, MAX_ROSTER_BYTES
from shared.plan import Plan
from shared.secagg.graph import Graph
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.parameters import CohortRules, is_sparse, thresholds
from shared.secagg.roster import (
    CohortBinding,
    Purpose,
    Roster,
    compared_hash,
    from_bitmap,
    to_bitmap,
    verify_member,
)
from shared.wire.canonical import Fields, Json, decode, encode, sha256
from shared.wire.signed import Signed

StepName = Literal["join", "shares", "inbox", "vector", "agreement", "answer"]

# Which phases take a step. What comes later than it is needed is harmless and thrown away.
ACCEPTS: Final[Mapping[StepName, frozenset[Phase]]] = {
    "join": frozenset({Phase.FORMING}),
    "shares": frozenset({Phase.SHARING}),
    "inbox": frozenset({Phase.COLLECTING}),
    "vector": frozenset({Phase.COLLECTING}),
    "agreement": frozenset({Phase.AGREEING, Phase.UNMASKING}),
    "answer": frozenset({Phase.UNMASKING}),
}
NO_LONGER_NEEDED: Final[Mapping[StepName, frozenset[Phase]]] = {
    "join": frozenset(),
    "shares": frozenset(),
    "inbox": frozenset(),
    "vector": frozenset(),
    "agreement": frozenset({Phase.SUMMED}),
    "answer": frozenset({Phase.SUMMED}),
}
COHORT_VALID_S: Final = 7 * 86400
_baseline = version.alias("baseline_version")


class CohortOver(FedloomError):
    """The cohort went on or ended; the device starts again."""

    exit_code = 4
    http_status = HTTPStatus.GONE


@dataclass(frozen=True)
class StoredCohort:
    """One cohort as stored.

    Attributes:
        id: of the cohort.
        task: of the task.
        round_number: of the round; of the promotion where it evaluates.
        attempt: 1 for the first cohort of the round.
        base_version: that its members train from, or evaluate.
        binding: what its members sign.
        state: for the state machine.
        roster_body: canonical JSON once fixed.
        rules: of the base version's plan.
    """

    id: str
    task: str
    round_number: int
    attempt: int
    base_version: int
    binding: CohortBinding
    state: CohortState
    roster_body: bytes | None
    rules: CohortRules

    @property
    def purpose(self) -> Purpose:
        """What its sum is of."""
        return self.binding.purpose

    def roster(self, authority_key: bytes) -> Roster:
        """Return the fixed roster; it was verified when its members joined, and is again in each process."""
        if self.roster_body is None:
            raise Missing("roster-not-fixed", "The cohort is still forming.")
        return _verified_roster(self.roster_body, self.binding, authority_key)

    def graph(self, authority_key: bytes) -> Graph:
        """Return who is whose neighbour, once the roster, and the seed of a sparse graph, are fixed."""
        neighbours = thresholds(self.state.members, self.rules).neighbours
        sparse = is_sparse(self.state.members)
        return self.roster(authority_key).graph(neighbours) if sparse else Graph(self.state.members)


@lru_cache(maxsize=4)
def _verified_roster(body: bytes, binding: CohortBinding, authority_key: bytes) -> Roster:
    return Roster.verified(decode(body, max_bytes=MAX_ROSTER_BYTES), binding, authority_key, 0.0)


@lru_cache(maxsize=16)
def _rules(plan: bytes) -> CohortRules:
    return Plan.from_bytes(plan).rules


def load_cohort(connection: Connection, cohort_id: str, *, lock: bool = False) -> StoredCohort:
    """Return a cohort.

    Args:
        connection: inside a transaction.
        cohort_id: of the cohort.
        lock: let nobody else change it, or take a step for it, before this transaction ends.

    Raises:
        Missing: ``cohort-unknown``.
    """
    query = (
        select(cohort, version.c.model_sha256, version.c.plan, _baseline.c.model_sha256.label("baseline_sha256"))
        .join(version, (version.c.task == cohort.c.task) & (version.c.number == cohort.c.base_version))
        .outerjoin(_baseline, (_baseline.c.task == cohort.c.task) & (_baseline.c.number == cohort.c.baseline))
        .where(cohort.c.id == cohort_id)
    )
    if lock:
        query = query.with_for_update(of=cohort)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("cohort-unknown", "There is no such cohort.")
    return _record(row)


def _record(row: Row[tuple[object, ...]]) -> StoredCohort:
    state = CohortState(
        phase=Phase(row.phase),
        since_s=row.since_s,
        members=row.members,
        sharers=frozenset() if row.sharers is None else from_bitmap(row.sharers, row.members),
        survivors=frozenset() if row.survivors is None else from_bitmap(row.survivors, row.members),
        failure=row.failure,
    )
    model = row.model_sha256
    if row.purpose == "evaluation":
        model = compared_hash(model, row.baseline_sha256 or b"")  # nothing once the version is forgotten
    binding = CohortBinding(row.task, row.id, sha256(row.plan), model, row.expires_at_s, row.purpose)
    rules = _rules(row.plan)
    return StoredCohort(row.id, row.task, row.round, row.attempt, row.base_version, binding, state, row.roster, rules)


def current_cohort_id(connection: Connection, task_name: str) -> str | None:
    """Return the newest cohort of a task that trains."""
    trains = (cohort.c.task == task_name, cohort.c.purpose == "training")
    query = select(cohort.c.id).where(*trains).order_by(desc(cohort.c.round), desc(cohort.c.attempt))
    return connection.execute(query.limit(1)).scalar_one_or_none()


def insert_cohort(
    connection: Connection,
    *,
    cohort_id: str,
    task_name: str,
    round_number: int,
    attempt: int,
    base_version: int,
    now_s: float,
    baseline: int | None = None,
) -> None:
    """Let a cohort form: one that trains, or one that compares its base version with ``baseline``."""
    connection.execute(
        insert(cohort).values(
            id=cohort_id,
            task=task_name,
            round=round_number,
            attempt=attempt,
            base_version=base_version,
            phase=Phase.FORMING.value,
            since_s=now_s,
            expires_at_s=int(now_s) + COHORT_VALID_S,
            members=0,
            failure="",
            purpose="training" if baseline is None else "evaluation",
            baseline=baseline,
        )
    )
    bump(connection)


def save_state(connection: Connection, cohort_id: str, state: CohortState) -> None:
    """Store what the state machine decided."""
    values: dict[str, object] = {
        "phase": state.phase.value,
        "since_s": state.since_s,
        "members": state.members,
        "failure": state.failure,
    }
    if state.sharers:
        values["sharers"] = to_bitmap(state.sharers, state.members)
    if state.survivors:
        values["survivors"] = to_bitmap(state.survivors, state.members)
    connection.execute(update(cohort).where(cohort.c.id == cohort_id).values(values))
    bump(connection)


def step_body(connection: Connection, cohort_id: str, device: str, name: StepName) -> bytes | None:
    """Return the exact bytes that a member sent for a step."""
    query = select(step.c.body).where(step.c.cohort == cohort_id, step.c.device == device, step.c.step == name)
    return connection.execute(query).scalar_one_or_none()


def step_bodies(connection: Connection, cohort_id: str, name: StepName) -> dict[str, bytes]:
    """Return what every member sent for a step, by device."""
    query = select(step.c.device, step.c.body).where(step.c.cohort == cohort_id, step.c.step == name)
    return {row.device: row.body for row in connection.execute(query)}


def check_step(connection: Connection, record: StoredCohort, device: str, name: StepName, body: bytes) -> bool:
    """Say whether a step is new and wanted; an exact repeat, or one that is no longer needed, is not.

    Raises:
        Conflict: ``different-repeat`` when other bytes are stored for the step.
        CohortOver: when the phase that takes the step is over.
    """
    stored = step_body(connection, record.id, device, name)
    if stored is not None:
        if hmac.compare_digest(stored, body):
            return False
        raise Conflict(
            "different-repeat",
            f"This device already sent other bytes for step {name}; the first ones stay.",
            "a second agent may run with the same identity: stop one of them",
        )
    phase = record.state.phase
    if phase in NO_LONGER_NEEDED[name]:
        return False
    if phase not in ACCEPTS[name]:
        raise cohort_over(record)
    return True


def store_step(connection: Connection, cohort_id: str, device: str, name: StepName, body: bytes, now_s: float) -> None:
    """Store a step that ``check_step`` wants."""
    connection.execute(insert(step).values(cohort=cohort_id, device=device, step=name, body=body, received_s=now_s))


def cohort_over(record: StoredCohort) -> CohortOver:
    """Return the answer for a device that comes too late or whose cohort failed."""
    state = record.state
    if state.phase is Phase.FAILED:
        code, _, reason = state.failure.partition(": ")
        return CohortOver(code, f"The cohort failed: {reason}.", "the device takes part in the next one by itself")
    kind = "cohort-closed" if state.phase in OVER else "phase-over"
    return CohortOver(kind, "The cohort went on without this device.", "it takes part in the next one by itself")


def require_place(connection: Connection, record: StoredCohort, *, data: bytes, largest: int) -> None:
    """Refuse a join message for a full cohort, or with a key that another member has.

    Raises:
        CohortOver: ``phase-over`` when the cohort has its largest size.
        Conflict: ``duplicate-member``.
    """
    joined = step_bodies(connection, record.id, "join").values()
    if len(joined) >= largest:
        raise cohort_over(record)
    own = _keys_of(data)
    if any(own & _keys_of(body) for body in joined):
        raise Conflict("duplicate-member", "Another member of the cohort has one of these keys.", "enrol anew")


def roster_from_joins(connection: Connection, record: StoredCohort, authority_key: bytes, now_s: float) -> Roster:
    """Verify and order the members that joined."""
    bodies = step_bodies(connection, record.id, "join").values()
    members = [verify_member(decode(body), record.binding, authority_key, now_s) for body in bodies]
    return Roster.of(record.binding, members)


def write_roster(roster: Roster) -> bytes:
    """Return the roster as it is stored and sent."""
    return encode(roster.to_json())


def with_seed(roster: Roster, drawn: Signed, authority_key: bytes) -> Roster:
    """Return the roster with the authority's draw, verified as its members will."""
    cohort_id = roster.binding.cohort
    return replace(roster, seed=GraphSeed.verified(drawn, authority_key, cohort=cohort_id, roster_root=roster.root))


@lru_cache(maxsize=8)
def devices_in_order(roster_body: bytes) -> tuple[str, ...]:
    """Return the members' device names by index, from a stored roster."""
    entries = Fields(decode(roster_body, max_bytes=MAX_ROSTER_BYTES), "roster").items("members", MAX_COHORT_MEMBERS)
    return tuple(_device_of(entry) for entry in entries)


def _device_of(entry: Json) -> str:
    return _join_fields(entry).text("device")


def _join_fields(entry: Json) -> Fields:
    join = Signed.from_json(Fields(entry, "roster entry").mapping("join", 2), "join")
    return Fields(decode(join.body), "join")


@lru_cache(maxsize=2 * MAX_COHORT_MEMBERS)
def _keys_of(body: bytes) -> frozenset[bytes]:
    """Return the keys of a verified roster entry; no two members may share any."""
    entry = decode(body)
    fields = _join_fields(entry)
    certificate = Signed.from_json(Fields(entry, "roster entry").mapping("certificate", 2), "certificate")
    identity = Fields(decode(certificate.body), "certificate").octets("identity_key")
    return frozenset({fields.octets("channel_key"), fields.octets("mask_key"), identity})

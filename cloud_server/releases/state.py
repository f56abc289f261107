"""What a task's devices use and how promotions stand, as stored; reads only, and the rows' one way of being written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, desc, insert, select, update

from cloud_server.releases.gate import Rule
from cloud_server.storage.database import bump
from cloud_server.storage.schema import evaluation, promotion, task_release
from cloud_server.storage.schema import task as task_table
from shared.decision import Decision, parse_decision
from shared.errors import Conflict, Missing
from shared.wire.canonical import Json, decode
from shared.wire.signed import Signed

EVALUATING: Final = "evaluating"
WAITING: Final = "waiting"
RELEASED: Final = "released"
ROLLED_BACK: Final = "rolled-back"
UNDER_WAY: Final = frozenset({EVALUATING, WAITING})


@dataclass(frozen=True)
class ReleaseState:
    """What a task's devices use.

    Attributes:
        task: the task.
        revision: grows with every change; whoever changes something says which one they looked at.
        released: the version that everybody uses who is told nothing else.
        pinned: the version that everybody uses until it is unpinned, None for none.
        promotion: the number of the last promotion, 0 before the first.
        signed: the decision that devices are shown; None before the driver signed one.
        sequence: of ``signed``.
    """

    task: str
    revision: int
    released: int
    pinned: int | None = None
    promotion: int = 0
    signed: Signed | None = None
    sequence: int = 0

    @property
    def decision(self) -> Decision | None:
        """What devices are shown."""
        return None if self.signed is None else parse_decision(self.signed.body)


@dataclass(frozen=True)
class Promotion:
    """One attempt to release a version.

    Attributes:
        task: the task.
        number: from 1.
        candidate: the version.
        baseline: the version that was released before.
        rule: stages and gate.
        phase: ``evaluating``, ``waiting`` for an operator, ``released`` or ``rolled-back``.
        stage: from 0.
        limit: devices whose place is below it are in the stage.
        since_s: when the stage began.
        cohort: that evaluates for the stage, empty before there is one.
        attempts: cohorts so far.
        reason: of how it ended.
        promoted_by: who asked for it.
        created_s: when.
        ended_s: when it ended, None before.
    """

    task: str
    number: int
    candidate: int
    baseline: int
    rule: Rule
    phase: str
    stage: int
    limit: int
    since_s: float
    promoted_by: str
    created_s: float
    cohort: str = ""
    attempts: int = 0
    reason: str = ""
    ended_s: float | None = None

    @property
    def under_way(self) -> bool:
        """Whether it is neither released nor rolled back."""
        return self.phase in UNDER_WAY

    def to_json(self) -> dict[str, Json]:
        """Return it for tables and JSON."""
        return {
            "promotion": self.number,
            "version": self.candidate,
            "before": self.baseline,
            "phase": self.phase,
            "stage": self.stage + 1,
            "stages": list(self.rule.shares),
            "automatic": self.rule.automatic,
            "tolerance": self.rule.tolerance,
            "largest_drop": self.rule.largest_drop,
            "cohort": self.cohort,
            "by": self.promoted_by,
            "created_s": self.created_s,
            "ended_s": self.ended_s,
            "reason": self.reason,
        }


def load_release(connection: Connection, task_name: str) -> ReleaseState | None:
    """Return what a task's devices use, None while they use the newest version."""
    row = connection.execute(select(task_release).where(task_release.c.task == task_name)).one_or_none()
    if row is None:
        return None
    signed = None if row.decision is None else Signed.from_bytes(row.decision)
    return ReleaseState(row.task, row.revision, row.released, row.pinned, row.promotion, signed, row.sequence)


def load_promotion(connection: Connection, task_name: str, number: int) -> Promotion | None:
    """Return a promotion."""
    query = select(promotion).where(promotion.c.task == task_name, promotion.c.number == number)
    row = connection.execute(query).one_or_none()
    return None if row is None else _promotion(row)


def under_way(connection: Connection, state: ReleaseState | None) -> Promotion | None:
    """Return the promotion that has not ended, None where there is none."""
    found = load_promotion(connection, state.task, state.promotion) if state is not None else None
    return found if found is not None and found.under_way else None


def list_promotions(connection: Connection, task_name: str) -> list[Promotion]:
    """Return every promotion of a task, oldest first."""
    query = select(promotion).where(promotion.c.task == task_name).order_by(promotion.c.number)
    return [_promotion(row) for row in connection.execute(query)]


def list_evaluations(connection: Connection, task_name: str) -> list[dict[str, Json]]:
    """Return what the stages' devices found, oldest first, as plain values for tables and JSON."""
    query = select(evaluation).where(evaluation.c.task == task_name)
    rows = connection.execute(query.order_by(evaluation.c.promotion, evaluation.c.judged_s))
    return [
        {
            "cohort": row.cohort,
            "promotion": row.promotion,
            "stage": row.stage + 1,
            "version": row.candidate,
            "before": row.baseline,
            "passed": bool(row.passed),
            "reason": row.reason,
            "judged_s": row.judged_s,
            **decode(row.result),
        }
        for row in rows
    ]


def held_versions(connection: Connection, task_name: str) -> frozenset[int]:
    """Return the versions that devices use or may be told to use again: they are renewed, and their files kept."""
    state = load_release(connection, task_name)
    if state is None:
        return frozenset()
    going = under_way(connection, state)
    named = {
        state.released,
        state.pinned,
        *_releases_before(connection, state),
        *((going.candidate, going.baseline) if going else ()),
    }
    return frozenset(number for number in named if number is not None)


def _releases_before(connection: Connection, state: ReleaseState) -> list[int]:
    """Return the versions that rolling back leads to, one after another."""
    before = {one.candidate: one.baseline for one in list_promotions(connection, state.task) if one.phase == RELEASED}
    found, number = list[int](), state.released
    while (earlier := before.pop(number, None)) is not None:
        found.append(earlier)
        number = earlier
    return found


def promotion_of_release(connection: Connection, state: ReleaseState) -> Promotion | None:
    """Return the promotion by which everybody has the version that is released, None where nothing was promoted."""
    query = (
        select(promotion)
        .where(promotion.c.task == state.task, promotion.c.phase == RELEASED, promotion.c.candidate == state.released)
        .order_by(desc(promotion.c.number))
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _promotion(row)


def lock_release(connection: Connection, task_name: str, expected_revision: int | None) -> ReleaseState | None:
    """Return a task's release for changing it: nobody else does before the transaction ends.

    Args:
        connection: inside a writing transaction.
        task_name: of the task.
        expected_revision: that whoever acts has looked at, 0 while devices use the newest version; None for any.

    Raises:
        Missing: ``task-unknown``.
        Conflict: ``release-changed``.
    """
    query = select(task_table.c.name).where(task_table.c.name == task_name)
    query = query.with_for_update(key_share=True)  # rows that refer to the task may come meanwhile
    if connection.execute(query).one_or_none() is None:
        raise Missing("task-unknown", f"There is no task {task_name!r}.", "see fedloom-server task list")
    state = load_release(connection, task_name)
    revision = 0 if state is None else state.revision
    if expected_revision is not None and expected_revision != revision:
        raise Conflict(
            "release-changed",
            f"What devices of {task_name!r} use is at revision {revision}; this was meant for {expected_revision}.",
            "look at `fedloom-server model show`, and do it again if it is still right",
        )
    return state


def save_release(connection: Connection, state: ReleaseState) -> ReleaseState:
    """Store a change under the next revision, which the driver will sign, and return it."""
    state = replace(state, revision=state.revision + 1)
    values = {
        "revision": state.revision,
        "released": state.released,
        "pinned": state.pinned,
        "promotion": state.promotion,
    }
    changed = connection.execute(update(task_release).where(task_release.c.task == state.task).values(values))
    if changed.rowcount == 0:
        connection.execute(insert(task_release).values(task=state.task, sequence=0, **values))
    bump(connection)
    return state


def save_promotion(connection: Connection, one: Promotion) -> None:
    """Store a promotion."""
    key = {"task": one.task, "number": one.number}
    values = {
        "candidate": one.candidate,
        "baseline": one.baseline,
        "rule": one.rule.to_bytes(),
        "phase": one.phase,
        "stage": one.stage,
        "place_limit": one.limit,
        "since_s": one.since_s,
        "cohort": one.cohort,
        "attempts": one.attempts,
        "reason": one.reason,
        "promoted_by": one.promoted_by,
        "created_s": one.created_s,
        "ended_s": one.ended_s,
    }
    where = (promotion.c.task == one.task, promotion.c.number == one.number)
    if connection.execute(update(promotion).where(*where).values(values)).rowcount == 0:
        connection.execute(insert(promotion).values(**key, **values))
    bump(connection)


def _promotion(row: Row[Any]) -> Promotion:
    return Promotion(
        task=row.task,
        number=row.number,
        candidate=row.candidate,
        baseline=row.baseline,
        rule=Rule.from_bytes(row.rule),
        phase=row.phase,
        stage=row.stage,
        limit=row.place_limit,
        since_s=row.since_s,
        promoted_by=row.promoted_by,
        created_s=row.created_s,
        cohort=row.cohort,
        attempts=row.attempts,
        reason=row.reason,
        ended_s=row.ended_s,
    )

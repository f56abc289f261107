"""The driver's part in releases: signing what devices are told, cohorts that evaluate, and the end of late stages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, select, update

from cloud_server import audit
from cloud_server.releases.keys import require_current_key
from cloud_server.releases.stages import DRIVER, end_promotion, has_measured, reach_of
from cloud_server.releases.state import (
    EVALUATING,
    Promotion,
    ReleaseState,
    load_release,
    lock_release,
    save_promotion,
    save_release,
    under_way,
)
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.records import StoredCohort, insert_cohort, load_cohort
from cloud_server.storage.database import Database, bump
from cloud_server.storage.schema import task_release, version
from cloud_server.tasks import Task
from shared.decision import Decision, sign_decision
from shared.errors import Refused
from shared.plan import Plan
from shared.release import key_id
from shared.wire.canonical import Json
from shared.wire.signed import SigningKey

MAX_ATTEMPTS: Final = 20  # cohorts per promotion, before it is rolled back
log = logging.getLogger("fedloom.driver")


def tasks_to_release(connection: Connection) -> list[str]:
    """Return the tasks whose devices do not simply use the newest version."""
    return list(connection.execute(select(task_release.c.task).order_by(task_release.c.task)).scalars())


def sign_due(database: Database, task: Task, key: SigningKey, now_s: float) -> bool:
    """Sign what devices of a task are told where it changed, or half its time is over; say whether it was due."""
    with database.read() as connection:
        if not _is_due(load_release(connection, task.name), task, key, now_s):
            return False
    with database.write() as connection:
        state = lock_release(connection, task.name, None)
        if state is None or not _is_due(state, task, key, now_s):
            return False
        require_current_key(connection, key_id(key.public))
        going = under_way(connection, state)
        signed = sign_decision(
            Decision(
                task=task.name,
                sequence=state.revision,
                released=state.released,
                candidate=going.candidate if going else None,
                limit=going.limit if going else 0,
                pinned=state.pinned,
                issued_at_s=int(now_s),
                expires_at_s=int(now_s + task.plan.release.valid_s),
            ),
            key,
        )
        values = {"decision": signed.to_bytes(), "sequence": state.revision}
        connection.execute(update(task_release).where(task_release.c.task == task.name).values(values))
        bump(connection)
    log.info("task %s: release decision %d signed", task.name, state.revision)
    return True


def _is_due(state: ReleaseState | None, task: Task, key: SigningKey, now_s: float) -> bool:
    if state is None:
        return False
    decision = state.decision
    if decision is None or state.sequence != state.revision or decision.key_id != key_id(key.public):
        return True
    return now_s >= decision.expires_at_s - task.plan.release.valid_s / 2


def running_evaluation(connection: Connection, task_name: str) -> tuple[Promotion, StoredCohort | None] | None:
    """Return the promotion that is being evaluated and its cohort; None where there is none, or it waits."""
    going = under_way(connection, load_release(connection, task_name))
    if going is None or going.phase != EVALUATING:
        return None
    return going, load_cohort(connection, going.cohort) if going.cohort else None


def require_in_stage(connection: Connection, record: StoredCohort, device: str) -> None:
    """Refuse to let a device evaluate whom the candidate was not given, or that has done it.

    Raises:
        Refused: ``other-stage``, ``already-evaluated``.
    """
    state = load_release(connection, record.task)
    decision = None if state is None else state.decision
    if decision is None or decision.candidate != record.base_version or not decision.includes(device):
        raise Refused(
            "other-stage", "The device is not in the stage that evaluates this version.", "it checks in again"
        )
    if has_measured(connection, record.task, record.base_version, device):
        raise Refused(
            "already-evaluated",
            "The device's counts for this version have come already; in a second sum they could be told apart.",
        )


def plan_of(connection: Connection, task_name: str, number: int) -> Plan:
    """Return the plan of a version."""
    query = select(version.c.plan).where(version.c.task == task_name, version.c.number == number)
    return Plan.from_bytes(connection.execute(query).scalar_one())


def form_evaluation(
    database: Database,
    task: Task,
    one: Promotion,
    record: StoredCohort | None,
    new_id: Callable[[], str],
    now_s: float,
) -> bool:
    """Let the stage's next cohort form, or end the promotion after too many; say whether anything was done.

    After a cohort that failed the stage grows by as many devices as that one has spent.
    """
    with database.write() as connection:
        state = lock_release(connection, one.task, None)
        found = running_evaluation(connection, one.task)
        if state is None or found != (one, record):
            return True  # somebody acted meanwhile
        if one.attempts >= MAX_ATTEMPTS:
            end_promotion(connection, DRIVER, state, one, f"{MAX_ATTEMPTS} cohorts failed", now_s)
            return True
        left_s = one.since_s + task.plan.deadlines.round_s - now_s
        reach = reach_of(connection, task, one.candidate, one.rule.shares[one.stage], now_s, one.limit, left_s)
        if not reach.enough:
            reason = f"stage {one.stage + 1}: only {reach.able} devices are left that can evaluate it"
            end_promotion(connection, DRIVER, state, one, reason, now_s)
            return True
        changed = replace(one, cohort=new_id(), attempts=one.attempts + 1, limit=reach.limit)
        insert_cohort(
            connection,
            cohort_id=changed.cohort,
            task_name=one.task,
            round_number=one.number,
            attempt=changed.attempts,
            base_version=one.candidate,
            baseline=one.baseline,
            now_s=now_s,
        )
        save_promotion(connection, changed)
        if reach.limit != one.limit:
            detail: dict[str, Json] = {"version": one.candidate, "promotion": one.number, "stage": one.stage + 1}
            audit.record(connection, now_s, DRIVER, "release-stage-grown", one.task, detail)
            save_release(connection, state)
    log.info("task %s: version %d, stage %d is being evaluated", one.task, one.candidate, one.stage + 1)
    return True


def end_late(database: Database, one: Promotion, record: StoredCohort | None, deadline_s: float, now_s: float) -> bool:
    """Roll back a promotion whose stage nobody evaluated in time; say whether it was."""
    waits = record is None or record.state.phase in {Phase.FORMING, Phase.FAILED}
    if not waits or now_s - one.since_s <= deadline_s:
        return False
    with database.write() as connection:
        state = lock_release(connection, one.task, None)
        if state is None or running_evaluation(connection, one.task) != (one, record):
            return True
        reason = f"stage {one.stage + 1}: too few devices came to evaluate it within deadlines.round_s"
        end_promotion(connection, DRIVER, state, one, reason, now_s)
    log.warning("task %s: version %d is rolled back, %s", one.task, one.candidate, reason)
    return True

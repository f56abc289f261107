"""From stage to stage: who is in one, what a verdict leads to, how a promotion ends; in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, Select, insert, select, update

from cloud_server import audit
from cloud_server.releases.gate import Verdict, judge, smallest_stage, stage_limit
from cloud_server.releases.state import (
    EVALUATING,
    RELEASED,
    ROLLED_BACK,
    WAITING,
    Promotion,
    ReleaseState,
    save_promotion,
    save_release,
)
from cloud_server.rounds.eligibility import Candidate, left_out
from cloud_server.rounds.machine import OVER, Phase
from cloud_server.rounds.records import load_cohort
from cloud_server.rounds.selection import end_invitations
from cloud_server.storage.schema import cohort, device, evaluation, step
from cloud_server.tasks import Task
from shared.decision import place_of
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import ComparedSum
from shared.plan import Plan
from shared.wire.canonical import Json, encode

SEEN_S: Final = 86400.0  # devices that were not seen for longer cannot be counted on
DRIVER: Final = "driver"


@dataclass(frozen=True)
class Reach:
    """Who is in a stage.

    Attributes:
        limit: devices whose place is below it.
        able: how many of them can evaluate.
        enough: whether that is enough for a cohort.
    """

    limit: int
    able: int
    enough: bool


def reach_of(
    connection: Connection,
    task: Task,
    candidate: int,
    share: float,
    now_s: float,
    before: int = 0,
    left_s: float | None = None,
) -> Reach:
    """Return who is in a stage.

    In it are a share of all, and as many that can measure the candidate in time as make the smallest cohort; of all
    devices where too few of these were seen lately.

    Args:
        connection: reads.
        task: the task, with the candidate's plan.
        candidate: the version.
        share: of all devices.
        now_s: the time.
        before: the limit of the stage before, or of this one so far.
        left_s: how much of the stage's time is left, None for all of it.
    """
    if left_s is None:
        left_s = task.plan.deadlines.round_s
    fresh = _fresh_places(connection, task, candidate, now_s, now_s - SEEN_S, left_s)
    smallest = smallest_stage(task.plan.rules)
    if len(fresh) < smallest:
        fresh = _fresh_places(connection, task, candidate, now_s, 0.0, left_s)
    limit = stage_limit(fresh, share, smallest, before)
    able = sum(place < limit for place in fresh)
    return Reach(limit, able, able >= smallest)


def _fresh_places(
    connection: Connection, task: Task, candidate: int, now_s: float, since_s: float, left_s: float
) -> list[int]:
    """Return the places of devices that can evaluate within ``left_s`` and were seen since then."""
    spent = spent_devices(task.name, candidate)
    query = select(device).where(
        device.c.task == task.name,
        device.c.state == "active",
        device.c.last_seen_s >= since_s,
        device.c.device.not_in(spent),
    )
    rows = connection.execute(query)
    names = [row.device for row in rows if _can_evaluate(Candidate.of(row), task.plan, now_s, left_s)]
    return [place_of(task.name, candidate, name) for name in names]


def spent_devices(task_name: str, candidate: int) -> Select[tuple[str]]:
    """Return the query for devices whose masked counts of a candidate came, whatever became of their cohort.

    The same counts in two sums would be the difference of these sums, where the other members are the same.
    """
    return (
        select(step.c.device)
        .join(cohort, cohort.c.id == step.c.cohort)
        .where(
            cohort.c.task == task_name,
            cohort.c.purpose == "evaluation",
            cohort.c.base_version == candidate,
            step.c.step == "vector",
        )
    )


def has_measured(connection: Connection, task_name: str, candidate: int, name: str) -> bool:
    """Say whether a device's masked counts of a candidate came."""
    query = spent_devices(task_name, candidate).where(step.c.device == name)
    return connection.execute(query.limit(1)).one_or_none() is not None


def _can_evaluate(candidate: Candidate, plan: Plan, now_s: float, left_s: float) -> bool:
    out = left_out(candidate, plan, now_s)
    return out is None or (out.reason == "too-soon" and out.wait_s < left_s)


def settle_stage(
    connection: Connection,
    state: ReleaseState,
    one: Promotion,
    task: Task,
    found: ComparedSum,
    metric: str,
    *,
    members: int,
    now_s: float,
) -> Verdict:
    """Judge what a stage's devices found, store it, and go on, wait or roll back.

    Args:
        connection: inside the transaction that ends the stage's cohort.
        state: of the task's release.
        one: the promotion.
        task: the task.
        found: the cohort's sum.
        metric: of the model's manifest.
        members: of the cohort.
        now_s: the time.
    """
    fewest = task.plan.cohort.min_survivors
    verdict = judge(found, one.rule, "accuracy" if metric == "accuracy" else "loss", fewest)
    # Else somebody could read what a single device measured.
    enough = min(found.survivors, found.evaluated) >= fewest and not _tells_of_few(connection, one, fewest)
    counted: dict[str, Json] = {"members": members, "survivors": found.survivors, "evaluated": found.evaluated}
    result: dict[str, Json] = {
        **counted,
        "candidate": _sums(found.candidate) if enough else None,
        "baseline": _sums(found.baseline) if enough else None,
        "gate": verdict.to_json(),
    }
    connection.execute(
        insert(evaluation).values(
            cohort=one.cohort,
            task=one.task,
            promotion=one.number,
            stage=one.stage,
            candidate=one.candidate,
            baseline=one.baseline,
            result=encode(result),
            passed=int(verdict.passed),
            reason=verdict.reason,
            judged_s=now_s,
        )
    )
    detail: dict[str, Json] = {"version": one.candidate, "promotion": one.number, "stage": one.stage + 1}
    detail |= {**counted, "passed": verdict.passed, "reason": verdict.reason}  # for ever: no sums
    audit.record(connection, now_s, DRIVER, "release-evaluated", one.task, detail)
    if not verdict.passed:
        end_promotion(connection, DRIVER, state, one, f"stage {one.stage + 1}: {verdict.reason}", now_s)
    elif one.rule.automatic:
        go_on(connection, DRIVER, state, one, task, now_s)
    else:
        save_promotion(connection, replace(one, phase=WAITING, reason=verdict.reason))
        save_release(connection, state)
    return verdict


def _tells_of_few(connection: Connection, one: Promotion, fewest: int) -> bool:
    """Say whether a stage's sums, less those of other devices over the same version, would be those of a few devices.

    A version is measured by the rounds that begin with it, and by each promotion that compares with it.
    """
    versions = (one.candidate, one.baseline)
    stages = select(evaluation.c.cohort).where(
        evaluation.c.task == one.task,
        evaluation.c.cohort != one.cohort,
        evaluation.c.candidate.in_(versions) | evaluation.c.baseline.in_(versions),
    )
    rounds = select(cohort.c.id).where(
        cohort.c.task == one.task,
        cohort.c.purpose == "training",
        cohort.c.base_version.in_(versions),
        cohort.c.phase == Phase.SUMMED.value,
    )
    here = _measured_by(connection, one.cohort)
    others = (
        _measured_by(connection, found) for query in (stages, rounds) for found in connection.execute(query).scalars()
    )
    return any(0 < len(here ^ other) < fewest for other in others)


def _measured_by(connection: Connection, cohort_id: str) -> frozenset[str]:
    query = select(step.c.device).where(step.c.cohort == cohort_id, step.c.step == "vector")
    return frozenset(connection.execute(query).scalars())


def _sums(one: Evaluation) -> dict[str, Json]:
    return {"correct": one.correct, "loss_sum": one.loss_sum, "count": one.count}


def go_on(
    connection: Connection, who: str, state: ReleaseState, one: Promotion, task: Task, now_s: float
) -> ReleaseState:
    """Begin the next stage, or release the candidate after the last one."""
    end_invitations(connection, one.task, "evaluation")
    stage = one.stage + 1
    detail: dict[str, Json] = {"version": one.candidate, "promotion": one.number}
    if stage == len(one.rule.shares):
        save_promotion(connection, replace(one, phase=RELEASED, reason="every stage passed", ended_s=now_s))
        audit.record(connection, now_s, who, "release-completed", one.task, detail | {"before": one.baseline})
        return save_release(connection, replace(state, released=one.candidate))
    reach = reach_of(connection, task, one.candidate, one.rule.shares[stage], now_s, one.limit)
    next_one = replace(one, phase=EVALUATING, stage=stage, limit=reach.limit, since_s=now_s, cohort="", reason="")
    detail |= {"stage": stage + 1, "fresh": reach.able}
    if reach.enough:
        save_promotion(connection, next_one)
        audit.record(connection, now_s, who, "release-stage", one.task, detail)
        return save_release(connection, state)
    # So few are left that their sum would be one of too few; what the stages before found has to do for them.
    able = reach.able
    reason = f"stage {stage + 1}: only {able} devices are left that have not measured it, so it was not measured again"
    audit.record(connection, now_s, who, "release-stage", one.task, detail | {"reason": reason})
    if one.rule.automatic:
        return go_on(connection, who, state, next_one, task, now_s)
    save_promotion(connection, replace(next_one, phase=WAITING, reason=reason))
    return save_release(connection, state)


def end_promotion(
    connection: Connection, who: str, state: ReleaseState, one: Promotion, reason: str, now_s: float
) -> ReleaseState:
    """Roll a promotion back: its devices are told to use what was released before."""
    end_invitations(connection, one.task, "evaluation")
    if one.cohort and load_cohort(connection, one.cohort, lock=True).state.phase not in OVER:
        values = {"phase": Phase.FAILED.value, "since_s": now_s, "failure": "round-abandoned: the release was ended"}
        connection.execute(update(cohort).where(cohort.c.id == one.cohort).values(values))
    save_promotion(connection, replace(one, phase=ROLLED_BACK, reason=reason, ended_s=now_s))
    detail: dict[str, Json] = {"version": one.candidate, "promotion": one.number, "to": one.baseline, "reason": reason}
    audit.record(connection, now_s, who, "release-rolled-back", one.task, detail)
    return save_release(connection, state)

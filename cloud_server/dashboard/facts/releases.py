"""What devices are told to use, and how promotions went: the stages, what each found, and why one ended."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from cloud_server.releases.catalogue import shown_evaluations
from cloud_server.releases.gate import Rule, stages_text
from cloud_server.releases.state import (
    EVALUATING,
    RELEASED,
    WAITING,
    Promotion,
    list_promotions,
    load_release,
    promotion_of_release,
)
from cloud_server.storage.schema import cohort
from cloud_server.tasks import Task, newest_version
from shared.decision import PLACES
from shared.wire.canonical import Json

MOST_PROMOTIONS: Final = 20
Found = dict[str, Json]


def show_releases(connection: Connection, stored: Task) -> dict[str, Json]:
    """Return what a task's devices use, the promotion that is under way, and the newest ones that ended."""
    state, newest = load_release(connection, stored.name), newest_version(connection, stored.name)
    fewest, usual = stored.plan.cohort.min_survivors, Rule()
    evaluations = shown_evaluations(connection, stored.name, fewest)
    found = {(one["promotion"], one["stage"]): _found(one) for one in evaluations}
    newest_first = reversed(list_promotions(connection, stored.name)[-MOST_PROMOTIONS:])
    promotions = [(one, _promotion(connection, one, found)) for one in newest_first]
    made = None if state is None else promotion_of_release(connection, state)
    return {
        "revision": 0 if state is None else state.revision,
        "follows": "newest" if state is None else "promoted",
        "newest": newest,
        "released": newest if state is None else state.released,
        "pinned": None if state is None else state.pinned,
        "previous": made.baseline if made is not None else None,
        "told": state is None or state.sequence == state.revision,
        "has_noise": stored.plan.privacy.mechanism != "none",
        "smallest_cohort": fewest,
        "default_stages": stages_text(usual.shares),
        "default_tolerance": usual.tolerance,
        "default_largest_drop": usual.largest_drop,
        "promotion": next((shown for one, shown in promotions if one.under_way), None),
        "ended": [shown for one, shown in promotions if not one.under_way],
    }


def _promotion(connection: Connection, one: Promotion, found: dict[tuple[Json, Json], Found]) -> Found:
    phase = select(cohort.c.phase).where(cohort.c.id == one.cohort)
    stages: list[Json] = []
    for place, share in enumerate(one.rule.shares):
        measured = found.get((one.number, place + 1))
        stages.append({"stage": place + 1, "share": share, "state": _state(one, place, measured), "found": measured})
    return {
        "promotion": one.number,
        "version": one.candidate,
        "before": one.baseline,
        "phase": one.phase,
        "stage": one.stage + 1,
        "stages": stages,
        "automatic": one.rule.automatic,
        "tolerance": one.rule.tolerance,
        "largest_drop": one.rule.largest_drop,
        "reach": one.limit / PLACES,
        "cohorts": one.attempts,
        "cohort_phase": connection.execute(phase).scalar_one_or_none() if one.cohort else None,
        "by": one.promoted_by,
        "created_s": one.created_s,
        "since_s": one.since_s,
        "ended_s": one.ended_s,
        "reason": one.reason,
    }


def _state(one: Promotion, place: int, measured: Found | None) -> str:
    """Return how a stage stands, in a word."""
    if place > one.stage:
        return "ahead"
    if place == one.stage and one.phase in {EVALUATING, WAITING}:
        return one.phase
    if measured is not None:
        return "passed" if measured["passed"] else "failed"
    return "unmeasured" if place < one.stage or one.phase == RELEASED else "stopped"


def _found(one: Found) -> Found:
    """Return what a stage's devices found; of fewer than the smallest cohort only how many they were."""
    gate = one["gate"] if isinstance(one["gate"], dict) else {}
    measured = [_mean(one[name], gate.get("metric")) for name in ("candidate", "baseline")]
    return {
        "devices": one["evaluated"],
        "examples": one["candidate"]["count"] if isinstance(one["candidate"], dict) else None,
        "candidate": measured[0],
        "baseline": measured[1],
        "metric": gate.get("metric"),
        "suppressed": one["suppressed"],
        "passed": one["passed"],
        "reason": one["reason"],
        "judged_s": one["judged_s"],
    }


def _mean(sums: Json, metric: Json) -> Json:
    """Return accuracy and loss per example."""
    if not isinstance(sums, dict) or not sums["count"]:
        return None
    correct, loss, count = (float(str(sums[name])) for name in ("correct", "loss_sum", "count"))
    return {"accuracy": correct / count if metric == "accuracy" else None, "loss": loss / count}

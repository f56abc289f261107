"""The first page: how the task stands now, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, desc, func, select

from cloud_server.api.health import Check
from cloud_server.dashboard.facts.rounds import TRACK, show_cohort
from cloud_server.dashboard.facts.summaries import Budget, Devices
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.rounds import ABANDONED
from cloud_server.storage.schema import cohort, invitation, round_, task
from cloud_server.tasks import Task, newest_version
from shared.plan import Plan
from shared.wire.canonical import Json

LOOKED_AT: Final = 10  # newest cohorts and rounds, for alerts
NEARLY_SPENT: Final = 0.8  # of a privacy budget
MOST_TASKS: Final = 200  # in the menu


def task_menu(connection: Connection) -> list[dict[str, Json]]:
    """Return the tasks' names and states, active ones first."""
    order = (task.c.state != "active", task.c.name)
    rows = connection.execute(select(task.c.name, task.c.state).order_by(*order).limit(MOST_TASKS))
    return [{"task": row.name, "state": row.state} for row in rows]


def current_round(connection: Connection, stored: Task) -> dict[str, Json] | None:
    """Return the newest round with its newest cohort, None before the first."""
    query = select(round_).where(round_.c.task == stored.name).order_by(desc(round_.c.number)).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    attempt = (
        select(cohort)
        .where(cohort.c.task == stored.name, cohort.c.purpose == "training", cohort.c.round == row.number)
        .order_by(desc(cohort.c.attempt))
        .limit(1)
    )
    found = connection.execute(attempt).one_or_none()
    invited = row.invited
    if row.closed_s is None:
        asked = select(func.count()).select_from(invitation)
        asked = asked.where(invitation.c.task == stored.name, invitation.c.purpose == "training")
        invited = connection.execute(asked).scalar_one()
    return {
        "round": row.number,
        "phase": row.phase,
        "opened_s": row.opened_s,
        "closed_s": row.closed_s,
        "reason": row.reason,
        "invited": invited,
        "smallest": stored.plan.cohort.min_survivors,
        "largest": stored.plan.cohort.largest,
        "cohort": None if found is None else show_cohort(connection, found),
        "track": _track(None if found is None else found.phase, 0 if found is None else found.members),
    }


def _track(phase: str | None, members: int) -> list[dict[str, Json]]:
    """Return the phases of a cohort, each done, current or to come."""
    sparse = phase == Phase.SEEDING or members > 64
    shown = [step for step in TRACK if step is not Phase.SEEDING or sparse]
    place = [step.value for step in shown].index(phase) if phase in shown else -1
    return [
        {"phase": step.value, "state": "done" if number < place else "now" if number == place else "later"}
        for number, step in enumerate(shown)
    ]


def overview(
    connection: Connection, stored: Task, devices: Devices, budget: Budget, checks: Mapping[str, Check]
) -> dict[str, Json]:
    """Return how a task stands."""
    privacy = privacy_in_short(stored.plan, budget)
    alerts: list[Json] = [
        {"alert": "not-ready", "level": "bad", "what": name, "why": why} for name, why in _missing(checks)
    ]
    return {
        "task": stored.name,
        "state": stored.state,
        "reason": stored.reason,
        "version": newest_version(connection, stored.name),
        "now": current_round(connection, stored),
        "devices": devices.to_json(),
        "privacy": privacy,
        "alerts": [
            *alerts,
            *_of_devices(devices, stored),
            *_of_rounds(connection, stored),
            *_of_privacy(privacy),
        ],
    }


def privacy_in_short(plan: Plan, budget: Budget) -> dict[str, Json] | None:
    """Return what is spent of a budget, None without noise."""
    if plan.privacy.mechanism == "none":
        return None
    spent, allowed = budget.spending.epsilon, plan.privacy.max_epsilon
    return {
        "mechanism": plan.privacy.mechanism,
        "epsilon": spent,
        "max_epsilon": allowed,
        "delta": plan.privacy.delta,
        "percent": round(100 * min(1.0, spent / allowed)),
        "rounds_left": budget.rounds_left,
    }


def _missing(checks: Mapping[str, Check]) -> list[tuple[str, str]]:
    return [(name, missing) for name, check in checks.items() if (missing := check())]


def _of_devices(devices: Devices, stored: Task) -> list[Json]:
    found: list[Json] = []
    if not devices.total:
        found.append({"alert": "no-devices", "level": "note", "what": stored.name, "why": ""})
    elif stored.state == "active" and devices.online < stored.plan.cohort.min_survivors:
        why = _few_online(devices.online, stored.plan.cohort.min_survivors)
        found.append({"alert": "few-online", "level": "warn", "what": stored.name, "why": why})
    if devices.declining:
        found.append({"alert": "declining", "level": "warn", "what": str(devices.declining), "why": ""})
    if count := devices.by_state.get("quarantined", 0):
        found.append({"alert": "quarantined", "level": "warn", "what": str(count), "why": ""})
    return found


def _few_online(online: int, needed: int) -> str:
    return f"{online} is online, {needed} are needed." if online == 1 else f"{online} are online, {needed} are needed."


def _of_rounds(connection: Connection, stored: Task) -> list[Json]:
    found: list[Json] = []
    if stored.state != "active":
        found.append({"alert": "task-done", "level": "note", "what": stored.name, "why": stored.reason})
    cohorts = (
        select(cohort.c.phase, cohort.c.failure)
        .where(cohort.c.task == stored.name, cohort.c.purpose == "training")
        .order_by(desc(cohort.c.round), desc(cohort.c.attempt))
        .limit(LOOKED_AT)
    )
    failures = [row.failure for row in connection.execute(cohorts) if row.phase == Phase.FAILED]
    if len(failures) * 2 > LOOKED_AT:
        found.append(
            {"alert": "cohorts-fail", "level": "bad", "what": str(len(failures)), "why": failures[0].split(":")[0]}
        )
    newest = select(round_.c.phase).where(round_.c.task == stored.name).order_by(desc(round_.c.number)).limit(LOOKED_AT)
    abandoned = [phase for phase in connection.execute(newest).scalars() if phase == ABANDONED]
    if len(abandoned) * 2 > LOOKED_AT:
        found.append({"alert": "rounds-abandoned", "level": "warn", "what": str(len(abandoned)), "why": ""})
    return found


def _of_privacy(privacy: dict[str, Json] | None) -> list[Json]:
    percent = privacy["percent"] if privacy else 0
    if isinstance(percent, int) and percent >= 100 * NEARLY_SPENT:
        return [{"alert": "budget-nearly-spent", "level": "warn", "what": f"{percent} %", "why": ""}]
    return []

"""A task's privacy budget: every charge, how epsilon grew, and how far the rest reaches."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, desc, select

from cloud_server.dashboard.facts.overview import privacy_in_short
from cloud_server.dashboard.facts.summaries import Budget
from cloud_server.storage.schema import privacy_event
from cloud_server.tasks import Task
from shared.wire.canonical import Json

PAGE_ROWS: Final = 50


def show_privacy(connection: Connection, stored: Task, budget: Budget, before_s: float | None) -> dict[str, Json]:
    """Return the budget, the newest charges, and epsilon as spent and as forecast."""
    query = (
        select(privacy_event.c.cohort, privacy_event.c.members, privacy_event.c.survivors, privacy_event.c.charged_s)
        .where(privacy_event.c.task == stored.name)
        .order_by(desc(privacy_event.c.charged_s))
        .limit(PAGE_ROWS + 1)
    )
    if before_s is not None:
        query = query.where(privacy_event.c.charged_s < before_s)
    rows = connection.execute(query).all()
    spent = dict(budget.spending.curve)
    planned = dict(budget.forecast)
    return {
        "task": stored.name,
        "budget": privacy_in_short(stored.plan, budget),
        "noise_multiplier": stored.plan.privacy.noise_multiplier,
        "max_participations": stored.plan.privacy.max_participations,
        "charged": len(budget.spending.charges),
        "curve": [
            {"cohorts": place, "spent": spent.get(place), "planned": planned.get(place)}
            for place in sorted({*spent, *planned})
        ],
        "charges": [
            {"cohort": row.cohort, "members": row.members, "survivors": row.survivors, "charged_s": row.charged_s}
            for row in rows[:PAGE_ROWS]
        ],
        "older_s": rows[PAGE_ROWS - 1].charged_s if len(rows) > PAGE_ROWS else None,
    }

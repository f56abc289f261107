"""Tasks: their plans, and what a plan that is being written would mean, before any device hears of it."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Final

from sqlalchemy import Connection, desc, select

from cloud_server.beside import beside_other_requests
from cloud_server.cautions import cautions
from cloud_server.dashboard.facts.overview import MOST_TASKS
from cloud_server.privacy import forecast, paid_cohorts, require_possible
from cloud_server.storage.schema import task
from cloud_server.tasks import Task, newest_version
from shared.bundle import Bundle
from shared.errors import FedloomError
from shared.layout import Layout
from shared.plan import Plan
from shared.secagg.masking import WORD_BYTES
from shared.secagg.parameters import share_of, thresholds
from shared.training_inputs import require_known_inputs
from shared.wire.canonical import Json

LINKS_MBIT_S: Final = (0.25, 1.0, 10.0)  # a bad mobile link, a usual upload, a good one


def list_tasks(connection: Connection) -> dict[str, Json]:
    """Return the tasks, newest first."""
    query = select(task.c.name, task.c.state, task.c.reason, task.c.created_s).order_by(desc(task.c.created_s))
    rows = connection.execute(query.limit(MOST_TASKS)).all()
    tasks: list[Json] = [
        {
            "task": row.name,
            "state": row.state,
            "reason": row.reason,
            "created_s": row.created_s,
            "version": newest_version(connection, row.name),
        }
        for row in rows
    ]
    return {"tasks": tasks}


def show_task(connection: Connection, stored: Task, layout: Layout) -> dict[str, Json]:
    """Return a task's plan and what follows from it."""
    plan = asdict(stored.plan)
    del plan["task"]
    return {
        "task": stored.name,
        "state": stored.state,
        "reason": stored.reason,
        "version": newest_version(connection, stored.name),
        "plan_sha256": stored.plan.sha256.hex(),
        "plan": plan,
        "meaning": meaning(stored.plan, layout),
        "files": dict(stored.bundle),
    }


def plan_keys() -> dict[str, Json]:
    """Return every key of a plan with its default, by section."""
    sections = {field.name: getattr(Plan("any"), field.name) for field in fields(Plan) if field.name != "task"}
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(section).items()}
        for name, section in sections.items()
    }


def check_plan(text: str, bundle: Bundle | None) -> dict[str, Json]:
    """Return what a plan means, or the error that ``task create`` would give.

    Args:
        text: TOML.
        bundle: the model, None where none is chosen yet.
    """
    return beside_other_requests(lambda: _check(text, bundle))


def _check(text: str, bundle: Bundle | None) -> dict[str, Json]:
    try:
        plan = Plan.from_toml(text)
        layout = None
        if bundle is not None:
            require_known_inputs(bundle.manifest, plan.training.inputs)
            layout = Layout.of(bundle.manifest.tensors)
            require_possible(plan, layout)
        return {"error": None, "task": plan.task, "meaning": meaning(plan, layout)}
    except FedloomError as error:
        return {"error": dict(error.to_json()), "task": "", "meaning": None}


def meaning(plan: Plan, layout: Layout | None) -> dict[str, Json]:
    """Return what a plan costs and needs; with a model also its bytes and its privacy."""
    found: dict[str, Json] = {
        "cohorts": [_of_cohort(plan, size) for size in dict.fromkeys((plan.cohort.min_survivors, plan.cohort.largest))],
        "rotated": plan.rotated,
    }
    if layout is None:
        return found | {"cautions": [*cautions(plan)]}
    paid = paid_cohorts(plan, layout)
    size_bytes = plan.vector_words(layout.shared.size, layout.statistics.size) * WORD_BYTES
    return found | {
        "parameters": layout.shared.size + layout.statistics.size,
        "vector_bytes": size_bytes,
        "seconds": [{"mbit_s": speed, "upload_s": 8 * size_bytes / (1e6 * speed)} for speed in LINKS_MBIT_S],
        "paid_cohorts": paid,
        "epsilon": [{"cohorts": cohorts, "epsilon": epsilon} for cohorts, epsilon in forecast(plan, layout)],
        "cautions": [*cautions(plan, paid)],
    }


def _of_cohort(plan: Plan, members: int) -> dict[str, Json]:
    try:
        found = thresholds(members, plan.rules)
    except FedloomError as error:
        return {"members": members, "error": error.message}
    return {
        "members": members,
        "neighbours": found.neighbours,
        "threshold": found.threshold,
        "survivors": found.survivors,
        "corrupt": share_of(plan.cohort.corrupt_share, members),
        "levels": plan.grid(members).levels,
    }

"""What pages need besides the aggregator's parts, and the task that a page is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from flask import current_app, request
from sqlalchemy import Connection

from cloud_server.api.context import context
from cloud_server.api.health import Check
from cloud_server.dashboard.facts.overview import task_menu
from cloud_server.dashboard.facts.summaries import Budget, Summaries
from cloud_server.tasks import Task, layout_of, load_task
from shared.wire.canonical import Json

EXTENSION: Final = "fedloom-dashboard-parts"


@dataclass(frozen=True)
class Parts:
    """What pages need.

    Attributes:
        summaries: counts that are remembered.
        checks: what may be missing, by name.
    """

    summaries: Summaries
    checks: Mapping[str, Check]


def dashboard() -> Parts:
    """Return the running application's."""
    return cast("Parts", current_app.extensions[EXTENSION])


def chosen_task(connection: Connection, wanted: str = "") -> tuple[Task | None, list[dict[str, Json]]]:
    """Return the wanted task, else the query's, else the first, and the menu of all; None where there are none."""
    menu = task_menu(connection)
    name = wanted or request.args.get("task", "") or (str(menu[0]["task"]) if menu else "")
    return (load_task(connection, name) if name else None), menu


def budget_of(stored: Task) -> Budget:
    """Return what is spent of a task's privacy budget."""
    return dashboard().summaries.budget(stored, layout_of(context().blobs, stored))

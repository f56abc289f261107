"""The pages about tasks: each reads its values in one transaction, and shows them."""

from __future__ import annotations

from http import HTTPStatus

from flask import redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from cloud_server import audit
from cloud_server.api.context import context
from cloud_server.dashboard.facts import devices, overview, privacy, rounds, system, tasks
from cloud_server.dashboard.guard import for_role
from cloud_server.dashboard.parts import budget_of, chosen_task, dashboard
from cloud_server.dashboard.showing import LARGEST_NUMBER, blueprint, page, show, show_part, whole_number
from cloud_server.tasks import layout_of, load_task
from shared.wire.canonical import Json

AUDIT_ROWS = 50


@blueprint.get("/")
@for_role("viewer")
def home() -> AnyResponse:
    """Lead to the first page."""
    return redirect(url_for("console.show_overview"), HTTPStatus.SEE_OTHER)


def _overview() -> tuple[dict[str, Json], list[dict[str, Json]]]:
    parts = context()
    with parts.database.read() as connection:
        stored, menu = chosen_task(connection)
    if stored is None:
        return {"task": None, "alerts": [], "history": []}, menu
    counted, budget = dashboard().summaries.devices(stored.name), budget_of(stored)
    with parts.database.read() as connection:
        values = overview.overview(connection, stored, counted, budget, dashboard().checks)
        return values | {"history": [*rounds.history(connection, stored)]}, menu


@page("/overview")
def show_overview() -> AnyResponse:
    """Show how a task stands."""
    values, menu = _overview()
    return show("overview", values, menu=menu)


@blueprint.get("/overview/live")
@for_role("viewer")
def live_overview() -> AnyResponse:
    """Return the part of the overview that changes."""
    values, menu = _overview()
    return show_part("overview_live", values, menu=menu)


def _rounds() -> tuple[dict[str, Json], list[dict[str, Json]]]:
    with context().database.read() as connection:
        stored, menu = chosen_task(connection)
        if stored is None:
            return {"task": None, "rounds": [], "now": None}, menu
        values = rounds.list_rounds(connection, stored, whole_number("before"))
        return values | {"now": overview.current_round(connection, stored)}, menu


@page("/rounds")
def show_rounds() -> AnyResponse:
    """List a task's rounds."""
    values, menu = _rounds()
    return show("rounds", values, menu=menu)


@blueprint.get("/rounds/live")
@for_role("viewer")
def live_rounds() -> AnyResponse:
    """Return the list that changes."""
    values, menu = _rounds()
    return show_part("rounds_live", values, menu=menu)


@page("/rounds/<task>/<int:number>")
def show_round(task: str, number: int) -> AnyResponse:
    """Show a round and its cohorts."""
    parts = context()
    with parts.database.read() as connection:
        stored = load_task(connection, task)
        return show("round", rounds.show_round(connection, parts.blobs, stored, min(number, LARGEST_NUMBER)))


@page("/devices")
def show_devices() -> AnyResponse:
    """List a task's devices."""
    parts = context()
    with parts.database.read() as connection:
        stored, menu = chosen_task(connection)
        search = devices.Search.of(request.args.to_dict())
        if stored is None:
            values: dict[str, Json] = {"task": None, "devices": []}
        else:
            values = devices.list_devices(connection, stored.name, search, parts.clock.now_s())
    if stored is not None:
        values |= {"counts": dashboard().summaries.devices(stored.name).to_json()}
    return show("devices", values, menu=menu, states=devices.STATES)


@page("/devices/<device>")
def show_device(device: str) -> AnyResponse:
    """Show a device."""
    parts = context()
    with parts.database.read() as connection:
        return show("device", devices.show_device(connection, device, parts.clock.now_s()))


@page("/tasks")
def show_tasks() -> AnyResponse:
    """List the tasks."""
    with context().database.read() as connection:
        return show("tasks", tasks.list_tasks(connection))


@page("/tasks/<task>")
def show_task(task: str) -> AnyResponse:
    """Show a task's plan and what follows from it."""
    parts = context()
    with parts.database.read() as connection:
        stored = load_task(connection, task)
    layout = layout_of(parts.blobs, stored)
    with parts.database.read() as connection:
        return show("task", tasks.show_task(connection, stored, layout))


@page("/privacy")
def show_privacy() -> AnyResponse:
    """Show a task's privacy budget."""
    parts = context()
    with parts.database.read() as connection:
        stored, menu = chosen_task(connection)
    if stored is None:
        return show("privacy", {"task": None, "budget": None}, menu=menu)
    budget = budget_of(stored)
    before_ms = whole_number("before_ms", 2**53)
    before_s = None if before_ms is None else before_ms / 1000
    with parts.database.read() as connection:
        return show("privacy", privacy.show_privacy(connection, stored, budget, before_s), menu=menu)


@page("/audit")
def show_audit() -> AnyResponse:
    """List what operators and drivers did, newest first."""
    before = whole_number("before")
    with context().database.read() as connection:
        found = audit.newest_entries(connection, before=before, limit=AUDIT_ROWS + 1)
    older = found[AUDIT_ROWS - 1]["number"] if len(found) > AUDIT_ROWS else None
    return show("audit", {"entries": [*found[:AUDIT_ROWS]], "older": older, "before": before})


@page("/audit/chain")
def show_chain() -> AnyResponse:
    """Compute the hashes of entries that were not verified yet, and compare the end with the anchor."""
    head = dashboard().summaries.verified()
    anchored = context().anchor.head()
    values: dict[str, Json] = {"verified": head.number, "sha256": head.sha256.hex(), "anchored": anchored.number}
    return show("audit_chain", values)


@page("/system")
def show_system() -> AnyResponse:
    """Show what runs and what is missing."""
    parts = context()
    with parts.database.read() as connection:
        values = system.show_system(connection, parts, dashboard().checks)
        return show("system", values | {"keys": system.show_keys(connection, parts)})

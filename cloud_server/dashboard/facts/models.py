"""Versions of a task's model, and how they did."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, desc, select

from cloud_server.dashboard.facts.rounds import measured
from cloud_server.releases.catalogue import Form
from cloud_server.releases.state import load_release, under_way
from cloud_server.rounds.retention import kept_versions
from cloud_server.storage.schema import round_, version
from cloud_server.tasks import Task, newest_version, release_files
from shared.bundle import INFER_FILE, INFER_INT8_FILE
from shared.wire.canonical import Json, decode

PAGE_ROWS: Final = 50


def list_versions(connection: Connection, stored: Task, before: int | None = None) -> dict[str, Json]:
    """Return the newest versions, or the newest ones before a number, with what the next round measured of each."""
    names = (version.c.number, version.c.created_s, version.c.model_sha256, version.c.release)
    query = select(*names).where(version.c.task == stored.name).order_by(desc(version.c.number)).limit(PAGE_ROWS + 1)
    if before is not None:
        query = query.where(version.c.number < before)
    rows = connection.execute(query).all()
    shown = rows[:PAGE_ROWS]
    numbers = [row.number for row in shown]
    results = _results(connection, stored, numbers)
    kept = kept_versions(connection, stored.name, numbers)
    uses = _uses(connection, stored.name)
    versions: list[Json] = [
        {
            "version": row.number,
            "created_s": row.created_s,
            "model_sha256": row.model_sha256.hex(),
            "bytes": sum(entry.size_bytes for entry in release_files(row.release).values()),
            "kept": row.number in kept,
            "forms": [*forms_of(row.release)] if row.number in kept else [],
            "uses": [*uses.get(row.number, [])],
            **measured(results.get(row.number, {}), stored.plan),
        }
        for row in shown
    ]
    older = numbers[-1] if len(rows) > PAGE_ROWS else None
    return {"task": stored.name, "versions": versions, "older": older, "before": before}


def forms_of(release: bytes) -> list[Form]:
    """Return the forms in which a version's file is there without TensorFlow."""
    names = release_files(release)
    needed: dict[Form, str | None] = {"float": INFER_FILE, "int8": INFER_INT8_FILE, "safetensors": None}
    return [form for form, name in needed.items() if name is None or name in names]


def _uses(connection: Connection, task: str) -> dict[int, list[str]]:
    """Return what devices do with versions, in a word or two each."""
    state = load_release(connection, task)
    if state is None:
        return {newest_version(connection, task): ["newest"]}
    going, found = under_way(connection, state), dict[int, list[str]]()
    named = (state.pinned, "pinned"), (state.released, "released"), (going.candidate if going else None, "stage")
    for number, use in named:
        if number is not None:
            found.setdefault(number, []).append(use)
    return found


def _results(connection: Connection, stored: Task, numbers: list[int]) -> dict[int, dict[str, Json]]:
    """Return the result of a closed round that began from each version."""
    if not numbers:
        return {}
    query = select(round_.c.base_version, round_.c.result).where(
        round_.c.task == stored.name,
        round_.c.base_version.between(min(numbers), max(numbers)),
        round_.c.result.is_not(None),
    )
    return {row.base_version: decode(row.result) for row in connection.execute(query)}

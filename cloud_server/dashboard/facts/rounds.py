"""Rounds: the list, and how each of its cohorts went from invitation to sum.

Of what devices measured only sums over whole cohorts are stored; those over fewer devices than the plan's smallest
cohort, which no honest run has, are left out all the same.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Row, desc, func, select

from cloud_server.rounds.machine import Phase
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.schema import cohort, invitation, round_, step
from cloud_server.tasks import Task, layout_of
from shared.errors import Missing
from shared.plan import Plan
from shared.secagg.masking import WORD_BYTES
from shared.secagg.roster import from_bitmap
from shared.wire.canonical import Json, decode

PAGE_ROWS: Final = 50
CHART_ROUNDS: Final = 200
TRACK: Final = (
    Phase.FORMING,
    Phase.SEEDING,
    Phase.SHARING,
    Phase.COLLECTING,
    Phase.AGREEING,
    Phase.UNMASKING,
    Phase.SUMMED,
)
_STEPS: Final = ("join", "shares", "vector", "agreement", "answer")


def list_rounds(connection: Connection, stored: Task, before: int | None = None) -> dict[str, Json]:
    """Return the newest rounds, or the newest ones before a number."""
    rows = _newest(connection, stored.name, PAGE_ROWS + 1, before)
    return {
        "task": stored.name,
        "before": before,
        "rounds": [_plain(row, stored.plan) for row in rows[:PAGE_ROWS]],
        "older": rows[PAGE_ROWS - 1].number if len(rows) > PAGE_ROWS else None,
    }


def history(connection: Connection, stored: Task) -> list[dict[str, Json]]:
    """Return how the newest versions did, oldest first: each closed round measured the version it began from."""
    rows = _newest(connection, stored.name, CHART_ROUNDS, None)
    plain = [_plain(row, stored.plan) for row in reversed(rows) if row.result is not None]
    return [
        {name: entry[name] for name in ("base_version", "round", "accuracy", "loss", "clipped_share", "update_norm")}
        for entry in plain
    ]


def show_round(connection: Connection, blobs: BlobStore, stored: Task, number: int) -> dict[str, Json]:
    """Return a round with its cohorts.

    Raises:
        Missing: ``round-unknown``.
    """
    query = select(round_).where(round_.c.task == stored.name, round_.c.number == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("round-unknown", f"Task {stored.name!r} has no round {number}.", "choose one from the list")
    plain = _plain(row, stored.plan)
    if row.closed_s is None:
        asked = select(func.count()).select_from(invitation)
        asked = asked.where(invitation.c.task == stored.name, invitation.c.purpose == "training")
        plain["invited"] = connection.execute(asked).scalar_one()
    of_round = (cohort.c.task == stored.name, cohort.c.purpose == "training", cohort.c.round == number)
    attempts = select(cohort).where(*of_round)
    cohorts = [show_cohort(connection, found) for found in connection.execute(attempts.order_by(cohort.c.attempt))]
    layout = layout_of(blobs, stored)
    return {
        "task": stored.name,
        "round": plain,
        "funnel": [*_funnel(plain, cohorts)],
        "cohorts": [*cohorts],
        "vector_bytes": stored.plan.vector_words(layout.shared.size, layout.statistics.size) * WORD_BYTES,
        "newer": number + 1 if _exists(connection, stored.name, number + 1) else None,
        "older": number - 1 if number > 1 else None,
    }


def show_cohort(connection: Connection, row: Row[Any]) -> dict[str, Json]:
    """Return an attempt at a round: where it stands, and when its members' messages came, while these are kept."""
    came = (
        select(step.c.step, func.count(), func.min(step.c.received_s), func.max(step.c.received_s))
        .where(step.c.cohort == row.id)
        .group_by(step.c.step)
    )
    steps = {found[0]: tuple(found)[1:] for found in connection.execute(came)}
    code, _, text = row.failure.partition(": ")
    members = row.members or (steps["join"][0] if "join" in steps else 0)
    return {
        "cohort": row.id,
        "attempt": row.attempt,
        "phase": row.phase,
        "since_s": row.since_s,
        "members": members,
        "sharers": None if row.sharers is None else len(from_bitmap(row.sharers, row.members)),
        "survivors": None if row.survivors is None else len(from_bitmap(row.survivors, row.members)),
        "failure": code,
        "reason": text,
        "steps": [
            {"step": name, "devices": count, "first_s": first_s, "last_s": last_s}
            for name in _STEPS
            if name in steps
            for count, first_s, last_s in [steps[name]]
        ],
    }


def _funnel(plain: dict[str, Json], cohorts: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Return how many devices came how far, of the attempt that was the last."""
    last = cohorts[-1] if cohorts else {}
    stages = {
        "invited": plain["invited"],
        "joined": last.get("members"),
        "shared": last.get("sharers"),
        "survived": last.get("survivors"),
    }
    known = [value for value in stages.values() if isinstance(value, int)]
    most = max([*known, 1])
    return [
        {"stage": stage, "devices": value, "percent": round(100 * value / most) if isinstance(value, int) else None}
        for stage, value in stages.items()
    ]


def _newest(connection: Connection, task: str, count: int, before: int | None) -> list[Row[Any]]:
    query = select(round_).where(round_.c.task == task).order_by(desc(round_.c.number)).limit(count)
    if before is not None:
        query = query.where(round_.c.number < before)
    return list(connection.execute(query).all())


def _exists(connection: Connection, task: str, number: int) -> bool:
    query = select(round_.c.number).where(round_.c.task == task, round_.c.number == number)
    return connection.execute(query).first() is not None


def _plain(row: Row[Any], plan: Plan) -> dict[str, Json]:
    result = {} if row.result is None else decode(row.result)
    return {
        "round": row.number,
        "phase": row.phase,
        "base_version": row.base_version,
        "opened_s": row.opened_s,
        "closed_s": row.closed_s,
        "duration_s": None if row.closed_s is None else row.closed_s - row.opened_s,
        "reason": row.reason,
        "invited": row.invited,
        "participants": result.get("participants"),
        "survivors": result.get("survivors"),
        **measured(result, plan),
    }


def measured(result: dict[str, Json], plan: Plan) -> dict[str, Json]:
    """Return what a round's result says of the model, nothing of a sum over too few devices."""
    survivors, examples, clipped = (_number(result, name) for name in ("survivors", "evaluated", "clipped"))
    enough = survivors >= plan.cohort.min_survivors
    counted = enough and examples > 0
    return {
        "examples": int(examples) if counted else None,
        "accuracy": min(1.0, max(0.0, _number(result, "correct") / examples)) if counted else None,
        "loss": _number(result, "loss_sum") / examples if counted else None,
        "clipped_share": min(1.0, max(0.0, clipped / survivors)) if enough else None,
        "update_norm": _number(result, "update_norm") if enough and "update_norm" in result else None,
        "suppressed": bool(result) and not enough,
    }


def _number(result: dict[str, Json], name: str) -> float:
    value = result.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0

"""Rounds in the database: opened on the newest version, closed with a result, counted for stopping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, desc, func, insert, select, update

from cloud_server import audit
from cloud_server.rounds.selection import end_invitations
from cloud_server.storage.database import bump
from cloud_server.storage.schema import round_
from cloud_server.storage.schema import task as task_table
from cloud_server.tasks import Task, newest_version
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.wire.canonical import Json, decode, encode

OPEN = "open"
CLOSED = "closed"
ABANDONED = "abandoned"


@dataclass(frozen=True)
class OpenRound:
    """The round that devices may contribute to now."""

    number: int
    base_version: int
    opened_s: float


def open_round(connection: Connection, task_name: str) -> OpenRound | None:
    """Return a task's open round, if there is one."""
    query = select(round_).where(round_.c.task == task_name, round_.c.phase == OPEN)
    row = connection.execute(query).one_or_none()
    return None if row is None else OpenRound(row.number, row.base_version, row.opened_s)


def last_round_number(connection: Connection, task_name: str) -> int:
    """Return the number of the last round, 0 before the first."""
    query = select(func.max(round_.c.number)).where(round_.c.task == task_name)
    return connection.execute(query).scalar_one() or 0


def new_round(connection: Connection, task: Task, now_s: float) -> int:
    """Open the next round on the newest version and return its number."""
    number = last_round_number(connection, task.name) + 1
    connection.execute(
        insert(round_).values(
            task=task.name,
            number=number,
            base_version=newest_version(connection, task.name),
            phase=OPEN,
            opened_s=now_s,
            reason="",
        )
    )
    bump(connection)
    return number


def stop_reason(connection: Connection, task: Task, evaluation: Evaluation, now_s: float) -> str:
    """Return why no further round is opened after the one that closes now, empty if one is.

    Args:
        connection: inside the closing transaction.
        task: the task.
        evaluation: of the version that the round started from, summed over its devices.
        now_s: seconds since the epoch.
    """
    stop = task.plan.stop
    accuracy = evaluation.accuracy
    if stop.target_accuracy and accuracy is not None and accuracy >= stop.target_accuracy:
        return f"the target accuracy of {stop.target_accuracy:g} was reached"
    closed = select(func.count()).where(round_.c.task == task.name, round_.c.phase == CLOSED)
    if stop.rounds and connection.execute(closed).scalar_one() + 1 >= stop.rounds:  # abandoned ones do not count
        return f"{stop.rounds} rounds were planned"
    query = select(func.min(round_.c.opened_s)).where(round_.c.task == task.name)
    first_s = connection.execute(query).scalar_one() or now_s
    if stop.after_s and now_s - first_s >= stop.after_s:
        return f"{stop.after_s:g} s were planned"
    return ""


def close_round(
    connection: Connection,
    task: Task,
    aggregate: AggregateSum | None,
    now_s: float,
    *,
    members: int = 0,
    stopped: str = "",
    reason: str = "",
) -> None:
    """Close the open round with what was learned, or abandon it without; mark the task done if it is."""
    result: dict[str, Json] | None = None
    if aggregate is not None:
        evaluation = aggregate.evaluation
        result = {
            "participants": members,
            "survivors": aggregate.survivors,
            "clipped": aggregate.clipped,
            "weight_sum": aggregate.weight_sum,
            "evaluated": evaluation.count,
            "correct": evaluation.correct,
            "loss_sum": evaluation.loss_sum,
            "update_norm": _norm_of_mean(task, aggregate),
        }
    invited = end_invitations(connection, task.name, "training")
    connection.execute(
        update(round_)
        .where(round_.c.task == task.name, round_.c.phase == OPEN)
        .values(
            invited=invited,
            phase=ABANDONED if aggregate is None else CLOSED,
            closed_s=now_s,
            reason=reason,
            result=None if result is None else encode(result),
        )
    )
    if stopped:
        connection.execute(
            update(task_table).where(task_table.c.name == task.name).values(state="done", reason=stopped)
        )
        audit.record(connection, now_s, "server", "task-done", task.name, {"reason": stopped})
    bump(connection)


def _norm_of_mean(task: Task, aggregate: AggregateSum) -> float:
    """Return the L2 norm of what the devices' clipped updates were on average, 0 where none had any weight."""
    weight = aggregate.weight_sum / task.plan.update.max_weight
    return float(np.linalg.norm(aggregate.values)) / weight if weight > 0 else 0.0


def list_rounds(connection: Connection, task_name: str) -> list[dict[str, Json]]:
    """Return every round, newest last, as plain values for tables and JSON."""
    rows = connection.execute(select(round_).where(round_.c.task == task_name).order_by(desc(round_.c.number)))
    listed: list[dict[str, Json]] = [
        {
            "round": row.number,
            "base_version": row.base_version,
            "invited": row.invited,
            "phase": row.phase,
            "opened_s": row.opened_s,
            "closed_s": row.closed_s,
            "reason": row.reason,
            **({} if row.result is None else decode(row.result)),
        }
        for row in rows
    ]
    return listed[::-1]

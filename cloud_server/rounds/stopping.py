"""An operator ends what runs: a round, or a task with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, update

from cloud_server import audit
from cloud_server.operators.accounts import By
from cloud_server.releases.state import lock_release
from cloud_server.rounds.machine import OVER, Phase
from cloud_server.rounds.records import current_cohort_id, load_cohort, save_state
from cloud_server.rounds.rounds import close_round, open_round
from cloud_server.storage.database import bump
from cloud_server.storage.schema import task as task_table
from cloud_server.tasks import Task, load_task
from shared.errors import Conflict

LONGEST_REASON: Final = 200


def give_up_round(connection: Connection, task: Task, now_s: float, *, cause: str, reason: str) -> None:
    """Fail the cohort of the open round, if there is one, and abandon the round.

    Args:
        connection: whose transaction holds the lock of the task's release, as drivers' steps do.
        task: of the round.
        now_s: the time.
        cause: of the failure of the cohort.
        reason: why the round is abandoned.
    """
    cohort_id = current_cohort_id(connection, task.name)
    state = load_cohort(connection, cohort_id, lock=True).state if cohort_id is not None else None
    if cohort_id is not None and state is not None and state.phase not in OVER:
        ended = replace(state, phase=Phase.FAILED, since_s=now_s, failure=f"round-abandoned: {cause}")
        save_state(connection, cohort_id, ended)
    if open_round(connection, task.name) is not None:
        close_round(connection, task, None, now_s, reason=reason)


def stop_task(connection: Connection, name: str, reason: str, by: By) -> None:
    """End a task for good: its open round is abandoned, no other is opened, and devices hear that it is done.

    What was published stays, with its releases, privacy ledger and downloads.

    Args:
        connection: writes.
        name: of the task.
        reason: for devices' owners and the audit log; may be empty.
        by: who stops it.

    Raises:
        Missing: ``task-unknown``.
        Conflict: ``task-over``.
    """
    lock_release(connection, name, None)
    task = load_task(connection, name)
    if task.state != "active":
        raise Conflict("task-over", f"Task {name!r} is over already: {task.reason}.", "there is nothing to stop")
    text = "an operator stopped it" + (f": {reason[:LONGEST_REASON]}" if reason else "")
    give_up_round(connection, task, by.now_s, cause=text, reason=text)
    connection.execute(update(task_table).where(task_table.c.name == name).values(state="done", reason=text))
    audit.record(connection, by.now_s, by.actor, "task-stopped", name, {"reason": reason[:LONGEST_REASON]})
    bump(connection)

"""What a device that checks in should do.

Most devices that come have nothing to do, and get their answer from what this process remembers of their task, without
another look at the database: the row that their request was taken with says whether a driver has moved something since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, bindparam, select

from cloud_server.rounds.eligibility import Candidate, left_out
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.pacing import Pacer
from cloud_server.rounds.records import StoredCohort, current_cohort_id, load_cohort
from cloud_server.rounds.rounds import last_round_number, open_round
from cloud_server.rounds.selection import invite, places_left, uninvite
from cloud_server.storage.database import Database, read_revision
from cloud_server.storage.schema import step
from cloud_server.tasks import Task, load_task, newest_version
from shared.clock import Clock
from shared.limits import RETRY_AFTER_MS
from shared.wire.messages import Assignment, Reason

DONE_RETRY_S: Final = 60.0
FULL_S: Final = 1.0  # how long a process believes that nobody else is needed
PASSING: Final[frozenset[Reason]] = frozenset(
    {"no-round", "joined", "round-full"}
)  # reasons to wait that a driver ends
_HAS_JOINED: Final = select(step.c.device).where(
    step.c.cohort == bindparam("cohort"), step.c.device == bindparam("device"), step.c.step == "join"
)


@dataclass(frozen=True)
class Outlook:
    """How a task stands, the same for all of its devices.

    Attributes:
        revision: at which this was read.
        task: the task.
        version: the newest.
        round_number: of the open round, or the last one.
        forming: the cohort that forms in the open round.
    """

    revision: str
    task: Task
    version: int
    round_number: int
    forming: StoredCohort | None


def has_joined(connection: Connection, cohort_id: str, name: str) -> bool:
    """Say whether a device has joined a cohort."""
    return connection.execute(_HAS_JOINED, {"cohort": cohort_id, "device": name}).one_or_none() is not None


def look(connection: Connection, task_name: str, revision: str = "") -> Outlook:
    """Read how a task stands.

    Raises:
        Missing: ``task-unknown``.
    """
    opened, cohort_id = open_round(connection, task_name), current_cohort_id(connection, task_name)
    record = load_cohort(connection, cohort_id) if opened is not None and cohort_id is not None else None
    forms = record and opened and record.round_number == opened.number and record.state.phase is Phase.FORMING
    return Outlook(
        revision,
        load_task(connection, task_name),
        newest_version(connection, task_name),
        last_round_number(connection, task_name),
        record if forms else None,
    )


class Assigner:
    """Answers one process's check-ins.

    Args:
        database: of the aggregator.
        clock: the time.
        pacer: when devices come back.
    """

    def __init__(self, database: Database, clock: Clock, pacer: Pacer) -> None:
        self._database = database
        self._clock = clock
        self._pacer = pacer
        self._outlooks: dict[str, Outlook] = {}
        self._full_until_s: dict[str, float] = {}  # by cohort

    def assignment(self, row: Row[Any], task_name: str, declined: int = 0) -> Assignment:
        """Return what the device of ``row`` does next.

        Args:
            row: ``KNOWN`` columns of the device, read a moment ago.
            task_name: of its task.
            declined: the round in which it will not take part, 0 for none.

        Raises:
            Missing: ``task-unknown``.
        """
        now_s = self._clock.now_s()
        outlook = self._outlook(task_name, row.revision)
        if outlook.task.state == "done":
            return self._wait(outlook, "done", self._pacer.retry_after_ms(DONE_RETRY_S))
        out = left_out(Candidate.of(row), outlook.task.plan, now_s)
        if out is not None:
            return self._wait(outlook, "wait", self._pacer.retry_after_ms(out.wait_s), out.reason)
        reason = self._reason(outlook, row, declined, now_s)
        if not reason:
            return Assignment("train", outlook.version, outlook.round_number, 0)
        soon = RETRY_AFTER_MS if self._pacer.pace().holds and reason != "declined" else self._pacer.retry_after_ms()
        return self._wait(outlook, "wait", soon, reason)

    def holds(self, assignment: Assignment) -> bool:
        """Say whether to hold the request in case there is soon something else to do."""
        return assignment.reason in PASSING and self._pacer.pace().holds

    def _outlook(self, task_name: str, revision: str | None) -> Outlook:
        known = self._outlooks.get(task_name)
        if known is None or known.revision != (revision or ""):
            with self._database.read() as connection:
                known = look(connection, task_name, read_revision(connection))
            self._outlooks[task_name] = known
            self._full_until_s.clear()
        return known

    def _reason(self, outlook: Outlook, row: Row[Any], declined: int, now_s: float) -> Reason:
        """Return why there is nothing to do for a device that may contribute, empty if it shall train."""
        forming, task_name = outlook.forming, outlook.task.plan.task
        if forming is None:
            return "no-round"
        if declined == outlook.round_number:
            if row.invited:
                with self._database.write() as connection:
                    uninvite(connection, task_name, row.device)
                self._full_until_s.clear()
            return "declined"
        if not row.invited and not self._has_places(outlook, forming, now_s):
            return "round-full"
        with self._database.read() as connection:
            if has_joined(connection, forming.id, row.device):
                return "joined"
        if row.invited:
            return ""
        with self._database.write() as connection:
            return "" if invite(connection, outlook.task.plan, forming, row.device, now_s) else "round-full"

    def _has_places(self, outlook: Outlook, forming: StoredCohort, now_s: float) -> bool:
        if now_s < self._full_until_s.get(forming.id, 0.0):
            return False
        with self._database.read() as connection:
            left = places_left(connection, outlook.task.plan, forming, now_s)
        if left:
            return True
        self._full_until_s[forming.id] = now_s + FULL_S
        return False

    def _wait(
        self, outlook: Outlook, action: Literal["wait", "done"], retry_ms: int, reason: Reason = ""
    ) -> Assignment:
        return Assignment(action, outlook.version, outlook.round_number, retry_ms, reason)

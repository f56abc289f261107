"""What a device that checks in should do.

Most devices that come have nothing to do, and get their answer from what this process remembers of their task, without
another look at the database: the row that their request was taken with says whether a driver has moved something since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, bindparam, select

from cloud_server.releases.keys import shown_key_number
from cloud_server.releases.stages import has_measured
from cloud_server.releases.state import load_release
from cloud_server.rounds.eligibility import Candidate, left_out
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.pacing import Pacer
from cloud_server.rounds.records import StoredCohort, current_cohort_id, load_cohort
from cloud_server.rounds.releasing import running_evaluation
from cloud_server.rounds.rounds import last_round_number, open_round
from cloud_server.rounds.selection import invite, is_invited, places_left, uninvite
from cloud_server.storage.database import Database, read_revision
from cloud_server.storage.schema import step
from cloud_server.tasks import Task, load_task, newest_version
from shared.clock import Clock
from shared.decision import Decision
from shared.limits import RETRY_AFTER_MS
from shared.wire.messages import Action, Assignment, Reason

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
        decision: sequence of the release decision that devices are shown, 0 where they use the newest version.
        releasing: whether what devices use may soon be another version: a promotion goes on, or a driver is about to
            sign how it ended.
        evaluating: the cohort that forms to evaluate a candidate for a stage, and the decision that says for whom.
        release_key: number of the key that signs releases.
    """

    revision: str
    task: Task
    version: int
    round_number: int
    forming: StoredCohort | None
    decision: int = 0
    releasing: bool = False
    evaluating: tuple[StoredCohort, Decision] | None = None
    release_key: int = 0


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
        *_releasing(connection, task_name),
        shown_key_number(connection),
    )


def _releasing(connection: Connection, task_name: str) -> tuple[int, bool, tuple[StoredCohort, Decision] | None]:
    """Return the last three of an outlook's attributes."""
    state = load_release(connection, task_name)
    if state is None or state.decision is None:
        return 0, False, None
    found = running_evaluation(connection, task_name)
    record = found[1] if found is not None else None
    signed = state.sequence == state.revision  # else a driver is about to say something else
    forms = signed and record is not None and record.state.phase is Phase.FORMING
    evaluating = (record, state.decision) if forms and record is not None else None
    return state.sequence, found is not None or not signed, evaluating


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

    def assignment(self, row: Row[Any], task_name: str, declined: int = 0, declined_evaluation: int = 0) -> Assignment:
        """Return what the device of ``row`` does next.

        Args:
            row: ``KNOWN`` columns of the device, read a moment ago.
            task_name: of its task.
            declined: the round in which it will not take part, 0 for none.
            declined_evaluation: the promotion that it will not evaluate, 0 for none.

        Raises:
            Missing: ``task-unknown``.
        """
        now_s = self._clock.now_s()
        outlook = self._outlook(task_name, row.revision)
        out = left_out(Candidate.of(row), outlook.task.plan, now_s)
        if out is None and (record := self._evaluates(outlook, row.device, declined_evaluation, now_s)) is not None:
            return self._work(outlook, "evaluate", record.base_version, record.round_number)
        if outlook.task.state == "done":
            done_ms = self._soon_ms() if outlook.releasing else self._pacer.retry_after_ms(DONE_RETRY_S)
            return self._wait(outlook, "done", done_ms)
        if out is not None:
            return self._wait(outlook, "wait", self._pacer.retry_after_ms(out.wait_s), out.reason)
        reason = self._reason(outlook, row, declined, now_s)
        if not reason:
            return self._work(outlook, "train", outlook.version, outlook.round_number)
        soon_ms = self._soon_ms() if reason != "declined" else self._pacer.retry_after_ms()
        return self._wait(outlook, "wait", soon_ms, reason)

    def holds(self, assignment: Assignment) -> bool:
        """Say whether to hold the request in case there is soon something else to do."""
        released_soon = assignment.action == "done" and assignment.retry_after_ms == RETRY_AFTER_MS
        return (assignment.reason in PASSING or released_soon) and self._pacer.pace().holds

    def _soon_ms(self) -> int:
        return RETRY_AFTER_MS if self._pacer.pace().holds else self._pacer.retry_after_ms()

    def _evaluates(self, outlook: Outlook, name: str, declined: int, now_s: float) -> StoredCohort | None:
        """Return the cohort in which a device is to evaluate, None if there is none, or none for it."""
        if outlook.evaluating is None:
            return None
        record, decision = outlook.evaluating
        if not decision.includes(name):
            return None
        with self._database.read() as connection:
            joined = has_joined(connection, record.id, name)
            if joined or has_measured(connection, record.task, record.base_version, name):
                return None
            invited = is_invited(connection, record, name)
        if declined == record.round_number:
            self._uninvite(record, name, invited=invited)
            return None
        if not invited and self._has_places(outlook, record, now_s):
            with self._database.write() as connection:
                invited = invite(connection, outlook.task.plan, record, name, now_s)
        return record if invited else None

    def _uninvite(self, record: StoredCohort, name: str, *, invited: bool) -> None:
        if invited:
            with self._database.write() as connection:
                uninvite(connection, record, name)
            self._full_until_s.clear()

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
        forming = outlook.forming
        if forming is None:
            return "no-round"
        if declined == outlook.round_number:
            self._uninvite(forming, row.device, invited=row.invited)
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

    def _work(self, outlook: Outlook, action: Action, version: int, number: int) -> Assignment:
        return Assignment(action, version, number, 0, "", outlook.decision, outlook.release_key)

    def _wait(
        self, outlook: Outlook, action: Literal["wait", "done"], retry_ms: int, reason: Reason = ""
    ) -> Assignment:
        return Assignment(
            action, outlook.version, outlook.round_number, retry_ms, reason, outlook.decision, outlook.release_key
        )

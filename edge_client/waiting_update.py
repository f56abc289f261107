"""One trained update that waits, sealed, until a cohort of its version takes it; see docs/agent.md.

It is usable from the moment its row is in the journal until the journal says that a byte of its masked form may leave,
or why it was dropped. Files without such a row are what a kill left behind: they are destroyed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_client.conditions.asked import Conditions
from edge_client.contribution import TrainedUpdate
from edge_client.identity import Enrolment
from edge_client.journal import Journal, State
from edge_client.journal_sealed import Waiting
from edge_client.model_store import Installed
from edge_client.participant import Surroundings
from edge_client.sealed_files import SealedFiles
from edge_client.sealed_update import SEALING_KEY_BYTES, Binding, Marks, damaged, new_salt, open_sealed, seal
from shared.errors import BrokenState, FedloomError, TryLater
from shared.examples import Examples
from shared.limits import MAX_SEALED_UPDATE_BYTES
from shared.wire.canonical import sha256
from shared.wire.messages import Assignment


class Record(Protocol):
    """Puts a contribution into a state; ``Participant.record``."""

    def __call__(self, entry: int, state: State, *, reason: str = "") -> None:
        """Put it there."""
        ...


class WaitingUpdate:
    """The update of one device that waits, if one does.

    Args:
        files: where it is.
        enrolment: whose.
        journal: says whether it may still be used.
        record: puts contributions into states.
        around: what the agent does not decide itself.
        conditions: for how long its owner lets it wait.
    """

    def __init__(
        self,
        files: SealedFiles,
        enrolment: Enrolment,
        journal: Journal,
        record: Record,
        around: Surroundings,
        conditions: Conditions,
    ) -> None:
        self._files = files
        self._task, self._device = enrolment.task, enrolment.device
        self._journal = journal
        self._record = record
        self._around = around
        self._conditions = conditions

    def keep(self, entry: int, trained: TrainedUpdate, examples: Examples, installed: Installed) -> None:
        """Seal what a contribution trained, before anything else is done with it.

        Where the disk does not take it, it is in memory only, as everything is that a plan or an owner lets not wait.
        """
        made_at_s = self._now_s()
        at_most_s = min(installed.plan.deadlines.sealed_update_s, self._conditions.sealed_update_s)
        if at_most_s <= 0:
            return
        binding = self._binding(installed, entry, made_at_s, made_at_s + at_most_s)
        key, salt = (self._around.random_bytes(SEALING_KEY_BYTES) for _ in range(2))
        marks = Marks.of(examples, new_salt(salt))
        box = seal(trained, marks, binding, key=key, cipher=installed.plan.cohort.cipher)
        if len(box) > MAX_SEALED_UPDATE_BYTES:
            self._around.log(f"the trained update is not kept: it has {len(box)} bytes")
            return
        try:
            self._files.keep(key, box)
        except TryLater as error:
            self._around.log(f"the trained update is in memory only: {error}")
            return
        self._journal.sealed.keep(entry, _made_for(installed), made_at_s, binding.expires_at_s, len(box))

    def waits(self, entry: int) -> bool:
        """Say whether the update of a contribution may go into another cohort after this process, too."""
        row = self._journal.sealed.waiting
        return row is not None and row.entry == entry and not row.withdrawn

    def take(self, installed: Installed, examples: Callable[[], Examples]) -> tuple[int, TrainedUpdate] | None:
        """Return what waits for a cohort of this version and its contribution; drop what does not any more.

        Args:
            installed: the version that the cohort trains from.
            examples: reads those to train on now.

        Raises:
            TryLater: if the examples cannot be read now; the update goes on waiting.
        """
        self.tidy()
        row = self._journal.sealed.waiting
        if row is None:
            return None
        try:
            if reason := self._misfit(row, installed):
                self._drop(row, reason)
                return None
            trained, marks = self._open(row, installed)
        except BrokenState as error:
            if error.code != "sealed-update-damaged":
                raise
            self._around.log(str(error))
            self._drop(row, error.code)
            return None
        if not _are_there(marks, examples):
            self._drop(row, "examples-withdrawn")
            return None
        return row.entry, trained

    def resume(self, entry: int, round_number: int) -> None:
        """Let what was taken take part in a round."""
        self._journal.sealed.resume(entry, round_number)
        self._record(entry, State.TRAINED)
        self._around.log(f"round {round_number}: takes part with what was trained before")

    def follow(self, assignment: Assignment) -> None:
        """Drop what waits for a version that is no longer trained from."""
        row = self._journal.sealed.waiting
        if row is None or assignment.action == "evaluate":
            return
        if assignment.action == "done":
            self._drop(row, "task-done")
        elif assignment.version != row.version:
            self._drop(row, "version-moved")

    def tidy(self) -> None:
        """Drop what expired or was withdrawn, and destroy what no contribution waits with."""
        row = self._journal.sealed.waiting
        if row is None:
            self._destroy()
        elif row.withdrawn:
            self._drop(row, "update-withdrawn")
        elif self._now_s() >= min(row.expires_at_s, row.made_at_s + self._conditions.sealed_update_s):
            self._drop(row, "sealed-update-expired")

    def refuse(self, reason: str) -> None:
        """Drop what waits, as this device may not take part in any cohort of its round."""
        if (row := self._journal.sealed.waiting) is not None:
            self._drop(row, reason, State.REFUSED)

    def _misfit(self, row: Waiting, installed: Installed) -> str:
        if row.version != installed.version:
            return "version-moved"
        if row.made_for != _made_for(installed):
            return "plan-changed"
        return "clock-went-back" if self._now_s() < row.made_at_s else ""

    def _open(self, row: Waiting, installed: Installed) -> tuple[TrainedUpdate, Marks]:
        found = self._files.read()
        if found is None:
            raise damaged("its files are gone or cannot be read")
        binding = self._binding(installed, row.entry, row.made_at_s, row.expires_at_s)
        return open_sealed(found[1], binding, key=found[0], cipher=installed.plan.cohort.cipher)

    def _binding(self, installed: Installed, entry: int, made_at_s: float, expires_at_s: float) -> Binding:
        return Binding(
            self._task,
            installed.plan_sha256,
            installed.version,
            installed.model_sha256,
            self._device,
            entry,
            made_at_s,
            expires_at_s,
        )

    def _now_s(self) -> float:
        """Return the time; where the clock is behind what the server signed, that is nearer to it."""
        return self._journal.no_earlier_than_signed(self._around.clock.now_s())

    def _drop(self, row: Waiting, reason: str, state: State = State.ABANDONED) -> None:
        self._record(row.entry, state, reason=reason)
        self._around.log(f"round {row.round_number}: the update that waited is dropped [{reason}]")
        self._destroy()

    def _destroy(self) -> None:
        if not self._files.are_there():
            return
        try:
            self._files.destroy()
        except TryLater as error:  # the journal says that it is not used; the next look tries again
            self._around.log(str(error))


def _made_for(installed: Installed) -> str:
    return sha256(installed.plan_sha256 + installed.model_sha256).hex()


def _are_there(marks: Marks, examples: Callable[[], Examples]) -> bool:
    try:
        return marks.are_all_in(examples())
    except TryLater:
        raise
    except FedloomError:  # training says what is wrong with them
        return False

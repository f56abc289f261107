"""Keeps an agent to its owner's settings: before each turn, before downloads, and between the batches of a training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from edge_client.conditions.decide import LOOK_AGAIN_S, No, Now, Verdict, decide
from edge_client.conditions.pause import paused_until_s
from edge_client.conditions.readings import Readings
from edge_client.conditions.spending import Memory, Spending
from edge_client.journal import SIGNED_TIME
from edge_client.permits import Permits
from edge_client.problems import NotNow
from edge_client.settings_file import SettingsFile
from edge_client.texts import English, reason_in
from shared.clock import Clock
from shared.errors import UsageError

CONDITION: Final = "condition"  # names in the journal; ``status`` reads them
LOOK_EVERY_S: Final = 1.0  # while it trains or downloads
FOLLOW_WITHIN_S: Final = 4.0  # the owner's pause or settings, while it waits
SHORTEST_PAUSE_S: Final = 5.0  # of a training, so that it does not stutter at a limit
_LOAD_AVERAGE_S: Final = 60.0  # the time constant of the kernel's first load average
_FIRST_BATCH_S: Final = 0.5  # as long as nothing was measured
_UNTIL_A_TIME: Final = frozenset(
    {"outside-hours", "megabytes-used", "training-time-used", "energy-used", "writing-used"}
)


class Machine(Protocol):
    """What can be read of this machine; ``Probes``."""

    cores: int

    def read(self) -> Readings:
        """Return everything that can be read now."""
        ...

    def written_bytes(self) -> int | None:
        """Return how many bytes this process has let the disk write."""
        ...


@dataclass(frozen=True)
class Owner:
    """Where the owner's word is.

    Attributes:
        file: of settings.
        pause: the file of a pause.
    """

    file: SettingsFile
    pause: Path


class Keeper:
    """What the agent asks.

    Args:
        owner: where the owner's word is.
        machine: what can be read of it.
        memory: the journal.
        clock: the time.
        elapsed_s: a clock that is never set.
        local: local time of seconds since the epoch.
        log: takes one line per event.

    Raises:
        UsageError: ``settings-unreadable``, ``bad-settings``.
    """

    def __init__(
        self,
        owner: Owner,
        machine: Machine,
        memory: Memory,
        clock: Clock,
        elapsed_s: Callable[[], float],
        local: Callable[[float], datetime],
        log: Callable[[str], None],
    ) -> None:
        self._owner = owner
        self._machine = machine
        self._memory = memory
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._local = local
        self._log = log
        self._settings, self._stamp = owner.file.read(), owner.file.stamp()
        self._broken = ""  # why settings that changed cannot be followed
        self._spending = Spending(memory, lambda: self._settings.limits, clock, local)
        self._looked_s = -math.inf
        self._batch: tuple[float, float] | None = None  # when the batch in hand began, and what was counted for it
        self._batch_s = _FIRST_BATCH_S
        self._own_load, self._own_load_s = 0.0, elapsed_s()
        self._measured = machine.written_bytes() or 0
        self._written_ahead = 0.0
        self._noted = memory.get(CONDITION) or ""

    @property
    def permits(self) -> Permits:
        """What a transport asks."""
        return Permits(lambda octets: self._spending.spend("transferred_bytes", octets), self._download, self._piece)

    @property
    def sealed_update_s(self) -> float:
        """For how long the owner lets a trained update wait for a cohort; infinity for as long as the plan does."""
        self._follow_settings()
        at_most_s = self._settings.train.sealed_update_at_most_s
        return math.inf if at_most_s is None else at_most_s

    def verdict(self) -> Verdict:
        """Return whether to go on now."""
        self._follow_settings()
        now_s = self._clock.now_s()
        if self._broken:
            return No("settings-broken", now_s + LOOK_AGAIN_S, {"error": self._broken})
        self._count_writing()
        now = Now(
            now_s,
            self._local,
            paused_until_s(self._owner.pause, now_s),
            float(self._memory.get(SIGNED_TIME) or 0.0),
        )
        return decide(self._settings, self._readings(), self._spending.used_today(), now)

    def hold_s(self) -> float | None:
        """Return how long to wait before asking again, None if the agent may go on; ``status`` learns why."""
        found = self.verdict()
        self._note(found)
        if not isinstance(found, No):
            return None
        return max(0.0, min(FOLLOW_WITHIN_S, found.look_again_s - self._clock.now_s()))

    def require(self) -> None:
        """Go on only if the agent may.

        Raises:
            NotNow: the reason's code.
        """
        found = self.verdict()
        self._note(found)
        if isinstance(found, No):
            raise self._not_now(found)

    def before_batch(self) -> None:
        """Wait between two batches for as long as this device may not train.

        Raises:
            NotNow: ``paused-too-long`` where that was longer than the owner lets a training wait, or the reason's own
                code where that is known at once; ``day-limit-reached``.
        """
        self._end_batch()
        self.before_joining()
        self._spending.spend("training_s", self._batch_s)
        self._batch = self._elapsed_s(), self._batch_s

    def before_joining(self) -> None:
        """Wait for as long as this device may not work: a trained update is kept meanwhile; raises as above."""
        if self._elapsed_s() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = self._elapsed_s()
            if isinstance(found := self.verdict(), No):
                self._wait(found)

    def goes_on(self) -> None:
        """Be told that other work goes on; it is short, and counted nowhere."""

    @contextmanager
    def training(self) -> Iterator[None]:
        """Look at once in the block, and count its last batch, too."""
        self._looked_s = -math.inf
        try:
            yield
        finally:
            self._end_batch()

    def require_transfer(self, octets: int) -> None:
        """Go on only if so many bytes may still be moved today.

        Raises:
            NotNow: ``day-limit-reached``.
        """
        self._spending.require("transferred_bytes", octets)

    def close(self) -> None:
        """Count only what was spent."""
        self._end_batch()
        self._count_writing()
        self._spending.give_back()

    def _wait(self, reason: No) -> None:
        began_s, longest_s = self._elapsed_s(), self._settings.train.pause_at_most_s
        self._note(reason)
        self._log(f"the work pauses: {reason_in(English, reason, self._local)}")
        while True:
            waited_s = self._elapsed_s() - began_s
            if reason.code in _UNTIL_A_TIME and waited_s + reason.look_again_s - self._clock.now_s() >= longest_s:
                raise self._not_now(reason)
            if waited_s >= longest_s:
                raise self._too_long(reason, longest_s)
            self._clock.sleep(LOOK_EVERY_S)
            found = self.verdict()
            if isinstance(found, No):
                reason = found
                self._note(reason)
            elif self._elapsed_s() - began_s >= SHORTEST_PAUSE_S:
                break
        self._looked_s = self._elapsed_s()
        self._note(found)
        self._log("the work goes on")

    def _too_long(self, reason: No, longest_s: float) -> NotNow:
        words = reason_in(English, reason, self._local)
        return NotNow(
            "paused-too-long",
            f"The work paused for longer than {longest_s:g} s: {words}",
            "nothing: it trains again when it may; or raise train.pause_at_most_s",
        )

    def _not_now(self, reason: No) -> NotNow:
        return NotNow(
            reason.code,
            f"Not now: {reason_in(English, reason, self._local)}",
            "wait, or see `fedloom-agent config`",
        )

    def _end_batch(self) -> None:
        now_s = self._elapsed_s()
        passed = math.exp(-max(0.0, now_s - self._own_load_s) / _LOAD_AVERAGE_S)
        busy = 0.0 if self._batch is None else 1.0
        self._own_load, self._own_load_s = self._own_load * passed + busy * (1.0 - passed), now_s
        if self._batch is None:
            return
        began_s, counted_s = self._batch
        self._batch, self._batch_s = None, max(0.0, now_s - began_s)
        self._spending.count("training_s", self._batch_s - counted_s)

    def _readings(self) -> Readings:
        """Return what the machine says, without the load that training here makes itself."""
        found = self._machine.read()
        if found.load_per_core is None:
            return found
        return replace(found, load_per_core=max(0.0, found.load_per_core - self._own_load / self._machine.cores))

    def _download(self, octets: int) -> None:
        self._spending.require("transferred_bytes", octets)
        self._spending.spend("written_bytes", octets)
        self._written_ahead += octets

    def _piece(self, octets: int) -> None:
        self._spending.spend("transferred_bytes", octets)
        if self._elapsed_s() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = self._elapsed_s()
            self.require()

    def _count_writing(self) -> None:
        measured = self._machine.written_bytes()
        if measured is None:
            return
        grown = max(0, measured - self._measured)
        known = min(grown, self._written_ahead)
        self._measured, self._written_ahead = measured, self._written_ahead - known
        if grown > known:
            self._spending.count("written_bytes", grown - known)

    def _follow_settings(self) -> None:
        stamp = self._owner.file.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._settings, self._broken = self._owner.file.read(), ""
            self._log("the owner's settings changed, and are followed")
        except UsageError as error:
            self._broken = str(error)
            self._log(f"the owner's settings changed, and cannot be followed: {error}")

    def _note(self, found: Verdict) -> None:
        """Let ``status`` say why; written only when the reason changes, as cards wear out."""
        if not isinstance(found, No):
            told = ""
        elif json.loads(self._noted or "{}").get("code") == found.code and found.code not in _UNTIL_A_TIME:
            return
        else:
            soon = found.look_again_s - self._clock.now_s() <= LOOK_AGAIN_S or found.look_again_s == math.inf
            again_s = None if soon else found.look_again_s
            told = json.dumps({"code": found.code, "values": dict(found.values), "look_again_s": again_s})
        if told != self._noted:
            self._memory.put(CONDITION, told)
            self._noted = told

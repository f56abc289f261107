"""Daily limits that are counted, on the disk, before anything is spent.

What is about to be spent is reserved in blocks, so that a power cut counts too much rather than too little, and a card
is not worn out by counting. What a process reserved and did not spend is given back when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from math import inf
from typing import Final, Protocol

from edge_client.conditions.day_count import KEEP_STEP_S, DayCount, What
from edge_client.conditions.readings import UsedToday
from edge_client.problems import NotNow
from edge_client.settings import Limits
from shared.clock import Clock

COUNTS: Final = "used-today"  # the name in the journal
BLOCKS: Final[dict[What, float]] = {"transferred_bytes": 256 * 1024, "training_s": 10.0, "written_bytes": 1024 * 1024}
UNLIMITED_BLOCKS: Final = 8  # where nothing limits it, the journal is written less often


class Memory(Protocol):
    """Named values that are on the disk once they are put: the journal."""

    def get(self, name: str) -> str | None:
        """Return a value."""
        ...

    def put(self, name: str, value: str) -> None:
        """Keep a value."""
        ...


class Spending:
    """Counts what this process spends on this local day.

    Args:
        memory: where counts are kept.
        limits: of now; asked each time, as the owner may change them.
        clock: the time.
        local: local time of seconds since the epoch.
    """

    def __init__(
        self, memory: Memory, limits: Callable[[], Limits], clock: Clock, local: Callable[[float], datetime]
    ) -> None:
        self._memory = memory
        self._limits = limits
        self._clock = clock
        self._local = local
        self._count = self._kept = DayCount.from_text(memory.get(COUNTS))
        self._reserved: dict[What, float] = dict.fromkeys(BLOCKS, 0.0)
        self._spent: dict[What, float] = dict.fromkeys(BLOCKS, 0.0)
        self._too_little: dict[What, float] = {}  # limits of which so much is used that the next step does not fit

    def used_today(self) -> UsedToday:
        """Return what is counted today, blocks that are reserved included only as far as they are spent.

        A limit under which the next step did not fit counts as used up, so that nobody tries it again and again.
        """
        self._look_at_the_day()
        used = self._count
        for what in BLOCKS:
            used = used.plus(what, self._spent[what] - self._reserved[what])
            limit = self._limit(what)
            if limit <= self._too_little.get(what, -1.0):
                used = used.plus(what, max(0.0, limit - getattr(used.used, what)))
        return used.used

    def require(self, what: What, amount: float) -> None:
        """Refuse where ``amount`` more does not fit into today's limit; nothing is counted.

        Raises:
            NotNow: ``day-limit-reached``.
        """
        self._look_at_the_day()
        if self._lacking(what, amount) > self._left(what):
            self._too_little[what] = self._limit(what)
            raise NotNow(
                "day-limit-reached",
                f"The next step would take more than the owner of this device allows per day ({_NAMES[what]}).",
                "it goes on tomorrow; or allow more with `fedloom-agent config set`",
            )

    def spend(self, what: What, amount: float) -> None:
        """Count ``amount``, on the disk before this returns.

        Raises:
            NotNow: ``day-limit-reached`` where that would be more than the owner allows; nothing is counted then.
        """
        self.require(what, amount)
        self.count(what, amount)

    def count(self, what: What, amount: float) -> None:
        """Count what was spent already; a negative amount was counted, and then not spent."""
        self._look_at_the_day()
        if (lacking := self._lacking(what, amount)) > 0:
            left = self._left(what)
            block = max(lacking, BLOCKS[what] * UNLIMITED_BLOCKS if left == inf else min(left, BLOCKS[what]))
            self._reserved[what] += block
            self._keep(self._count.plus(what, block))
        self._spent[what] = max(0.0, self._spent[what] + amount)

    def _limit(self, what: What) -> float:
        return float(getattr(self._limits(), what))

    def _left(self, what: What) -> float:
        return self._limit(what) - float(getattr(self._count.used, what))

    def _lacking(self, what: What, amount: float) -> float:
        return self._spent[what] + amount - self._reserved[what]

    def give_back(self) -> None:
        """Count only what was spent: this process spends nothing more."""
        count = self._count
        for what in BLOCKS:
            count = count.plus(what, self._spent[what] - self._reserved[what])
            self._reserved[what] = self._spent[what]
        if count != self._kept:
            self._keep(count)

    def _look_at_the_day(self) -> None:
        now_s = self._clock.now_s()
        found = self._count.at(self._local(now_s).date(), now_s)
        if found.day != self._count.day:
            self._reserved = dict.fromkeys(BLOCKS, 0.0)
            self._spent = dict.fromkeys(BLOCKS, 0.0)
            self._too_little = {}
        self._count = found
        if found.day != self._kept.day or found.past_s >= self._kept.past_s + KEEP_STEP_S:
            self._keep(found)

    def _keep(self, count: DayCount) -> None:
        self._memory.put(COUNTS, count.to_text())
        self._count = self._kept = count


_NAMES: Final[dict[What, str]] = {
    "transferred_bytes": "limits.download_and_upload_megabytes_per_day",
    "training_s": "limits.training_seconds_per_day or limits.energy_wh_per_day",
    "written_bytes": "limits.written_megabytes_per_day",
}

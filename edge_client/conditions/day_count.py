"""What was used on the current local day, as a value that survives restarts, wrong clocks and journeys.

A new day begins only once this device's clock shows a later one than ever before. A clock of 1970, or one that was set
back, goes on counting for the day before; it gets a new day when it has been seen to run for a whole one. So no clock,
however it jumps, gives more than one day's limit within a day of working, but one that shows a later day than it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Final, Literal

from edge_client.conditions.readings import UsedToday

DAY_S: Final = 86400.0
LONGEST_STEP_S: Final = 3600.0  # between two looks; what a clock jumps further is no time that passed
KEEP_STEP_S: Final = 600.0  # of a clock in the past, that may be forgotten by a power cut
What = Literal["transferred_bytes", "training_s", "written_bytes"]


@dataclass(frozen=True)
class DayCount:
    """Counts of one day.

    Attributes:
        day: the latest local day that this device's clock has shown, as 2026-11-30; empty before the first.
        used: on it.
        seen_s: when it was last looked at by a clock that showed an earlier day.
        past_s: for how long that clock has been seen to run since.
    """

    day: str = ""
    used: UsedToday = field(default_factory=UsedToday)
    seen_s: float = 0.0
    past_s: float = 0.0

    def at(self, today: date, now_s: float) -> DayCount:
        """Return the counts as they are on ``today`` by a clock that shows ``now_s``."""
        shown = today.isoformat()
        if shown > self.day:
            return DayCount(shown)
        if shown == self.day:
            return replace(self, seen_s=0.0, past_s=0.0) if self.seen_s else self
        step_s = min(max(0.0, now_s - self.seen_s), LONGEST_STEP_S) if self.seen_s else 0.0
        if self.past_s + step_s >= DAY_S:
            return DayCount(shown)
        return replace(self, seen_s=now_s, past_s=self.past_s + step_s)

    def plus(self, what: What, amount: float) -> DayCount:
        """Return the counts with ``amount`` more, or less, but never below zero."""
        return replace(self, used=replace(self.used, **{what: max(0.0, getattr(self.used, what) + amount)}))

    def to_text(self) -> str:
        """Return what the journal keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None) -> DayCount:
        """Read what ``to_text`` wrote; nothing used where there is nothing."""
        if text is None:
            return cls()
        values = json.loads(text)
        return cls(**{**values, "used": UsedToday(**values["used"])})

"""Keeps an agent that dies at its work again and again from doing so for ever.

Work that could end the process leaves a trace before it begins: a contribution has its row in the journal, and putting
a version in use a note. Whoever finds either at the start knows that the process before died there. After some deaths
in a row ``run`` takes no part in anything for a while, longer each time, and ``status`` says so. Work that ends, well
or with a named error, ends the row of deaths; so does nothing else. A process that was asked to stop has not died.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from edge_client.journal import Contribution, Journal
from shared.clock import Clock
from shared.errors import FedloomError

CRASHES: Final = "crashes"  # the names of notes in the journal
_AT_WORK: Final = "at-work"
_STOPPED: Final = "stopped"
DEATHS_ALLOWED: Final = 2  # in a row, before the first pause
FIRST_PAUSE_S: Final = 600.0
LONGEST_PAUSE_S: Final = 86400.0


@dataclass(frozen=True)
class Crashes:
    """Deaths in a row.

    Attributes:
        place: of the last one: the state of its contribution, or what was done with a version.
        number: of the round or promotion, or of the version.
        contributing: whether it was in a contribution.
        count: how many there were.
        at_s: when the last one was found (seconds since the epoch).
        pause_s: how long nothing is tried after it.
    """

    place: str
    number: int
    contributing: bool
    count: int
    at_s: float
    pause_s: float

    @classmethod
    def of(cls, journal: Journal) -> Crashes | None:
        """Return what a journal says, None without a death."""
        kept = json.loads(journal.get(CRASHES) or "null")
        return None if kept is None else cls(**kept)

    def left_s(self, now_s: float) -> float:
        """Return how much of the pause is left; nothing of it where the clock was set back before its beginning."""
        left_s = self.at_s + self.pause_s - now_s
        return left_s if 0 < left_s <= self.pause_s else 0.0


class CrashLoop:
    """What one process knows of those before it.

    Args:
        journal: of the device.
        clock: the time.
        log: takes one line per event.
    """

    def __init__(self, journal: Journal, clock: Clock, log: Callable[[str], None]) -> None:
        self._journal = journal
        self._clock = clock
        self._log = log
        self._crashes = Crashes.of(journal)
        self._passed = set[tuple[str, int, int]]()

    def look(self, unfinished: Sequence[Contribution]) -> None:
        """Find out whether the last process died, by what it left: ``unfinished`` rows, or its note."""
        stopped, note = self._journal.get(_STOPPED), self._journal.get(_AT_WORK)
        if stopped:
            self._journal.put(_STOPPED, "")
        if note:
            self._journal.put(_AT_WORK, "")
        if stopped or not (note or unfinished):
            return
        if note:
            place, number = json.loads(note)
        else:
            place, number = str(unfinished[-1].state), unfinished[-1].round_number
        before, contributing = self._crashes, not note
        count = before.count + 1 if before is not None and before.contributing == contributing else 1
        over = count - DEATHS_ALLOWED
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(over - 1, 20)) if over > 0 else 0.0
        self._keep(Crashes(place, number, contributing, count, self._clock.now_s(), pause_s))
        if pause_s:
            self._log(f"the agent died {count} times in a row, last at {place} ({number}): no work for {pause_s:.0f} s")

    def hold_s(self) -> float | None:
        """Return for how long nothing is to be tried, None if the agent may go on."""
        left_s = 0.0 if self._crashes is None else self._crashes.left_s(self._clock.now_s())
        return left_s or None

    @contextmanager
    def at(self, place: str, number: int, decision: int = 0) -> Iterator[None]:
        """Leave a note while something is done with a version by a decision, the first time in this process."""
        if (place, number, decision) in self._passed:
            yield
            return
        self._journal.put(_AT_WORK, json.dumps([place, number]))
        try:
            yield
        except FedloomError:  # another error ends the process
            self._journal.put(_AT_WORK, "")
            raise
        self._journal.put(_AT_WORK, "")
        self._passed.add((place, number, decision))
        if self._crashes is not None and self._crashes.place == place:
            self._keep(None)

    def contributed(self) -> None:
        """A contribution came to an end that has a name."""
        if self._crashes is not None and self._crashes.contributing:
            self._keep(None)

    def stopped(self) -> None:
        """Note that this process was asked to end."""
        self._journal.put(_STOPPED, "1")

    def _keep(self, crashes: Crashes | None) -> None:
        self._crashes = crashes
        self._journal.put(CRASHES, "null" if crashes is None else json.dumps(asdict(crashes)))

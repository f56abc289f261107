"""Deaths in a row: how long the agent pauses after them, and what ends the row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_client.crash_loop import DEATHS_ALLOWED, FIRST_PAUSE_S, LONGEST_PAUSE_S, CrashLoop
from edge_client.journal import Contribution, Journal
from shared.errors import TryLater
from tests.edge_client.devices import ManualClock, new_journal
from tests.shared.refusals import refused


class Killed(BaseException):
    """The power is cut."""


class Device:
    """A journal whose processes follow one another."""

    def __init__(self, path: Path) -> None:
        self.journal: Journal = new_journal(path / "journal.sqlite3")
        self.clock = ManualClock()
        self.lines: list[str] = []

    def start(self) -> CrashLoop:
        """Begin a process."""
        loop = CrashLoop(self.journal, self.clock, self.lines.append)
        loop.look(self.unfinished())
        return loop

    def unfinished(self) -> list[Contribution]:
        return self.journal.recover(self.clock.now_s())

    def die_training(self) -> None:
        """Begin a contribution, and end without a word."""
        self.journal.begin(7, 3, self.clock.now_s())

    def die_installing(self, loop: CrashLoop, version: int = 3) -> None:
        with pytest.raises(Killed), loop.at("install", version):
            raise Killed


def fetch_in_vain(loop: CrashLoop) -> None:
    with loop.at("install", 4):
        raise TryLater("no-connection", "why")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.journal.close()


def test_each_death_more_doubles_the_pause_up_to_a_day(device: Device) -> None:
    pauses = []
    for _ in range(12):
        pauses.append(device.start().hold_s())
        device.die_training()
    allowed = DEATHS_ALLOWED + 1  # the first process found none
    assert pauses[:allowed] == [None] * allowed
    assert pauses[allowed : allowed + 3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert "last at training (7)" in device.lines[-1]


def test_a_pause_ends_with_time_and_with_a_clock_that_is_set_back(device: Device) -> None:
    for _ in range(DEATHS_ALLOWED + 1):
        device.die_training()
        device.start()
    assert device.start().hold_s() == FIRST_PAUSE_S  # of a process that found no further death, too
    device.clock.time_s += FIRST_PAUSE_S - 1
    assert device.start().hold_s() == 1
    device.clock.time_s += 1
    assert device.start().hold_s() is None
    device.clock.time_s = 0.0
    assert device.start().hold_s() is None


@pytest.mark.parametrize("end", ["with a name", "stopped"])
def test_what_ends_by_itself_or_is_stopped_is_no_death(device: Device, end: str) -> None:
    for _ in range(DEATHS_ALLOWED):
        device.die_training()
        device.start()
    loop = device.start()
    if end == "with a name":
        loop.contributed()
        device.die_training()
    else:
        device.die_training()
        loop.stopped()
    assert device.start().hold_s() is None


def test_a_model_that_kills_the_agent_is_left_alone_for_a_while(device: Device) -> None:
    loop = device.start()
    for _ in range(DEATHS_ALLOWED + 1):
        device.die_installing(loop)
        loop = device.start()
    assert loop.hold_s() == FIRST_PAUSE_S
    with refused("no-connection", TryLater):
        fetch_in_vain(loop)  # no death, and no success
    assert device.start().hold_s() == FIRST_PAUSE_S
    with loop.at("install", 4):
        pass
    assert device.start().hold_s() is None


def test_nothing_is_written_for_what_went_well_before(device: Device) -> None:
    loop, before = device.start(), len(device.lines)
    with loop.at("install", 3):
        pass
    device.die_installing(loop)  # a look at what is in use, for instance
    assert device.start().hold_s() is None
    assert len(device.lines) == before
    assert device.journal.get("crashes") in {None, "null"}

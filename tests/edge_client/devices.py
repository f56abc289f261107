"""Enrolled devices in temporary folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_client.agent import Agent
from edge_client.enrolment import enrol
from edge_client.identity import Enrolment
from edge_client.journal import Journal
from edge_client.journal_file import make_journal
from edge_client.state_folder import StateFolder
from edge_client.turns import take_turns
from shared.clock import Clock, SystemClock
from shared.privacy.floors import PrivacyFloors
from shared.secagg.floors import DeviceFloors
from tests.edge_client.aggregator import DIMENSION, Aggregator


@dataclass
class ManualClock:
    """Time that passes only while somebody sleeps."""

    time_s: float = 1_800_000_000.0
    slept_s: list[float] = field(default_factory=list)

    def now_s(self) -> float:
        """Return the time."""
        return self.time_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept_s.append(seconds)
        self.time_s += seconds


def new_journal(path: Path) -> Journal:
    """Make and open a journal."""
    return Journal(path, make_journal(path, "journal-0"))


def write_points(folder: Path, number: int, count: int = 5) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Write device ``number``'s examples, and return those to train on."""
    x = np.random.default_rng(number).normal(size=(count + 2, DIMENSION)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = np.arange(count + 2) >= count
    np.savez(folder / "examples.npz", x=x, y=np.zeros(count + 2, np.int32), held_out=held_out)
    return x[:count]


def enrolled(
    path: Path,
    aggregator: Aggregator,
    url: str,
    number: int = 0,
    min_survivors: int = 2,
    privacy_floors: PrivacyFloors | None = None,
) -> Enrolment:
    """Enrol a device with its state and examples below ``path``."""
    write_points(path / "examples", number)
    return enrol(
        aggregator.code(url),
        StateFolder(path / "state"),
        path / "examples",
        floors=DeviceFloors(min_survivors=min_survivors, min_corrupt_share=0.0),
        privacy_floors=privacy_floors,
        name="kitchen",
        clock=SystemClock(),
        random_bytes=np.random.default_rng(number).bytes,
        jitter=lambda: 0.5,
    )


def work_on(agent: Agent, clock: Clock | None = None, *, exit_when_done: bool = True) -> None:
    """Let one agent work, as the command does."""
    take_turns([agent], clock or SystemClock(), lambda _line: None, exit_when_done=exit_when_done)

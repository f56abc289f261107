"""What a process of load devices is told, and what it reports, as JSON lines over its standard streams."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Work:
    """What one process has to do.

    Attributes:
        codes: one per device.
        root: file of the root document.
        plan: file of the task's plan, as JSON.
        model_sha256: hexadecimal.
        parameters: d, of the model.
        folder: for masked vectors and the sum.
        seed: of updates and times.
        threads: requests that are under way at once, at most.
    """

    codes: list[str]
    root: str
    plan: str
    model_sha256: str
    parameters: int
    folder: str
    seed: int
    threads: int

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Work:
        """Undo ``to_json``."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Window:
    """When vectors go up.

    Attributes:
        spans: beginning (seconds since the epoch) and length (seconds) of one part of the window after another; devices
            are spread over all of them.
    """

    spans: list[tuple[float, float]]

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Window:
        """Undo ``to_json``."""
        return cls([(float(begin), float(length)) for begin, length in json.loads(line)["spans"]])

    def time_of(self, share: float) -> tuple[int, float]:
        """Return the part and the time (seconds since the epoch) when ``share``, in [0, 1), of it has passed."""
        left_s = share * sum(length for _, length in self.spans)
        for part, (begin_s, length_s) in enumerate(self.spans):
            if left_s < length_s:
                return part, begin_s + left_s
            left_s -= length_s
        return len(self.spans) - 1, sum(self.spans[-1])


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        seconds: see ``Tally``.
        errors: see ``Tally``.
        answered: see ``Tally``.
        counted: devices that are in the sum.
        latest_s: how long after its time the latest device began.
        peak_bytes: of the process's memory.
        sid: hexadecimal, of the cohort.
    """

    seconds: dict[str, list[float]]
    errors: dict[str, int]
    answered: int
    counted: int
    latest_s: float
    peak_bytes: int
    sid: str

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Report:
        """Undo ``to_json``."""
        return cls(**json.loads(line))

"""The owner's pause: a file in the state folder, so that it outlives the agent and a running one sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from edge_client.durable import naming_disk_errors, sync_folder, write_durably


@dataclass(frozen=True)
class Pause:
    """From when and for how long.

    Attributes:
        since_s: seconds since the epoch.
        seconds: infinity for until further notice.
    """

    since_s: float
    seconds: float

    @property
    def until_s(self) -> float:
        """When it ends."""
        return self.since_s + self.seconds

    def at(self, now_s: float) -> Pause:
        """Return the pause by a clock that shows ``now_s``: one that was set back must not make it longer."""
        return replace(self, since_s=now_s) if now_s < self.since_s else self


def read_pause(path: Path) -> Pause | None:
    """Return the owner's pause, None where there is none; one that cannot be read holds until it is lifted."""
    try:
        values = json.loads(path.read_bytes())
        seconds = values["seconds"]
        return Pause(float(values["since_s"]), inf if seconds is None else float(seconds))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return Pause(0.0, inf)


def write_pause(path: Path, pause: Pause) -> None:
    """Keep a pause.

    Raises:
        TryLater: ``disk-write-failed``.
    """
    seconds = None if pause.seconds == inf else pause.seconds
    write_durably(path, json.dumps({"since_s": pause.since_s, "seconds": seconds}).encode())


def lift_pause(path: Path) -> None:
    """End it; raises as ``write_pause``."""
    with naming_disk_errors(path):
        if path.exists():
            path.unlink()
            sync_folder(path.parent)


def paused_until_s(path: Path, now_s: float) -> float:
    """Return until when it is paused, 0 for not at all; a clock that was set back begins the pause anew, once."""
    pause = read_pause(path)
    if pause is None:
        return 0.0
    if (moved := pause.at(now_s)) != pause:
        write_pause(path, moved)
    return moved.until_s if moved.until_s > now_s else 0.0

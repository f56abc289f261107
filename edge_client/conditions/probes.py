"""All readings of this machine: files below a root, and two small programs that are asked now and then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge_client.conditions.heat import Run, read_temperature_c, read_throttled
from edge_client.conditions.load import (
    read_load_per_core,
    read_memory_available_mib,
    read_pressure_percent,
    read_written_bytes,
)
from edge_client.conditions.network import read_metered
from edge_client.conditions.power import read_power
from edge_client.conditions.readings import Readings

PROGRAM_TIMEOUT_S: Final = 3.0
PROGRAM_EVERY_S: Final = 4.0  # starting one costs a small board some ten milliseconds
_PLACES: Final = ("/usr/bin", "/bin", "/usr/local/bin", "/opt/vc/bin")


def run_program(words: Sequence[str]) -> str | None:
    """Return what a program of the system printed, None where it is absent, fails or hangs.

    It is looked for in fixed places: a service's PATH is nobody's way to let the agent run something else.
    """
    program = next((path for place in _PLACES if os.access(path := f"{place}/{words[0]}", os.X_OK)), None)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words[1:]],
            capture_output=True,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
            env={"LC_ALL": "C", "PATH": ":".join(_PLACES)},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


class Probes:
    """Reads this machine.

    Args:
        root: below which /proc and /sys are.
        run: asks a program.
        elapsed_s: a clock that is never set, for how often programs are asked.
        cores: of the processor.
    """

    def __init__(self, root: Path, run: Run, elapsed_s: Callable[[], float], cores: int) -> None:
        self._root = root
        self._run = run
        self._elapsed_s = elapsed_s
        self.cores = cores
        self._asked_s = float("-inf")
        self._throttled: frozenset[str] | None = None
        self._metered: bool | None = None

    def read(self) -> Readings:
        """Return everything that can be read now."""
        if self._elapsed_s() - self._asked_s >= PROGRAM_EVERY_S:
            self._throttled, self._metered = read_throttled(self._run), read_metered(self._run)
            self._asked_s = self._elapsed_s()
        power = read_power(self._root)
        return Readings(
            on_mains=power.on_mains,
            has_battery=power.has_battery,
            battery_percent=power.battery_percent,
            throttled=self._throttled,
            temperature_c=read_temperature_c(self._root),
            load_per_core=read_load_per_core(self._root, self.cores),
            memory_available_mib=read_memory_available_mib(self._root),
            memory_pressure_percent=read_pressure_percent(self._root, "memory"),
            cpu_pressure_percent=read_pressure_percent(self._root, "cpu"),
            io_pressure_percent=read_pressure_percent(self._root, "io"),
            metered=self._metered,
        )

    def written_bytes(self) -> int | None:
        """Return how many bytes this process has let the disk write."""
        return read_written_bytes(self._root)

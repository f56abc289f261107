"""How busy the machine is: ``/proc/loadavg``, ``/proc/meminfo`` and pressure stall information (``/proc/pressure``)."""

from __future__ import annotations

import re
from pathlib import Path

from edge_client.conditions.kernel_files import text_of

_KIB_PER_MIB = 1024


def read_load_per_core(root: Path, cores: int) -> float | None:
    """Return the load of the last minute, divided by cores."""
    found = re.match(r"(\d{1,9}\.\d+) ", text_of(root / "proc" / "loadavg") or "", re.ASCII)
    return None if found is None else float(found[1]) / max(1, cores)


def read_memory_available_mib(root: Path) -> float | None:
    """Return the memory that programs can have; kernels before 3.14 do not say."""
    text = text_of(root / "proc" / "meminfo") or ""
    found = re.search(r"^MemAvailable:\s+(\d{1,18}) kB$", text, re.MULTILINE | re.ASCII)
    return None if found is None else int(found[1]) / _KIB_PER_MIB


def read_pressure_percent(root: Path, resource: str) -> float | None:
    """Return the share of the last 10 s in which some program waited for ``memory``, ``cpu`` or ``io``."""
    text = text_of(root / "proc" / "pressure" / resource) or ""  # reading is refused where PSI is compiled in, but off
    found = re.search(r"^some avg10=(\d{1,3}\.\d+) ", text, re.MULTILINE | re.ASCII)
    return None if found is None else float(found[1])


def read_written_bytes(root: Path) -> int | None:
    """Return how many bytes this process has let the disk write."""
    text = text_of(root / "proc" / "self" / "io") or ""
    found = re.search(r"^write_bytes: (\d{1,18})$", text, re.MULTILINE | re.ASCII)
    return None if found is None else int(found[1])

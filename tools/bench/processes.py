"""What processes use, as the kernel counts it: memory, time and bytes on the way to a disk."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import FedloomError

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_BLOCK_BYTES: Final = 512  # of ``ru_oublock``
_MIB: Final = 2.0**20
_PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Used:
    """What a process that ended has used, with the children that it waited for.

    Attributes:
        peak_mib: resident memory of the largest of them, at its highest.
        cpu_s: processor time.
        written_bytes: sent to block devices; nothing on a tmpfs.
        seconds: that it took.
    """

    peak_mib: float
    cpu_s: float
    written_bytes: int
    seconds: float


def run_to_end(words: Sequence[str], env: Mapping[str, str], log: Path) -> Used:
    """Run a program and return what it used; raises FedloomError ("bench-failed") with its last line."""
    started_s = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen([*words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=log.parent)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise FedloomError("bench-failed", f"{' '.join(words[:4])} ended with {process.returncode}: {last}")
    return _used(usage, time.perf_counter() - started_s)


def _used(usage: resource.struct_rusage, seconds: float) -> Used:
    cpu_s = usage.ru_utime + usage.ru_stime
    return Used(usage.ru_maxrss / 1024, cpu_s, usage.ru_oublock * _BLOCK_BYTES, seconds)


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        for task in (_PROC / str(parent) / "task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def resident_mib(pids: Sequence[int]) -> float:
    """Return the resident memory of processes together, in MiB; what they share counts once for each."""
    texts = [(_PROC / str(pid) / "status").read_text() for pid in pids]
    return (
        sum(int(found[1]) for text in texts if (found := re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE))) / 1024
    )


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used."""
    after_name = [(_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in after_name) / _TICKS_PER_S


def size_mib(folder: Path) -> float:
    """Return what the files of a folder hold, in MiB; a file with several names counts once."""
    stats = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            stats[stat.st_ino] = stat.st_size
    return sum(stats.values()) / _MIB

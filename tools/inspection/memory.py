"""How much memory this process took at most."""

from __future__ import annotations

import re
from pathlib import Path


def peak_bytes() -> int:
    """Return this process's peak memory, 0 where the system does not say.

    Not by getrusage, which would report the parent's: exec inherits it.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii", "replace"))
    return int(found.group(1)) * 1024 if found else 0

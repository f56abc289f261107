"""How much memory this machine has."""

from __future__ import annotations

import os

from shared.limits import MAX_MEMORY_MIB, MIB


def total_memory_mib() -> int:
    """Return the machine's memory in MiB, 0 where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    return max(0, min(MAX_MEMORY_MIB, total // MIB))

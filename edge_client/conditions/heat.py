"""Temperatures, and what a Raspberry Pi's firmware says of its voltage and speed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge_client.conditions.kernel_files import folders_in, number_of

Run = Callable[[Sequence[str]], str | None]  # what a program printed, None where there is none or it failed
VCGENCMD: Final = ("vcgencmd", "get_throttled")
# Bits of now; those from 16 on say that it happened since the start.
_FLAGS: Final = {0: "under-voltage", 1: "frequency-capped", 2: "throttled", 3: "soft-temperature-limit"}
_PLAUSIBLE_C: Final = (-40.0, 150.0)  # sensors that are off say -273 or 0xffff


def read_temperature_c(root: Path) -> float | None:
    """Return the highest temperature of ``/sys/class/thermal``, in degrees Celsius."""
    zones = folders_in(root / "sys" / "class" / "thermal") or []
    millis = [number_of(zone / "temp") for zone in zones if zone.name.startswith("thermal_zone")]
    low, high = _PLAUSIBLE_C
    found = [one / 1000 for one in millis if one is not None and low <= one / 1000 <= high]
    return max(found, default=None)


def read_throttled(run: Run) -> frozenset[str] | None:
    """Return which of the firmware's flags hold now, None on other machines."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", (run(VCGENCMD) or "").strip())
    if found is None:
        return None
    bits = int(found[1], 16)
    return frozenset(name for bit, name in _FLAGS.items() if bits >> bit & 1)

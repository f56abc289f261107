"""Times, sizes, durations and numbers for people, the same on the page and at the command line."""

from __future__ import annotations

import datetime as dt
from typing import Final

NOTHING: Final = "\N{EN DASH}"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS_S: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_JUST_NOW_S: Final = 1.0


def iso(seconds: float | None) -> str:
    """Return a time in UTC as HTML's ``time`` has it, to the second."""
    if seconds is None:
        return ""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""


def ago(seconds: float, now_s: float) -> str:
    """Return how long before now a time was, or how long after it will be, in one unit."""
    gone_s = abs(now_s - seconds)
    if gone_s < _JUST_NOW_S:
        return "just now"
    span_s, unit = next((one for one in _SPANS_S if gone_s >= one[0]), (1.0, "s"))
    words = f"{int(gone_s / span_s)} {unit}"
    return f"{words} ago" if seconds <= now_s else f"in {words}"


def size(count: float | None) -> str:
    """Return bytes for people."""
    if count is None:
        return NOTHING
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a duration for people, two units at most."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    rest = int(seconds)
    days, hours, minutes = rest // 86400, rest // 3600 % 24, rest // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest % 60} s"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thin spaces between thousands, a dash for none."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")

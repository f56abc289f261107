"""Durations as people write them: 30m, 24h, 7d."""

from __future__ import annotations

import re
from typing import Final

from shared.errors import UsageError

_DURATION: Final = re.compile(r"(\d{1,9})(s|m|h|d)", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str, what: str) -> float:
    """Return a duration in seconds.

    Args:
        text: like 30m, 24h or 7d.
        what: it is for, such as an option's name.

    Raises:
        UsageError: ``bad-duration``.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError("bad-duration", f"{what} is {text[:40]!r}.", "write it like 30m, 24h or 7d")
    return float(int(match[1]) * _UNIT_S[match[2]])

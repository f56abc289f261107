"""Values that options take: each function returns one, or says what is allowed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Final

from edge_client.identity import LARGEST_PRIVACY_FLOOR, LARGEST_RENEW_KEY_DAYS

_LARGEST_FLOOR: Final = 1000
_LARGEST_DELTA: Final = 1e-3
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(text: str) -> float:
    """Return a duration in seconds."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration with its unit, such as 45m, 2h or 3d")
    return int(found[1]) * _UNIT_S[found[2]]


def floor(text: str) -> int:
    """Return a smallest cohort."""
    if not (text.isascii() and text.isdigit() and 2 <= int(text[:9]) <= _LARGEST_FLOOR):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 2 to {_LARGEST_FLOOR}")
    return int(text)


def demand(text: str) -> float:
    """Return a demand on noise or epsilon, 0 for none."""
    wanted = f"a number up to {LARGEST_PRIVACY_FLOOR}, 0 for no demand"
    return _number(text, lambda value: 0 <= value <= LARGEST_PRIVACY_FLOOR, wanted)


def norm(text: str) -> float:
    """Return a clip norm."""
    wanted = f"a number above 0 and up to {LARGEST_PRIVACY_FLOOR}"
    return _number(text, lambda value: 0 < value <= LARGEST_PRIVACY_FLOOR, wanted)


def share(text: str) -> float:
    """Return a share of members."""
    return _number(text, lambda value: 0 <= value < 1 / 2, "a share from 0 to below 0.5")


def delta(text: str) -> float:
    """Return a delta."""
    return _number(text, lambda value: 0 < value <= _LARGEST_DELTA, f"a number above 0 and up to {_LARGEST_DELTA:g}")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which fits nowhere
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def count(text: str) -> int:
    """Return how often, 0 for no limit."""
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= LARGEST_PRIVACY_FLOOR):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {LARGEST_PRIVACY_FLOOR}, 0 for no limit")
    return int(text)


def days(text: str) -> int:
    """Return a number of days."""
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= LARGEST_RENEW_KEY_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days up to {LARGEST_RENEW_KEY_DAYS}")
    return int(text)

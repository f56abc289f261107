"""What a transport asks before it moves bytes: each permit refuses by raising ``NotNow``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _allow(_octets: int) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Permits:
    """Asked with a number of octets.

    Attributes:
        transfer: before that many go up or come down.
        download: before a file of which that many are missing is fetched and written.
        piece: before its next so many are fetched.
        up: before the next so many of a body that goes up are handed over; ``transfer`` was asked for all of it.
    """

    transfer: Callable[[int], None] = _allow
    download: Callable[[int], None] = _allow
    piece: Callable[[int], None] = _allow
    up: Callable[[int], None] = _allow

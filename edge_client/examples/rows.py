"""What readers make of a folder, and which of it is used: the newest, as much as the owner wants, some held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_client.examples.declaration import Keep
from shared.errors import UsageError
from shared.examples import Examples

Arrays = dict[str, NDArray[Any]]
DAY_S: Final = 86400.0
# A clock that says less is one that has not been set yet; such times are not compared with anything.
SET_CLOCK_S: Final = 1_600_000_000.0
_BUCKETS: Final = 2**32


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        arrays: inputs by name, and ``y``.
        unit: what is held out or trained on as a whole, such as a file.
        time_s: when it came to be, seconds since 1970.
        held_out: whether models are only judged on it; by hash of the unit where it is None.
    """

    arrays: Mapping[str, NDArray[Any]]
    unit: str
    time_s: float
    held_out: bool | None = None

    @property
    def octets(self) -> int:
        """In memory."""
        return sum(values.nbytes for values in self.arrays.values())


def is_held_out(unit: str, percent: float) -> bool:
    """Say, always the same for a unit, whether models are judged on it."""
    return int.from_bytes(sha256(unit.encode("utf-8", "surrogateescape")).digest()[:4]) < percent / 100 * _BUCKETS


def newest(rows: Iterable[Row], keep: Keep, now_s: float) -> Iterator[Row]:
    """Return the rows that are used of ``rows``, which come newest first."""
    octets = 0.0
    for number, row in enumerate(rows):
        octets += row.octets
        if (keep.newest and number >= keep.newest) or (keep.megabytes and octets > keep.megabytes * 1e6):
            return
        if is_expired(row.time_s, keep, now_s):
            return
        yield row


def is_expired(time_s: float, keep: Keep, now_s: float) -> bool:
    """Say whether an example is too old to be used."""
    return bool(keep.days) and min(time_s, now_s) >= SET_CLOCK_S and time_s < now_s - keep.days * DAY_S


def split(rows: list[Row], percent: float) -> tuple[Examples, Examples]:
    """Return the examples to train on and the held-out ones, in the order of time.

    Raises:
        UsageError: ``examples-shape`` if they are not all alike.
    """
    chosen = [is_held_out(row.unit, percent) if row.held_out is None else row.held_out for row in rows]
    parts = ([row for row, out in zip(rows, chosen, strict=True) if out is wanted] for wanted in (False, True))
    train, held_out = (_stacked(part[::-1], rows) for part in parts)
    return train, held_out


def _stacked(rows: list[Row], pattern: list[Row]) -> Examples:
    arrays = {}
    for name, like in pattern[0].arrays.items():
        values = [row.arrays.get(name) for row in rows]
        if any(value is None or value.shape != like.shape or value.dtype != like.dtype for value in values):
            raise UsageError("examples-shape", f"Not all examples have {name} as {like.dtype}{list(like.shape)}.")
        arrays[name] = np.stack([value for value in values if value is not None]) if values else like[None][:0]
    y = arrays.pop("y")
    return Examples(arrays["x"] if list(arrays) == ["x"] else arrays, y)

"""Token buckets: how much of something each of many askers may have per second, in bounded memory.

A bucket that was not touched for long is full, and a full one need not be remembered: so the table may forget whoever
was silent longest. Nothing here waits, so within one process of greenlets no lock is needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class TokenBuckets:
    """One bucket per key, full at first.

    Attributes:
        rate_per_s: tokens that come per second; 0 for no limit at all.
        burst: tokens that a bucket holds, 1 or more.
        max_keys: buckets that are remembered.
    """

    rate_per_s: float
    burst: float
    max_keys: int
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # tokens, and when

    def take(self, key: str, now_s: float) -> float:
        """Take a token and return 0, or return in how many seconds there will be one.

        Args:
            key: whose bucket.
            now_s: seconds on a clock that never goes back.
        """
        if not self.rate_per_s:
            return 0.0
        level = self._level(key, now_s)
        taken = level >= 1.0
        self._remember(key, level - 1.0 if taken else level, now_s)
        return 0.0 if taken else (1.0 - level) / self.rate_per_s

    def give_back(self, key: str, now_s: float) -> None:
        """Undo a ``take``."""
        if self.rate_per_s:
            self._remember(key, min(self.burst, self._level(key, now_s) + 1.0), now_s)

    def __len__(self) -> int:
        return len(self._levels)

    def _level(self, key: str, now_s: float) -> float:
        level, since_s = self._levels.get(key, (self.burst, now_s))
        return min(self.burst, level + (now_s - since_s) * self.rate_per_s)

    def _remember(self, key: str, level: float, now_s: float) -> None:
        self._levels[key] = level, now_s
        self._levels.move_to_end(key)
        if len(self._levels) > self.max_keys:
            self._levels.popitem(last=False)


class Slots:
    """How many of something each asker has at once."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    @contextmanager
    def hold(self, limits: Mapping[str, int]) -> Iterator[str | None]:
        """Have one more under each key until the block ends.

        Args:
            limits: how many each key may have; 0 for any number.

        Yields:
            None, or the first key that has too many already; nothing is held then.
        """
        full = next((key for key, most in limits.items() if most and self._taken[key] >= most), None)
        held = [] if full is not None else list(limits)
        self._taken.update(held)
        try:
            yield full
        finally:
            self._taken.subtract(held)
            for key in limits:
                if self._taken[key] <= 0:
                    del self._taken[key]

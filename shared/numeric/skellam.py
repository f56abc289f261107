"""Whole-number noise that adds up: the difference of two Poisson variables of equal mean.

Sums of independent Skellam variables are Skellam variables whose variances add, so many devices' small noises are
exactly one large one (Agarwal, Kairouz and Liu, arXiv 2110.04995, section 2).

Samples come from a table by Walker's alias method on 64-bit words of a cryptographic source: one word, two reads and
one comparison per sample, whatever comes out. NumPy's ``poisson`` is neither cryptographic nor of constant work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import UsageError

MAX_TABLE_ENTRIES: Final = 2**20
TABLE_BITS: Final = 64  # resolution of a probability
_TABLE_TAIL_BITS: Final = 66  # outcomes less likely than 2^-66 altogether are left out
_LN_2: Final = 0.6931471805599453
_PIECE: Final = 2**16  # samples that are drawn at a time, so that words and reads stay in the cache
Steps = npt.NDArray[np.int64]


def tail(variance: float, tail_bits: int) -> int:
    """Return T with P(noise > T) <= 2^-tail_bits, and the same below -T.

    Bernstein's bound ``exp(-T^2 / (2 (V + T / 3)))``, which holds as ``cosh(x) - 1 <= x^2 / 2 / (1 - x / 3)``. Only
    operations that IEEE 754 defines exactly: every member must get the same number.
    """
    third = tail_bits * _LN_2 / 3.0
    return math.ceil(third + math.sqrt(third * third + 6.0 * third * variance))


@dataclass(frozen=True)
class SkellamTable:
    """An alias table of one Skellam distribution.

    Attributes:
        radius: outcomes are ``-radius .. radius``.
        cut: u64[2^k], below which a cell's remaining bits give the cell's own outcome.
        alias: i64[2^k], the other outcome of each cell, as an index.
    """

    radius: int
    cut: npt.NDArray[np.uint64]
    alias: Steps

    @property
    def index_bits(self) -> int:
        """How many low bits of a word choose the cell."""
        return self.cut.size.bit_length() - 1

    def draw(self, count: int, random_bytes: Callable[[int], bytes]) -> Steps:
        """Return i64[count] independent samples; eight octets of ``random_bytes`` each."""
        drawn = np.empty(count, dtype=np.int64)
        mask, shift = np.uint64(self.cut.size - 1), np.uint64(self.index_bits)
        for start in range(0, count, _PIECE):
            piece = drawn[start : start + _PIECE]
            words = np.frombuffer(random_bytes(8 * piece.size), dtype="<u8")
            cells = (words & mask).astype(np.int64)
            own = (words >> shift) < self.cut[cells]
            np.subtract(np.where(own, cells, self.alias[cells]), self.radius, out=piece)
        return drawn


@lru_cache(maxsize=8)
def table_for(variance: float) -> SkellamTable:
    """Return the table of the Skellam distribution with mean 0 and ``variance``.

    Each outcome's probability is right to 2^-64, the sum over all is exactly 1.

    Raises:
        UsageError: ``noise-too-wide`` when more than 2^20 cells would be needed.
    """
    radius = tail(variance, _TABLE_TAIL_BITS)
    cells = 1 << (2 * radius).bit_length()
    if cells > MAX_TABLE_ENTRIES:
        raise UsageError(
            "noise-too-wide",
            f"Noise of standard deviation {math.sqrt(variance):.4g} steps per device needs too large a table.",
            "lower noise_multiplier, or let larger cohorts share the noise",
        )
    weights = _weights(variance, radius)
    return _alias_table(weights + [0] * (cells - len(weights)), radius)


def _weights(variance: float, radius: int) -> list[int]:
    """Return the probabilities of ``-radius .. radius`` in units of 2^-64; what rounding leaves goes to 0.

    P(k) is proportional to the Bessel function I_k(variance); ``I_k / I_(k-1) = 1 / (2 k / variance + I_(k+1) / I_k)``
    is evaluated downwards, where it is stable (Gautschi, SIAM Review 9, 1967).
    """
    ratios = [0.0] * (radius + 2)
    for k in range(radius, 0, -1):
        ratios[k] = 1.0 / (2.0 * k / variance + ratios[k + 1])
    half = [1.0]
    for k in range(1, radius + 1):
        half.append(half[-1] * ratios[k])
    total = half[0] + 2.0 * math.fsum(half[1:])
    positive = [int(weight / total * 2.0**TABLE_BITS) for weight in half[1:]]
    return [*reversed(positive), 2**TABLE_BITS - 2 * sum(positive), *positive]


def _alias_table(weights: list[int], radius: int) -> SkellamTable:
    """Fill cells of equal capacity with at most two outcomes each (Vose, IEEE TSE 17, 1991), in exact integers."""
    capacity = 2**TABLE_BITS // len(weights)
    left, alias = list(weights), list(range(len(weights)))
    small = [cell for cell, weight in enumerate(left) if weight < capacity]
    large = [cell for cell, weight in enumerate(left) if weight >= capacity]
    while small and large:
        cell, donor = small.pop(), large[-1]
        alias[cell] = donor
        left[donor] -= capacity - left[cell]
        if left[donor] < capacity:
            small.append(large.pop())
    return SkellamTable(radius, np.array(left, dtype=np.uint64), np.array(alias, dtype=np.int64))

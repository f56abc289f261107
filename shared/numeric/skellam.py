"""Whole-number noise that adds up: the difference of two Poisson variables of equal mean.

Sums of independent Skellam variables are Skellam variables whose variances add, so many devices' small noises are
exactly one large one (Agarwal, Kairouz and Liu, arXiv 2110.04995, section 2).

Samples come from a table by Walker's alias method on 64-bit words of a ChaCha20 stream: the same reads and comparisons
for each, whatever comes out. NumPy's ``poisson`` is neither cryptographic nor of constant work. Probabilities are right
to 127 bits, computed in whole numbers: errors of doubles, in all lanes of thousands of devices, would add up to a
visible part of epsilon, and those of 64 bits to the size of delta.
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
from shared.secagg.masking import keystream

MAX_TABLE_CELLS: Final = 2**20
CELL_BITS: Final = 128  # resolution of the choice within a cell
_TABLE_TAIL_BITS: Final = 130  # outcomes less likely than 2^-130 altogether are left out
_FRACTION_BITS: Final = 256  # of the whole numbers in which probabilities are computed
_LN_2: Final = 0.6931471805599453
_PIECE: Final = 2**14  # samples that are drawn at a time, so that words and reads stay in the cache
_SAMPLE_BYTES: Final = 20  # two words for the choice within a cell, half a word for the cell
_KEY_BYTES: Final = 32
_WORD: Final = 2**64 - 1
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
        high: u64[2^k], upper half of the 128-bit number below which a cell's own outcome is taken.
        low: u64[2^k], its lower half.
        alias: i64[2^k], the other outcome of each cell, as an index.
    """

    radius: int
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    alias: Steps

    def draw(self, count: int, random_bytes: Callable[[int], bytes]) -> Steps:
        """Return i64[count] independent samples from a stream whose key is ``random_bytes(32)``."""
        drawn = np.empty(count, dtype=np.int64)
        stream = keystream(random_bytes(_KEY_BYTES), "chacha20")
        zeros = memoryview(bytes(_PIECE * _SAMPLE_BYTES))
        for start in range(0, count, _PIECE):
            piece = drawn[start : start + _PIECE]
            self._draw_into(piece, stream.update(zeros[: piece.size * _SAMPLE_BYTES]))
        return drawn

    def _draw_into(self, piece: Steps, octets: bytes) -> None:
        words = np.frombuffer(octets, "<u8", 2 * piece.size)
        high, low = words[: piece.size], words[piece.size :]
        cells = np.frombuffer(octets, "<u4", offset=words.nbytes).astype(np.int64) & (self.alias.size - 1)
        cut = self.high[cells]
        own = (high < cut) | ((high == cut) & (low < self.low[cells]))
        np.subtract(np.where(own, cells, self.alias[cells]), self.radius, out=piece)


@lru_cache(maxsize=8)
def table_for(variance: float) -> SkellamTable:
    """Return the table of the Skellam distribution with mean 0 and ``variance``.

    The sum over all outcomes is exactly 1, and the distribution's distance in variation from Skellam's below 2^-127.

    Raises:
        UsageError: ``noise-too-wide`` when more than 2^20 cells would be needed.
    """
    radius = tail(variance, _TABLE_TAIL_BITS)
    cells = 1 << (2 * radius).bit_length()
    if cells > MAX_TABLE_CELLS:
        raise UsageError(
            "noise-too-wide",
            f"Noise of standard deviation {math.sqrt(variance):.4g} steps per device needs too large a table.",
            "lower noise_multiplier, or let larger cohorts share the noise",
        )
    weights = _weights(variance, radius, cells << CELL_BITS)
    return _alias_table(weights + [0] * (cells - len(weights)), radius)


def _weights(variance: float, radius: int, whole: int) -> list[int]:
    """Return the probabilities of ``-radius .. radius`` in parts of ``whole``; what rounding leaves goes to 0.

    P(k) is proportional to the Bessel function I_k(variance); ``I_k / I_(k-1) = 1 / (2 k / variance + I_(k+1) / I_k)``
    is evaluated downwards, where it is stable (Gautschi, SIAM Review 9, 1967), from so far out that it does not matter
    with what it begins.
    """
    one = 1 << _FRACTION_BITS
    numerator, denominator = variance.as_integer_ratio()
    ratio, ratios = 0, [0] * (radius + 1)
    for k in range(2 * radius, 0, -1):
        ratio = one * one // (2 * k * denominator * one // numerator + ratio)
        if k <= radius:
            ratios[k] = ratio
    half = [one]
    for k in range(1, radius + 1):
        half.append(half[-1] * ratios[k] >> _FRACTION_BITS)
    total = half[0] + 2 * sum(half[1:])
    positive = [weight * whole // total for weight in half[1:]]
    return [*reversed(positive), whole - 2 * sum(positive), *positive]


def _alias_table(weights: list[int], radius: int) -> SkellamTable:
    """Fill cells of equal capacity with at most two outcomes each (Vose, IEEE TSE 17, 1991), in exact integers."""
    capacity = 1 << CELL_BITS
    left, alias = list(weights), list(range(len(weights)))
    small = [cell for cell, weight in enumerate(left) if weight < capacity]
    large = [cell for cell, weight in enumerate(left) if weight >= capacity]
    while small and large:
        cell, donor = small.pop(), large[-1]
        alias[cell] = donor
        left[donor] -= capacity - left[cell]
        if left[donor] < capacity:
            small.append(large.pop())
    # A full cell is its own alias, so its cut does not matter and may be one too small.
    cuts = [min(cut, capacity - 1) for cut in left]
    high, low = ([cut >> 64 for cut in cuts], [cut & _WORD for cut in cuts])
    return SkellamTable(radius, np.array(high, np.uint64), np.array(low, np.uint64), np.array(alias, dtype=np.int64))

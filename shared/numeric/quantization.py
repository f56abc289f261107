"""Real numbers to whole steps of a grid and back, so that devices can add them modulo 2^b.

The grid follows from the cohort: with ``b`` bits per lane and ``n`` members, each member's coordinate lies in
``-q .. q`` with ``q = floor((2^b - 1) / (2 n))``, so the sum of the offset values lies in ``[0, 2 n q] < 2^b`` and
cannot wrap, whatever the devices send.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import FedloomError, UsageError
from shared.limits import MAX_ROUNDING_TRIES
from shared.numeric.clipping import ClippedUpdate
from shared.numeric.packing import LANES_PER_WORD

SMALLEST_LEVELS = 16  # fewer leave mostly rounding noise


@dataclass(frozen=True)
class Grid:
    """The steps onto which coordinates are rounded.

    Attributes:
        lane_bits: bits per coordinate of the sum, 16, 21 or 32.
        levels: q, the largest absolute value of a quantized coordinate.
        max_l2_norm: C, the clip norm.
        spread: the largest coordinate as a share of C, for which q stands; 1 unless vectors are rotated.
    """

    lane_bits: int
    levels: int
    max_l2_norm: float
    spread: float = 1.0

    @classmethod
    def for_cohort(cls, members: int, *, lane_bits: int, max_l2_norm: float, spread: float = 1.0) -> Grid:
        """Return the finest grid on which a cohort of ``members`` cannot overflow a lane.

        Raises:
            UsageError: ``grid-too-coarse`` when fewer than 16 levels would remain.
        """
        if lane_bits not in LANES_PER_WORD:
            raise UsageError("bad-lane-bits", f"lane_bits is {lane_bits}, it must be 16, 21 or 32.")
        levels = (2**lane_bits - 1) // (2 * members)
        if levels < SMALLEST_LEVELS:
            raise UsageError(
                "grid-too-coarse",
                f"{members} members leave {levels} levels in lanes of {lane_bits} bits.",
                "use wider lanes (lane_bits) or a smaller largest cohort",
            )
        return cls(lane_bits, levels, max_l2_norm, spread)

    @property
    def step(self) -> float:
        """The distance of two neighbouring values, in units of the update."""
        return self.max_l2_norm * self.spread / self.levels

    def l2_norm_bound(self, dimension: int) -> float:
        """Return the largest L2 norm that one honest quantized update has after rounding."""
        return math.sqrt(self.squared_norm_bound(dimension)) * self.step

    def squared_norm_bound(self, dimension: int) -> float:
        """Return Theorem 1's bound on the squared L2 norm after rounding, in steps (arXiv 2102.06387).

        With beta = exp(-1/2) a draw keeps it with probability at least 1 - beta.
        """
        norm, root = self.levels / self.spread, math.sqrt(dimension)
        return min((norm + root) ** 2, norm**2 + dimension / 4 + (norm + root / 2))


@dataclass(frozen=True)
class QuantizedUpdate:
    """One device's coordinates as whole steps.

    Attributes:
        steps: i64[d], each in ``-q .. q``.
        grid: what a step means.
        weight: the device's weight, see ``ClippedUpdate``.
        clipped: whether clipping changed the update.
    """

    steps: npt.NDArray[np.int64]
    grid: Grid
    weight: int
    clipped: bool


def quantize(update: ClippedUpdate, grid: Grid, random_bytes: Callable[[int], bytes]) -> QuantizedUpdate:
    """Round each coordinate up or down at random, unbiased, until the whole keeps its norm bound.

    Conditional randomized rounding of the distributed discrete Gaussian (Kairouz et al., arXiv 2102.06387,
    section 4.1, beta = exp(-1/2)).

    Args:
        update: values f64[d] of norm at most ``grid.max_l2_norm``.
        grid: the cohort's grid.
        random_bytes: cryptographic source; 4 octets are used per coordinate and try.

    Returns:
        steps i64[d].

    Raises:
        FedloomError: ``rounding-failed`` if no draw keeps the bound, which honest input cannot cause.
    """
    scaled = update.values / grid.step
    floor = np.floor(scaled)
    fraction = (scaled - floor) * 2.0**32
    bound = grid.squared_norm_bound(scaled.size)
    for _ in range(MAX_ROUNDING_TRIES):
        threshold = np.frombuffer(random_bytes(4 * scaled.size), dtype="<u4")
        rounded = floor + (threshold < fraction)
        # A coordinate of exactly C may exceed q by the rounding of the division above, a rotated one by rare chance.
        np.clip(rounded, -grid.levels, grid.levels, out=rounded)
        if float(rounded @ rounded) <= bound:
            return QuantizedUpdate(rounded.astype(np.int64), grid, update.weight, update.clipped)
    raise FedloomError("rounding-failed", "Rounding never kept its norm bound: was the update clipped?")


def dequantize(steps_sum: npt.NDArray[np.int64], grid: Grid) -> npt.NDArray[np.float64]:
    """Return the real sum, f64[d], of which ``steps_sum`` counts the steps."""
    return steps_sum * grid.step

"""Real numbers to whole steps of a grid and back, so that devices can add them modulo 2^b.

The grid follows from the cohort: with ``b`` bits per lane and ``n`` members, each member's coordinate lies in
``-q .. q`` with ``q = floor((2^b - 1) / (2 n))``, so the sum of the offset values lies in ``[0, 2 n q] < 2^b`` and
cannot wrap, whatever the devices send.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import FedloomError, UsageError
from shared.limits import MAX_ROUNDING_TRIES
from shared.numeric.clipping import ClippedUpdate
from shared.numeric.packing import LANES_PER_WORD, Steps
from shared.secagg.keys import KEY_BYTES
from shared.secagg.masking import BLOCK_BYTES, keystream

SMALLEST_LEVELS = 16  # fewer leave mostly rounding noise
_LEVELS_OF_FLOAT32: Final = 2**13
_PIECE: Final = 2**16  # coordinates


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
        # Products, because a power is not exactly defined by IEEE 754, and grids with noise follow from this.
        return min((norm + root) * (norm + root), norm * norm + dimension / 4 + (norm + root / 2))


@dataclass(frozen=True)
class QuantizedUpdate:
    """One device's coordinates as whole steps.

    Attributes:
        steps: i16[d], or i32[d] where q needs it, each in ``-q .. q``.
        grid: what a step means.
        weight: the device's weight, see ``ClippedUpdate``.
        clipped: whether clipping changed the update.
    """

    steps: Steps
    grid: Grid
    weight: int
    clipped: bool


def quantize(update: ClippedUpdate, grid: Grid, random_bytes: Callable[[int], bytes]) -> QuantizedUpdate:
    """Round each coordinate up or down at random, unbiased, until the whole keeps its norm bound.

    Conditional randomized rounding of the distributed discrete Gaussian (Kairouz et al., arXiv 2102.06387,
    section 4.1, beta = exp(-1/2)).

    Args:
        update: of norm at most ``grid.max_l2_norm``, d coordinates.
        grid: the cohort's grid.
        random_bytes: cryptographic source of a key per try, whose keystream gives 16 bits per coordinate: the mean of a
            rounded coordinate is right to 2^-16 of a step, and to the rounding of float32.

    Returns:
        steps i16[d] or i32[d].

    Raises:
        FedloomError: ``rounding-failed`` if no draw keeps the bound, which honest input cannot cause.
    """
    bound = grid.squared_norm_bound(update.raw.size)
    for _ in range(MAX_ROUNDING_TRIES):
        steps, largest_squared_norm = _rounded(update, grid, random_bytes(KEY_BYTES))
        # A coordinate of exactly C may exceed q by the rounding of the factor, a rotated one by rare chance.
        if steps.size and (int(steps.min()) < -grid.levels or int(steps.max()) > grid.levels):
            np.clip(steps, -grid.levels, grid.levels, out=steps)
        if largest_squared_norm <= bound or _squared_norm(steps) <= bound:
            return QuantizedUpdate(steps, grid, update.weight, update.clipped)
    raise FedloomError("rounding-failed", "Rounding never kept its norm bound: was the update clipped?")


def _rounded(update: ClippedUpdate, grid: Grid, key: bytes) -> tuple[Steps, float]:
    """Return one draw and what its squared L2 norm is at most; passes are over pieces that fit the cache."""
    # Beyond these levels float32 would move large coordinates by more than a thousandth of a step.
    dtype = np.float32 if grid.levels < _LEVELS_OF_FLOAT32 else np.float64
    factor = dtype(update.scale / grid.step)
    size = min(_PIECE, update.raw.size)
    below, fraction, threshold = np.empty(size, dtype), np.empty(size, dtype), np.empty(size, dtype)
    up = np.empty(size, np.bool_)
    generator, zeros = keystream(key, "aes-256-ctr"), memoryview(bytes(2 * size))
    buffer = bytearray(2 * size + BLOCK_BYTES)
    draws = np.frombuffer(buffer, "<u2")
    steps: Steps = (
        np.empty(update.raw.size, np.int16) if grid.levels < 2**15 - 1 else np.empty(update.raw.size, np.int32)
    )
    squared_norm = 0.0
    for start in range(0, steps.size, _PIECE):
        piece = update.raw[start : start + _PIECE]
        count = piece.size
        low, share, cut, rises = below[:count], fraction[:count], threshold[:count], up[:count]
        generator.update_into(zeros[: 2 * count], buffer)
        np.multiply(piece, factor, out=share, dtype=dtype, casting="same_kind")
        np.floor(share, out=low)
        np.subtract(share, low, out=share)
        np.multiply(share, dtype(2**16), out=share)
        cut[...] = draws[:count]
        np.less(cut, share, out=rises)
        np.add(low, rises.view(np.int8), out=low)
        squared_norm += float(np.dot(low, low))
        steps[start : start + count] = low
    # Any order of additions errs by less than n units in the last place (Higham, Accuracy and Stability, section 3.1).
    return steps, squared_norm * (1.0 + 1.01 * size * float(np.finfo(dtype).eps))


def _squared_norm(steps: Steps) -> float:
    wide = steps.astype(np.float64)
    return float(np.dot(wide, wide))


def dequantize(steps_sum: Steps, grid: Grid) -> npt.NDArray[np.float64]:
    """Return the real sum, f64[d], of which ``steps_sum`` counts the steps."""
    return steps_sum * grid.step

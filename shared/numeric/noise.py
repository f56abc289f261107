"""How much noise a cohort needs, and which grid leaves room for it in the lanes of the sum.

Everything is in steps of the grid, on which the whole vector of one device, rounding and measurements included, has an
L2 norm of at most Delta. The survivors' noise must have a standard deviation of sigma = z Delta even if the shares
delta and gamma of the members drop out or add none, so each device adds variance sigma^2 / ((1 - delta - gamma) n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from shared.errors import UsageError
from shared.numeric.quantization import SMALLEST_LEVELS, Grid
from shared.numeric.skellam import tail

MEASURES: Final = 4  # clipped, evaluated, accuracy, loss
LANE_TAIL_BITS: Final = 40  # at most 2^-40 of all sums have a lane out of range
_MEASURE_SHARE: Final = 8  # of a measurement's levels in those of the clip norm: four cost 3 % more noise
_FEWEST_LEVELS_OF_NORM: Final = 1024
_LEVELS_PER_ROOT: Final = 8  # rounding then adds below 1 % to Delta; finer grids only need wider lanes
_LN_2: Final = 0.6931471805599453


@dataclass(frozen=True)
class NoisyGroup:
    """Coordinates with one clip norm, as they lie in lanes.

    Attributes:
        dimension: how many, padding of the rotation included.
        max_l2_norm: C.
        spread: the largest coordinate as a share of C.
    """

    dimension: int
    max_l2_norm: float
    spread: float


@dataclass(frozen=True)
class NoiseRule:
    """What the plan fixes.

    Attributes:
        multiplier: z, the survivors' noise over one device's largest L2 norm.
        missing_share: delta + gamma, of members whose noise may be missing.
        lane_bits: bits per coordinate of the sum.
    """

    multiplier: float
    missing_share: float
    lane_bits: int


@dataclass(frozen=True)
class Noise:
    """Grids and noise of one cohort.

    Attributes:
        grids: one per group.
        measure_levels: for which 1 stands in a measurement.
        offset: what each device adds to each of its lanes.
        tail: T, beyond which no lane of the summed noise goes.
        device_variance: of each device's noise, in squared steps.
        variance: sigma^2, of the sum that honest survivors make at least.
        l1_sensitivity: the largest L1 norm of one device's lanes.
        l2_sensitivity: Delta, the largest L2 norm.
    """

    grids: tuple[Grid, ...]
    measure_levels: int
    offset: int
    tail: int
    device_variance: float
    variance: float
    l1_sensitivity: float
    l2_sensitivity: float


def noise_for(members: int, groups: tuple[NoisyGroup, ...], rule: NoiseRule) -> Noise:
    """Return the finest grid, and the noise on it, that a cohort of ``members`` has room for.

    ``2 n q + 2 T + 1 <= 2^b``, up to where finer ones gain nothing. Only operations that IEEE 754 defines exactly:
    every member must find the same grid.

    Raises:
        UsageError: ``grid-too-coarse`` when fewer than 16 levels would remain.
    """
    root = math.isqrt(sum(group.dimension for group in groups)) + 1
    low, high = 0, max(_FEWEST_LEVELS_OF_NORM, _LEVELS_PER_ROOT * root)
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(_on_grid(middle, members, groups, rule), members, rule.lane_bits):
            low = middle
        else:
            high = middle - 1
    if int(low * groups[0].spread) < SMALLEST_LEVELS:
        raise UsageError(
            "grid-too-coarse",
            f"{members} members and noise of {rule.multiplier:g} leave fewer than {SMALLEST_LEVELS} levels in lanes of"
            f" {rule.lane_bits} bits.",
            "use wider lanes (lane_bits) or a smaller largest cohort",
        )
    return _on_grid(low, members, groups, rule)


def _fits(noise: Noise, members: int, lane_bits: int) -> bool:
    return 2 * members * noise.offset + 2 * noise.tail < 1 << lane_bits


def _on_grid(norm_levels: int, members: int, groups: tuple[NoisyGroup, ...], rule: NoiseRule) -> Noise:
    grids = tuple(
        Grid(rule.lane_bits, max(1, int(norm_levels * group.spread)), group.max_l2_norm, group.spread)
        for group in groups
    )
    measure_levels = max(1, norm_levels // _MEASURE_SHARE)
    squared = float(MEASURES * measure_levels * measure_levels)
    for grid, group in zip(grids, groups, strict=True):
        squared += grid.squared_norm_bound(group.dimension) if group.dimension else 0.0
    lanes = MEASURES + sum(group.dimension for group in groups)
    variance = rule.multiplier * rule.multiplier * squared
    device_variance = variance / ((1.0 - rule.missing_share) * members)
    return Noise(
        grids,
        measure_levels,
        max(measure_levels, *(grid.levels for grid in grids)),
        tail(device_variance * members, LANE_TAIL_BITS + 1 + lanes.bit_length()),
        device_variance,
        variance,
        # Coordinates are whole, so |x| <= x^2.
        min(math.sqrt(lanes * squared), squared),
        math.sqrt(squared),
    )


def noise_l2_norm(variance: float, dimension: int, largest: int) -> float:
    """Return what the L2 norm of ``dimension`` lanes of noise exceeds with probability below 2^-40, in steps.

    Bernstein's bound for the sum of squares, each at most ``largest``^2, of mean V and second moment 3 V^2 + V.
    """
    log = LANE_TAIL_BITS * _LN_2
    third = log * largest**2 / 3.0
    beyond = third + math.sqrt(third**2 + 2.0 * log * dimension * (3.0 * variance**2 + variance))
    return math.sqrt(dimension * variance + beyond)

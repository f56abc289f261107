"""Rounding to the grid: unbiased, bounded, repeatable for one source of randomness."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FedloomError, UsageError
from shared.numeric import quantization
from shared.numeric.clipping import ClippedUpdate
from shared.numeric.quantization import Grid, dequantize, quantize
from shared.secagg.masking import keystream
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

seeds = st.integers(0, 2**32).map(str)
lane_widths = st.sampled_from([16, 21, 32])


def update_of(values: npt.NDArray[np.float64]) -> ClippedUpdate:
    return ClippedUpdate(values, 1.0, 1, 1.0, clipped=False)


def unit_vector(seed: str, dimension: int) -> npt.NDArray[np.float64]:
    """Return a vector of norm 1."""
    octets = Randomness(seed)(4 * dimension)
    values = np.frombuffer(octets, dtype="<i4").astype(np.float64) + 0.5
    return np.asarray(values / np.linalg.norm(values), dtype=np.float64)


@given(seeds, st.integers(1, 300), st.integers(2, 64), lane_widths)
def test_each_coordinate_moves_less_than_one_step_and_the_norm_keeps_its_bound(
    seed: str, dimension: int, members: int, lane_bits: int
) -> None:
    grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=1.0)
    values = unit_vector(seed, dimension)
    quantized = quantize(update_of(values), grid, Randomness(seed))
    assert np.abs(quantized.steps).max() <= grid.levels
    restored = dequantize(quantized.steps, grid)
    assert np.abs(restored - values).max() < grid.step * (1 + 1e-3)  # float32 moves large coordinates a little
    # Theorem 1 of arXiv 2102.06387 at beta = exp(-1/2), written out in units of the update.
    step, d = grid.step, dimension
    first = (1 + step * math.sqrt(d)) ** 2
    second = 1 + step**2 * d / 4 + step * (1 + step * math.sqrt(d) / 2)
    bound = math.sqrt(min(first, second))
    assert grid.l2_norm_bound(dimension) == pytest.approx(bound, rel=1e-12)
    assert float(np.linalg.norm(restored)) <= bound * (1 + 1e-12)


def test_rounding_is_unbiased() -> None:
    grid = Grid.for_cohort(64, lane_bits=16, max_l2_norm=1.0)
    values = unit_vector("unbiased", 40) / 2  # far from the bound, which favours draws of smaller norm
    source, draws = Randomness("draws"), 4000
    mean = sum(quantize(update_of(values), grid, source).steps.astype(float) for _ in range(draws)) / draws
    # A coin between neighbours deviates by at most 1/2 step per draw; five deviations of the mean.
    assert np.abs(mean - values / grid.step).max() < 5 * 0.5 / math.sqrt(draws)


def test_values_on_the_grid_stay_there() -> None:
    grid = Grid(lane_bits=16, levels=16, max_l2_norm=16.0)
    values = np.array([-8.0, 0.0, 3.0, 12.0])
    assert quantize(update_of(values), grid, Randomness("any")).steps.tolist() == [-8, 0, 3, 12]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("lane_bits", [16, 21, 32])
def test_a_coordinate_at_the_clip_norm_stays_within_the_levels(sign: int, lane_bits: int) -> None:
    for members in range(2, 65):
        grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=0.1)
        steps = quantize(update_of(np.array([sign * 0.1])), grid, Randomness("edge")).steps
        assert grid.levels - 1 <= abs(int(steps[0])) <= grid.levels


def test_a_division_that_lands_just_above_the_levels_is_not_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    above = 0
    for members in range(2, 65):
        grid = Grid.for_cohort(members, lane_bits=32, max_l2_norm=0.1)
        above += 0.1 / grid.step > grid.levels
        monkeypatch.setattr(quantization, "keystream", lambda _key, _cipher: Zeros())  # any remainder rounds up
        steps = quantize(update_of(np.array([0.1])), grid, bytes).steps
        assert int(steps[0]) == grid.levels
    assert above > 0


def test_the_same_randomness_gives_the_same_steps_and_other_randomness_others() -> None:
    grid = Grid.for_cohort(10, lane_bits=16, max_l2_norm=1.0)
    update = update_of(unit_vector("same", 200))
    first, again, other = (quantize(update, grid, Randomness(name)).steps.tolist() for name in ("a", "a", "b"))
    assert first == again
    assert first != other


class Zeros:
    """A keystream of zeros."""

    def update_into(self, zeros: memoryview, buffer: bytearray) -> int:
        """Write zeros."""
        buffer[: len(zeros)] = zeros
        return len(zeros)


def test_a_draw_outside_the_norm_bound_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All coordinates half way between two steps: when all go up the norm is too large."""
    grid = Grid(lane_bits=16, levels=16, max_l2_norm=16.0)
    values = np.full(1000, 0.5)
    values *= 16.0 / np.linalg.norm(values)
    streams = iter([Zeros(), keystream(bytes(32), "aes-256-ctr")])  # a threshold of 0 rounds everything up
    monkeypatch.setattr(quantization, "keystream", lambda _key, _cipher: next(streams))
    steps = quantize(update_of(values), grid, bytes).steps
    assert next(streams, None) is None
    assert float(np.linalg.norm(steps)) <= grid.l2_norm_bound(1000)


def test_rounding_that_never_keeps_the_bound_fails_by_name() -> None:
    grid = Grid(lane_bits=16, levels=16, max_l2_norm=16.0)
    with refused("rounding-failed", FedloomError):
        quantize(update_of(np.full(1000, 16.0)), grid, Randomness("unclipped"))


@pytest.mark.parametrize(("lane_bits", "largest"), [(16, 2047), (21, 65535), (32, 134217727)])
def test_the_grid_is_the_finest_that_cannot_overflow(lane_bits: int, largest: int) -> None:
    for members in (2, 3, 10, 64, largest):
        grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=1.0)
        assert 2 * members * grid.levels < 2**lane_bits <= 2 * members * (grid.levels + 1)
    with refused("grid-too-coarse", UsageError):
        Grid.for_cohort(largest + 1, lane_bits=lane_bits, max_l2_norm=1.0)


@pytest.mark.parametrize("lane_bits", [0, 8, 17, 64])
def test_other_lane_widths_are_refused(lane_bits: int) -> None:
    with refused("bad-lane-bits", UsageError):
        Grid.for_cohort(4, lane_bits=lane_bits, max_l2_norm=1.0)

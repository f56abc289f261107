"""From a device's numbers to words and, summed over devices, back; impossible sums are discarded whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnmaskingFailed
from shared.limits import LOSS_UNITS_PER_NAT, MAX_EVALUATED_EXAMPLES, MAX_EXAMPLE_LOSS
from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import (
    COUNT_WORDS,
    AggregateSum,
    Evaluation,
    Group,
    from_words,
    to_words,
    vector_words,
)
from shared.numeric.quantization import Grid, QuantizedUpdate, quantize
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

DIMENSION, SURVIVORS, MAX_WEIGHT = 7, 3, 10
GRID = Grid.for_cohort(SURVIVORS, lane_bits=21, max_l2_norm=1.0)
WEIGHT, LOSS, CORRECT, COUNT, CLIPPED = range(-COUNT_WORDS, 0)
NOTHING = Evaluation(0.0, 0, 0)


def words_of(step: int = 0, weight: int = 1, evaluation: Evaluation = NOTHING) -> npt.NDArray[np.uint64]:
    steps = np.zeros(DIMENSION, dtype=np.int32)
    steps[0] = step
    return to_words(QuantizedUpdate(steps, GRID, weight, clipped=False), evaluation)


def decoded(total: npt.NDArray[np.uint64]) -> AggregateSum:
    return from_words(total, dimension=DIMENSION, grid=GRID, survivors=SURVIVORS, max_weight=MAX_WEIGHT)


def honest_sum() -> npt.NDArray[np.uint64]:
    return words_of(1) + words_of(2, 5, Evaluation(1.5, 2, 3)) + words_of(-1, 10, Evaluation(0.25, 1, 1))


@given(st.integers(0, 2**32), st.sampled_from([16, 21, 32]), st.integers(1, 9))
def test_the_sum_over_devices_is_the_sum_of_their_updates(seed: int, lane_bits: int, dimension: int) -> None:
    grid = Grid.for_cohort(4, lane_bits=lane_bits, max_l2_norm=2.0)
    source = Randomness(str(seed))
    total = np.zeros(vector_words(dimension, lane_bits), dtype=np.uint64)
    expected = np.zeros(dimension)
    for device in range(4):
        values = np.frombuffer(source(2 * dimension), dtype="<i2").astype(np.float32) / 8192
        update = clip(LocalUpdate(values, 3 + device), max_l2_norm=2.0, max_weight=5)
        expected += update.values
        total += to_words(quantize(update, grid, source), Evaluation(0.5 * device, device, 3))
    result = from_words(total, dimension=dimension, grid=grid, survivors=4, max_weight=5)
    assert np.abs(result.values - expected).max() <= 4 * grid.step * (1 + 1e-9)
    assert (result.weight_sum, result.survivors) == (3 + 4 + 5 + 5, 4)
    assert result.evaluation == Evaluation(3.0, 6, 12)


def test_an_honest_sum_is_read_whole() -> None:
    result = decoded(honest_sum())
    assert result.values[0] == pytest.approx(2 * GRID.step)
    assert (result.weight_sum, result.clipped, result.survivors) == (16, 0, 3)
    assert result.evaluation == Evaluation(1.75, 3, 4)
    assert result.evaluation.accuracy == 0.75
    assert result.evaluation.mean_loss == 1.75 / 4


def test_an_evaluation_of_nothing_has_no_mean() -> None:
    assert (NOTHING.accuracy, NOTHING.mean_loss) == (None, None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (WEIGHT, 2),  # below one per device
        (WEIGHT, 31),  # above the largest per device
        (WEIGHT, 2**64 - 1),
        (CORRECT, 5),  # more right answers than examples
        (COUNT, 2),
        (COUNT, 3 * MAX_EVALUATED_EXAMPLES + 1),
        (LOSS, 404 * LOSS_UNITS_PER_NAT),  # four examples at 100 nats, and one unit of rounding per device
        (LOSS, 2**64 - 1),
        (CLIPPED, 4),
        (CLIPPED, 2**64 - 1),
    ],
)
def test_impossible_counts_discard_the_sum(place: int, value: int) -> None:
    total = honest_sum()
    total[place] = value
    with refused("implausible-counts", UnmaskingFailed):
        decoded(total)


def test_an_impossible_lane_discards_the_sum() -> None:
    total = honest_sum()
    total[0] = 2 * SURVIVORS * GRID.levels + 1
    with refused("implausible-lanes", UnmaskingFailed):
        decoded(total)


def test_an_impossible_norm_discards_the_sum() -> None:
    steps = np.full(DIMENSION, GRID.levels)  # each coordinate is possible, all of them together are not
    loud = to_words(QuantizedUpdate(steps, GRID, 1, clipped=False), NOTHING)
    with refused("implausible-norm", UnmaskingFailed):
        decoded(loud * np.uint64(3))


def test_every_member_at_the_bound_is_still_plausible() -> None:
    total = words_of(GRID.levels, MAX_WEIGHT) * np.uint64(3)
    assert decoded(total).values[0] == pytest.approx(3.0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_malicious_member_moves_the_sum_within_the_ball_only(sign: int) -> None:
    """What masking cannot prevent, and its limit: the two honest members' room is open to the third."""
    total = words_of() + words_of() + words_of()
    total[0] = (int(total[0]) + 3 * GRID.levels * sign) % 2**64
    assert decoded(total).values[0] == pytest.approx(3.0 * sign)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300])
def test_a_loss_beyond_the_largest_counts_as_the_largest(loss: float) -> None:
    words = words_of(evaluation=Evaluation(loss, 0, 2))
    assert int(words[LOSS]) == 2 * MAX_EXAMPLE_LOSS * LOSS_UNITS_PER_NAT


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        (Evaluation(-1.0, 1, 1), (0, 1, 1)),
        (Evaluation(1.0, 5, 4), (LOSS_UNITS_PER_NAT, 4, 4)),
        (Evaluation(1.0, 2**30, 2**30), (LOSS_UNITS_PER_NAT, MAX_EVALUATED_EXAMPLES, MAX_EVALUATED_EXAMPLES)),
    ],
)
def test_what_a_device_counts_is_brought_within_the_public_limits(
    evaluation: Evaluation, expected: tuple[int, int, int]
) -> None:
    assert tuple(words_of(evaluation=evaluation)[[LOSS, CORRECT, COUNT]].tolist()) == expected


@given(st.integers(0, 2**32), st.sampled_from([16, 21, 32]), st.integers(0, 5), st.integers(0, 5))
def test_two_groups_come_back_each_on_its_own_grid(seed: int, lane_bits: int, shared: int, moments: int) -> None:
    grid = Grid.for_cohort(3, lane_bits=lane_bits, max_l2_norm=0.5)
    coarse = replace(grid, max_l2_norm=20.0)
    source = Randomness(str(seed))
    total = np.zeros(vector_words(shared + moments, lane_bits), dtype=np.uint64)
    sums = [np.zeros(shared), np.zeros(moments)]
    for _ in range(3):
        groups = []
        for number, own in enumerate((grid, coarse)):
            values = np.frombuffer(source(2 * sums[number].size), dtype="<i2").astype(np.float32) / 2048
            update = clip(LocalUpdate(values, 2), max_l2_norm=own.max_l2_norm, max_weight=2)
            sums[number] += update.values
            groups.append(quantize(update, own, source))
        total += to_words(groups[0], NOTHING, groups[1])
    group = Group(moments, coarse)
    result = from_words(total, dimension=shared, grid=grid, survivors=3, max_weight=2, statistics=group)
    for got, expected, own in ((result.values, sums[0], grid), (result.statistics, sums[1], coarse)):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max(initial=0) <= 3 * own.step * (1 + 1e-9)


@pytest.mark.parametrize("loud", [0, 1])
def test_either_group_beyond_its_norm_discards_the_sum(loud: int) -> None:
    coarse = replace(GRID, max_l2_norm=50.0)
    steps = [np.full(DIMENSION, GRID.levels if number == loud else 0) for number in range(2)]
    update, moved = (
        QuantizedUpdate(part, grid, 1, clipped=False) for part, grid in zip(steps, (GRID, coarse), strict=True)
    )
    total = to_words(update, NOTHING, moved) * np.uint64(SURVIVORS)
    with refused("implausible-norm", UnmaskingFailed):
        from_words(
            total,
            dimension=DIMENSION,
            grid=GRID,
            survivors=SURVIVORS,
            max_weight=MAX_WEIGHT,
            statistics=Group(DIMENSION, coarse),
        )

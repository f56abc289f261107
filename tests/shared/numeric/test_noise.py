"""Noise in every lane, room for it in the sum, and a sum that comes out right."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnmaskingFailed, UsageError
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.numeric.noise import MEASURES, NoiseRule, NoisyGroup, noise_for, noise_l2_norm
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.packing import pack_noised, unpack_noised_sum
from shared.numeric.rotation import rotated_size, spread
from shared.numeric.skellam import table_for
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

SID: Final = bytes(32)
MISSING: Final = 0.15
Words = npt.NDArray[np.uint64]


def encoding_for(
    members: int,
    dimension: int,
    statistics: int,
    *,
    multiplier: float = 1.0,
    lane_bits: int = 21,
    rotated: bool = False,
) -> NoisyEncoding:
    sizes = [rotated_size(size) if rotated else size for size in (dimension, statistics)]
    spreads = [spread(size) if rotated else 1.0 for size in (dimension, statistics)]
    groups = tuple(NoisyGroup(size, norm, part) for size, norm, part in zip(sizes, (1.0, 3.0), spreads, strict=True))
    noise = noise_for(members, groups, NoiseRule(multiplier, MISSING, lane_bits))
    return NoisyEncoding((dimension, statistics), rotated, noise)


def clipped_update(seed: int, size: int, max_l2_norm: float) -> ClippedUpdate:
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return clip(LocalUpdate(values, 1), max_l2_norm=max_l2_norm, max_weight=1)


def words_of(encoding: NoisyEncoding, seed: int, evaluation: Evaluation) -> tuple[Words, list[ClippedUpdate]]:
    parts = [clipped_update(seed, size, norm) for size, norm in zip(encoding.dimensions, (1.0, 3.0), strict=True)]
    words = encoding.encode(parts[0], parts[1], evaluation, sid=SID, random_bytes=Randomness(f"{seed}"))
    return words, parts


@given(
    st.sampled_from([16, 21, 32]),
    st.lists(st.lists(st.integers(-400, 400), min_size=11, max_size=11), min_size=1, max_size=5),
)
def test_lanes_below_zero_borrow_and_give_back(lane_bits: int, rows: list[list[int]]) -> None:
    packed = [pack_noised(np.array(row, dtype=np.int64), lane_bits=lane_bits) for row in rows]
    total = np.sum(packed, axis=0, dtype=np.uint64)
    sums = unpack_noised_sum(total, dimension=11, lowest=-2000, lane_bits=lane_bits)
    assert sums.tolist() == [sum(column) for column in zip(*rows, strict=True)]


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([(40, 0), (600, 9)]))
def test_the_sum_is_the_sum_and_noise(seed: int, rotated: bool, sizes: tuple[int, int]) -> None:  # noqa: FBT001
    members = 12
    encoding = encoding_for(members, *sizes, rotated=rotated)
    total = np.zeros(encoding.words, dtype=np.uint64)
    true = [np.zeros(size) for size in sizes]
    for device in range(members):
        words, parts = words_of(encoding, seed + device, Evaluation(1.0, 1, 2))
        total += words
        for sums, part in zip(true, parts, strict=True):
            np.add(sums, part.values, out=sums)
    result = encoding.decode(total, survivors=members, sid=SID)
    variance = encoding.noise.device_variance * members
    for got, expected, grid, size in zip(
        (result.values, result.statistics), true, encoding.noise.grids, encoding.sizes, strict=False
    ):
        error = float(np.linalg.norm(got - expected)) / grid.step
        rounding = members * np.sqrt(size)
        assert error <= noise_l2_norm(variance, size, encoding.noise.tail) + rounding
    assert (result.weight_sum, result.survivors) == (members, members)


@pytest.mark.parametrize("rotated", [False, True])
def test_every_lane_has_the_noise_that_was_promised(*, rotated: bool) -> None:
    """No lane of a vector is left out, measurements included: a lane without noise would tell what is in it."""
    encoding = encoding_for(20, 5, 2, rotated=rotated)
    nothing = [ClippedUpdate(np.zeros(size), 1.0, 1, 1.0, clipped=False) for size in encoding.dimensions]
    draws = 4000
    lanes = np.array(
        [
            unpack_noised_sum(
                encoding.encode(
                    nothing[0], nothing[1], Evaluation(0.0, 0, 0), sid=SID, random_bytes=Randomness(f"draw {number}")
                ),
                dimension=sum(encoding.sizes),
                lowest=encoding.noise.offset - 2**20,
                lane_bits=21,
            )
            for number in range(draws)
        ]
    )
    assert lanes.shape[1] == sum(encoding.sizes)
    np.testing.assert_allclose(lanes.var(axis=0), encoding.noise.device_variance, rtol=0.15)
    assert float(lanes.var()) == pytest.approx(encoding.noise.device_variance, rel=0.02)
    correlations = np.corrcoef(lanes.T) - np.eye(lanes.shape[1])
    assert np.abs(correlations).max() < 5 / np.sqrt(draws)


@pytest.mark.parametrize("lane_bits", [21, 32])
def test_survivors_alone_have_the_variance_that_was_promised_in_their_sum(lane_bits: int) -> None:
    """As many are gone as may be: what is left in the sum of whole vectors is sigma^2, within 2 %."""
    members, survivors, dimension = 20, 17, 6000
    encoding = encoding_for(members, dimension, 0, lane_bits=lane_bits)
    nothing = [ClippedUpdate(np.zeros(size), 1.0, 1, 1.0, clipped=False) for size in encoding.dimensions]
    errors = []
    for number in range(10):
        total = np.zeros(encoding.words, dtype=np.uint64)
        for device in range(survivors):
            random_bytes = Randomness(f"sum {number} {device}")
            total += encoding.encode(nothing[0], nothing[1], Evaluation(0.0, 0, 0), sid=SID, random_bytes=random_bytes)
        errors.append(encoding.decode(total, survivors=survivors, sid=SID).values / encoding.noise.grids[0].step)
    noise = np.concatenate(errors)
    assert float(noise.var()) == pytest.approx(encoding.noise.variance, rel=0.02)
    assert abs(float(noise.mean())) < 5 * math.sqrt(encoding.noise.variance / noise.size)


@given(
    st.integers(2, 10_000),
    st.integers(1, 2_000_000),
    st.sampled_from([0, 500]),
    st.floats(0.1, 5.0),
    st.sampled_from([16, 21, 32]),
    st.booleans(),
)
def test_the_sum_of_every_member_at_the_limit_and_its_noise_fits(
    members: int,
    dimension: int,
    statistics: int,
    multiplier: float,
    lane_bits: int,
    rotated: bool,  # noqa: FBT001
) -> None:
    try:
        encoding = encoding_for(
            members, dimension, statistics, multiplier=multiplier, lane_bits=lane_bits, rotated=rotated
        )
    except UsageError as error:
        if error.code != "grid-too-coarse":
            raise
        return
    noise = encoding.noise
    assert 2 * members * noise.offset + 2 * noise.tail + 1 <= 2**lane_bits
    assert noise.offset >= max(noise.measure_levels, *(grid.levels for grid in noise.grids))
    # Survivors alone suffice.
    assert noise.device_variance * members * (1 - MISSING) == pytest.approx(noise.variance)
    assert noise.variance == pytest.approx((multiplier * noise.l2_sensitivity) ** 2)


def test_what_one_device_sends_keeps_its_sensitivities() -> None:
    encoding = encoding_for(10, 300, 20)
    quiet = replace(encoding, noise=replace(encoding.noise, device_variance=1e-9))
    for seed in range(20):
        words, _ = words_of(quiet, seed, Evaluation(50.0, 9, 10))
        lanes = unpack_noised_sum(words, dimension=sum(encoding.sizes), lowest=0, lane_bits=21) - encoding.noise.offset
        assert np.linalg.norm(lanes) <= encoding.noise.l2_sensitivity
        assert np.abs(lanes).sum() <= encoding.noise.l1_sensitivity
        assert np.linalg.norm(lanes) > 0.9 * encoding.noise.l2_sensitivity


def many_quiet(evaluation: Evaluation, members: int = 400) -> AggregateSum:
    encoding = encoding_for(members, 4, 0, multiplier=0.5, lane_bits=32)
    total = np.zeros(encoding.words, dtype=np.uint64)
    for device in range(members):
        total += words_of(encoding, device, evaluation)[0]
    return encoding.decode(total, survivors=members, sid=SID)


def test_measurements_of_many_devices_come_through_the_noise() -> None:
    result = many_quiet(Evaluation(20.0, 6, 8))
    assert result.evaluation.count == pytest.approx(400, abs=25)
    assert result.evaluation.correct == pytest.approx(300, abs=25)
    assert result.evaluation.loss_sum == pytest.approx(400 * 2.5, abs=250)
    assert result.clipped == pytest.approx(400, abs=40)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e9])
def test_a_loss_beyond_the_largest_counts_as_the_largest(loss: float) -> None:
    assert many_quiet(Evaluation(loss, 0, 1), 100).evaluation.loss_sum == pytest.approx(1000, abs=250)


def test_honest_sums_with_their_noise_are_plausible() -> None:
    """A hundred sums at the limit, with noise, none discarded."""
    encoding = encoding_for(3, 8, 0)
    for number in range(100):
        total = np.zeros(encoding.words, dtype=np.uint64)
        for device in range(3):
            total += words_of(encoding, 1000 * number + device, Evaluation(0.0, 5, 5))[0]
        encoding.decode(total, survivors=3, sid=SID)


@pytest.mark.parametrize("lane", [0, 8 + 1])
def test_a_lane_beyond_members_and_noise_discards_the_sum(lane: int) -> None:
    encoding = encoding_for(3, 8, 0)
    loud = np.zeros(sum(encoding.sizes), dtype=np.int64)
    loud[lane] = 3 * encoding.noise.offset + encoding.noise.tail + 1
    total = pack_noised(loud + 3 * encoding.noise.offset, lane_bits=21)
    with refused("implausible-lanes", UnmaskingFailed):
        encoding.decode(total, survivors=3, sid=SID)


def test_a_norm_beyond_members_and_noise_discards_the_sum() -> None:
    encoding = encoding_for(3, 4000, 0, multiplier=0.1)
    loud = np.zeros(sum(encoding.sizes), dtype=np.int64)
    loud[:4000] = encoding.noise.grids[0].levels  # each possible, not all of them
    total = pack_noised(loud + 3 * encoding.noise.offset, lane_bits=21)
    with refused("implausible-norm", UnmaskingFailed):
        encoding.decode(total, survivors=3, sid=SID)


def test_the_bound_of_the_noises_norm_holds_and_is_not_far_off() -> None:
    variance, dimension = 400.0, 2000
    table = table_for(variance)
    norms = [float(np.linalg.norm(table.draw(dimension, Randomness(f"{i}")))) for i in range(50)]
    bound = noise_l2_norm(variance, dimension, 260)
    assert max(norms) < bound < 2 * max(norms)


def test_lanes_too_narrow_for_the_noise_are_refused() -> None:
    with refused("grid-too-coarse"):
        encoding_for(1000, 100_000, 0, multiplier=20.0, lane_bits=16)


def test_measurements_have_four_lanes_and_no_word_of_their_own() -> None:
    assert encoding_for(10, 5, 0).sizes[-1] == MEASURES
    assert encoding_for(10, 5, 0).words == 3

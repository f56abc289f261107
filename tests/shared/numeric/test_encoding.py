"""A cohort's numbers on their way to words and, summed, back: with and without rotation."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.numeric.encoding import Encoding
from shared.plan import Cohort, Plan, Update
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

SID: Final = bytes(range(32))
DEVICES: Final = 5
MEMBERS: Final = 60
Updates = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def plan_for(rotation: Literal["on", "off"], lane_bits: int = 16, max_weight: int = 4) -> Plan:
    update = Update(lane_bits=lane_bits, max_weight=max_weight, statistics_max_l2_norm=3.0)
    return Plan("t", update=replace(update, rotation=rotation), cohort=Cohort(2, 64))


def encoding_for(plan: Plan, dimension: int, statistics: int) -> Encoding:
    encoding = plan.encoding(MEMBERS, dimension, statistics)
    assert isinstance(encoding, Encoding)
    return encoding


def updates_of(seed: int, dimension: int, statistics: int) -> Updates:
    source = np.random.default_rng(seed)
    return [
        (source.normal(0, 0.05, dimension).astype(np.float32), source.normal(0, 0.05, statistics).astype(np.float32))
        for _ in range(DEVICES)
    ]


def summed(plan: Plan, updates: Updates) -> tuple[AggregateSum, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the decoded sum, and the true sums of what the devices clipped."""
    encoding = encoding_for(plan, updates[0][0].size, updates[0][1].size)
    total = np.zeros(encoding.words, dtype=np.uint64)
    true = [np.zeros(part.size) for part in updates[0]]
    for number, (update, statistics) in enumerate(updates):
        bounds = (plan.update.max_l2_norm, plan.update.statistics_max_l2_norm)
        clipped = [
            clip(LocalUpdate(part, number + 1), max_l2_norm=bound, max_weight=plan.update.max_weight)
            for part, bound in zip((update, statistics), bounds, strict=True)
        ]
        for sums, part in zip(true, clipped, strict=True):
            np.add(sums, part.values, out=sums)
        words = encoding.encode(
            clipped[0], clipped[1], Evaluation(1.0, 1, 2), sid=SID, random_bytes=Randomness(f"{number}")
        )
        total += words
    return encoding.decode(total, survivors=DEVICES, sid=SID), true[0], true[1]


@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 7, 100, 600]),
    st.sampled_from([0, 1, 9]),
    st.sampled_from(["on", "off"]),
    st.sampled_from([16, 21, 32]),
)
def test_the_sum_is_the_sum_of_both_groups(
    seed: int, dimension: int, statistics: int, rotation: Literal["on", "off"], lane_bits: int
) -> None:
    plan = plan_for(rotation, lane_bits)
    result, update, moved = summed(plan, updates_of(seed, dimension, statistics))
    encoding = encoding_for(plan, dimension, statistics)
    for got, true, group in zip((result.values, result.statistics), (update, moved), encoding.groups, strict=True):
        assert got.shape == true.shape
        # Each device's rounding error is below one step per coordinate.
        assert np.linalg.norm(got - true) <= DEVICES * group.grid.step * np.sqrt(max(group.dimension, 1))
    assert result.weight_sum == 1 + 2 + 3 + 4 + 4
    assert result.evaluation == Evaluation(5.0, 5, 10)


def test_rotation_makes_the_rounding_error_of_a_large_cohort_several_times_smaller() -> None:
    errors = []
    for plan in (plan_for("on"), plan_for("off")):
        result, update, _ = summed(plan, updates_of(1, 4096, 0))
        errors.append(float(np.linalg.norm(result.values - update)))
    assert errors[0] < errors[1] / 5


def test_vectors_have_one_length_whatever_the_roster() -> None:
    plan = plan_for("on")
    for members in (2, 17, 64):
        assert plan.encoding(members, 100, 9).words == plan.vector_words(100, 9) == (128 + 16) // 4 + 5


@pytest.mark.parametrize(("largest", "lane_bits", "rotated"), [(64, 16, False), (64, 21, False)])
def test_rotation_is_the_default_where_few_levels_are_left(largest: int, lane_bits: int, *, rotated: bool) -> None:
    plan = Plan("t", update=Update(lane_bits=lane_bits), cohort=Cohort(2, largest))
    assert plan.rotated is rotated


def test_a_cohort_of_a_thousand_has_few_levels_and_rotates() -> None:
    assert Plan("t", cohort=Cohort(2, 1000)).rotated
    assert not replace(Plan("t", cohort=Cohort(2, 1000)), update=Update(rotation="off")).rotated


def test_an_unknown_rotation_is_refused() -> None:
    with refused("bad-plan"):
        Plan.from_toml('task = "t"\n[update]\nrotation = "sometimes"')

"""What one device may change, and what a sum of honest devices can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import FedloomError, UnmaskingFailed, UsageError
from shared.numeric.clipping import LocalUpdate, check_sum_norm, clip, require_finite
from tests.shared.refusals import refused

finite_vectors = hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(finite_vectors, st.integers(1, 1000), st.floats(1e-6, 1e6), st.integers(1, 100))
def test_no_update_exceeds_the_clip_norm_times_its_weight(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], examples: int, max_l2_norm: float, max_weight: int
) -> None:
    clipped = clip(LocalUpdate(values, examples), max_l2_norm=max_l2_norm, max_weight=max_weight)
    assert clipped.weight == min(examples, max_weight)
    norm = float(np.linalg.norm(clipped.values))
    assert norm <= max_l2_norm * clipped.weight / max_weight * (1 + 1e-12)
    assert clipped.clipped == (np.linalg.norm(values.astype(np.float64)) > max_l2_norm)


def test_a_small_update_is_only_scaled_by_its_weight() -> None:
    clipped = clip(LocalUpdate(np.array([3, 4], dtype=np.float32), 5), max_l2_norm=10, max_weight=20)
    assert (clipped.values.tolist(), clipped.weight, clipped.clipped) == ([0.75, 1.0], 5, False)


def test_a_large_update_keeps_its_direction() -> None:
    clipped = clip(LocalUpdate(np.array([3, 4], dtype=np.float32), 1), max_l2_norm=1, max_weight=1)
    np.testing.assert_allclose(clipped.values, [0.6, 0.8], rtol=1e-15)
    assert clipped.clipped


def test_more_examples_than_the_largest_weight_do_not_count() -> None:
    update = np.array([1.0], dtype=np.float32)
    assert clip(LocalUpdate(update, 10**9), max_l2_norm=2, max_weight=4).values.tolist() == [1.0]


def test_the_trained_values_are_left_as_they_are() -> None:
    values = np.array([3, 4], dtype=np.float32)
    clip(LocalUpdate(values, 1), max_l2_norm=1, max_weight=2)
    assert values.tolist() == [3, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7])
def test_nan_and_infinity_are_never_uploaded(bad: float, place: int) -> None:
    values = np.zeros(8, dtype=np.float32)
    values[place] = bad
    with refused("update-not-finite", UsageError):
        clip(LocalUpdate(values, 1), max_l2_norm=1, max_weight=1)
    with refused("not-finite", FedloomError):
        require_finite(values, "the weights")


def test_finite_values_pass() -> None:
    require_finite(np.array([np.finfo(np.float32).max], dtype=np.float32), "the weights")


@pytest.mark.parametrize("examples", [0, -1])
def test_an_update_of_no_examples_is_refused(examples: int) -> None:
    with refused("update-empty", UsageError):
        clip(LocalUpdate(np.ones(3, dtype=np.float32), examples), max_l2_norm=1, max_weight=1)


def test_a_sum_may_reach_the_survivors_bound_and_no_more() -> None:
    total = np.array([0.0, 6.0])
    check_sum_norm(total, survivors=3, l2_norm_bound=2.0)
    with refused("implausible-norm", UnmaskingFailed):
        check_sum_norm(total * 1.0001, survivors=3, l2_norm_bound=2.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sum_that_is_no_number_is_implausible(bad: float) -> None:
    with refused("implausible-norm", UnmaskingFailed):
        check_sum_norm(np.array([bad]), survivors=3, l2_norm_bound=2.0)

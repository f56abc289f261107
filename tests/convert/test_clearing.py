"""Biases move so that nothing is near a kink, and no further than they must."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tools.convert.clearing import channel_shifts, clear_shift

VALUES = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=200)
PLACES = st.sampled_from([(0.0,), (0.0, 6.0)])


def distance(values: np.ndarray[tuple[int], np.dtype[np.float64]], places: tuple[float, ...]) -> float:
    return min(float(np.abs(values - place).min()) for place in places)


@given(VALUES, PLACES, st.floats(1e-6, 0.1))
def test_a_shift_leaves_the_margin(values: list[float], places: tuple[float, ...], margin: float) -> None:
    taken = np.array(values)
    shift = clear_shift(taken, places, margin)
    assert distance(taken + shift, places) >= margin * (1 - 1e-9)
    assert (shift == 0) == (distance(taken, places) >= margin)


@given(VALUES, PLACES, st.floats(1e-6, 0.1), st.floats(0, 1))
def test_no_smaller_shift_would_do(values: list[float], places: tuple[float, ...], margin: float, part: float) -> None:
    taken = np.array(values)
    shift = clear_shift(taken, places, margin)
    for smaller in (shift * part, -shift * part):
        assert abs(smaller) >= abs(shift) * (1 - 1e-9) or distance(taken + smaller, places) <= 2 * margin * (1 + 1e-9)


def test_channels_move_by_themselves_and_over_all_batches() -> None:
    one = np.array([[[1.0, 0.0], [-1.0, 3.0]]], np.float32)
    other = np.array([[[2.0, 1.0], [1e-6, 2.0]]], np.float32)
    shifts = channel_shifts([one, other], (0.0,))
    assert (shifts != 0).all()
    moved = np.concatenate([one, other]).reshape(-1, 2) + shifts
    assert np.abs(moved).min() >= 2e-5 * moved.std() / 2
    assert (channel_shifts([one + 5], (0.0,)) == 0).all()

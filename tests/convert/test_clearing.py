"""Biases move so that nothing is near a kink, and not far."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tools.convert.clearing import F64, channel_shifts, clear_shift

Places: TypeAlias = tuple[float, ...]

VALUES = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=200)
PLACES = st.sampled_from([(0.0,), (0.0, 6.0)])
REACH = st.floats(0.01, 5)


def clearance(values: F64, places: Places) -> float:
    return min(float(np.abs(values - place).min()) for place in places)


@given(VALUES, PLACES, REACH, st.floats(-1, 1))
def test_no_other_shift_within_reach_is_clearer(values: list[float], places: Places, reach: float, at: float) -> None:
    taken = np.array(values)
    shift = clear_shift(taken, places, reach)
    assert abs(shift) <= reach
    assert clearance(taken + shift, places) >= clearance(taken + at * reach, places) - 1e-9


@given(VALUES, PLACES, REACH)
def test_there_is_room_among_few_values(values: list[float], places: Places, reach: float) -> None:
    taken = np.array(values)
    gaps = len(values) * len(places) + 1
    assert clearance(taken + clear_shift(taken, places, reach), places) >= reach / gaps * (1 - 1e-9)


def test_channels_move_by_themselves_and_over_all_batches() -> None:
    one = np.array([[[1.0, 5.0], [-1.0, 3.0]]], np.float32)
    other = np.array([[[2.0, 4.0], [1e-6, 2.0]]], np.float32)
    shifts = channel_shifts([one, other], (0.0,))
    assert shifts[0] != 0
    assert shifts[1] == 0
    assert np.abs(np.concatenate([one, other])[..., 0] + shifts[0]).min() > 0.1

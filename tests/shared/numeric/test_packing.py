"""Lanes in words, checked against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.numeric.packing import LANES_PER_WORD, pack, unpack_sum, words_for
from shared.numeric.quantization import Grid

WIDTHS = sorted(LANES_PER_WORD)
widths = st.sampled_from(WIDTHS)


def levels_for(members: int, lane_bits: int) -> int:
    return Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=1.0).levels


def reference_pack(steps: list[int], levels: int, lane_bits: int) -> list[int]:
    """Write the lanes of each word as digits of one big integer, base 2^b."""
    lanes = 64 // lane_bits
    chunks = [steps[i : i + lanes] for i in range(0, len(steps), lanes)]
    return [sum((step + levels) << (lane_bits * place) for place, step in enumerate(chunk)) for chunk in chunks]


@st.composite
def cohorts_of_steps(draw: st.DrawFn) -> tuple[int, int, list[list[int]]]:
    lane_bits, members, dimension = draw(widths), draw(st.integers(2, 8)), draw(st.integers(1, 13))
    levels = levels_for(members, lane_bits)
    step = st.one_of(st.sampled_from([-levels, levels]), st.integers(-levels, levels))
    row = st.lists(step, min_size=dimension, max_size=dimension)
    return lane_bits, levels, draw(st.lists(row, min_size=members, max_size=members))


@given(cohorts_of_steps())
def test_words_and_their_sums_agree_with_big_integers(case: tuple[int, int, list[list[int]]]) -> None:
    lane_bits, levels, rows = case
    total, exact = (
        np.zeros(words_for(len(rows[0]), lane_bits), dtype=np.uint64),
        [0] * words_for(len(rows[0]), lane_bits),
    )
    for row in rows:
        words = pack([np.array(row)], levels=levels, lane_bits=lane_bits)
        assert words.tolist() == reference_pack(row, levels, lane_bits)
        total += words
        exact = [a + b for a, b in zip(exact, words.tolist(), strict=True)]
    assert total.tolist() == exact  # no word wrapped
    sums = unpack_sum(total, dimension=len(rows[0]), levels=levels, lane_bits=lane_bits, survivors=len(rows))
    assert sums.tolist() == [sum(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("lane_bits", WIDTHS)
@pytest.mark.parametrize("members", [2, 5, 64])
@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1), (-1, 1)])
def test_no_lane_carries_when_every_member_is_at_the_edge(lane_bits: int, members: int, signs: tuple[int, int]) -> None:
    levels = levels_for(members, lane_bits)
    steps = np.array([levels * signs[i % 2] for i in range(11)])
    total = np.zeros(words_for(11, lane_bits), dtype=np.uint64)
    for _ in range(members):
        total += pack([steps], levels=levels, lane_bits=lane_bits)
    sums = unpack_sum(total, dimension=11, levels=levels, lane_bits=lane_bits, survivors=members)
    assert sums.tolist() == [members * step for step in steps.tolist()]


def test_a_sum_of_masked_words_wraps_and_comes_back() -> None:
    levels = levels_for(3, 32)
    words = pack([np.array([levels, -levels])], levels=levels, lane_bits=32)
    mask = np.array([2**64 - 1], dtype=np.uint64)
    assert ((words + mask) - mask).tolist() == words.tolist()


@pytest.mark.parametrize(
    ("lane_bits", "dimension", "words"),
    [(16, 4, 1), (16, 5, 2), (21, 3, 1), (21, 4, 2), (32, 2, 1), (32, 3, 2), (32, 0, 0)],
)
def test_the_last_word_is_padded(lane_bits: int, dimension: int, words: int) -> None:
    assert words_for(dimension, lane_bits) == words
    packed = pack([np.zeros(dimension, dtype=np.int64)], levels=1, lane_bits=lane_bits)
    assert packed.size == words


@pytest.mark.parametrize("step", [-17, 17, 2**40, -(2**40)])
def test_a_step_outside_the_levels_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="outside -16"):
        pack([np.array([0, step])], levels=16, lane_bits=16)


def test_a_lane_that_honest_members_cannot_reach_is_refused() -> None:
    words = np.array([2 * 3 * 16 + 1], dtype=np.uint64)
    with pytest.raises(ValueError, match="larger than its members"):
        unpack_sum(words, dimension=1, levels=16, lane_bits=16, survivors=3)
    assert unpack_sum(words - np.uint64(1), dimension=1, levels=16, lane_bits=16, survivors=3).tolist() == [48]

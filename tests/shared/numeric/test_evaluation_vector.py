"""What a cohort's sum says of two versions is what its devices found, and nothing that they cannot have found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnmaskingFailed
from shared.limits import LOSS_UNITS_PER_NAT
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import EVALUATION_WORDS, from_evaluation_words, to_evaluation_words
from tests.shared.refusals import refused

NOTHING = Evaluation(0.0, 0, 0)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Evaluation, Evaluation]:
    count = draw(st.integers(0, 2000))
    one, other = (Evaluation(draw(st.floats(0, 100 * count)), draw(st.integers(0, count)), count) for _ in range(2))
    return one, other


def added(found: list[tuple[Evaluation, Evaluation]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    total = np.zeros(EVALUATION_WORDS, np.uint64)
    for pair in found:
        total += to_evaluation_words(*pair)
    return total


@given(found=st.lists(pairs(), min_size=1, max_size=30))
def test_sums_means_and_squares_come_back(found: list[tuple[Evaluation, Evaluation]]) -> None:
    told = from_evaluation_words(added(found), len(found))
    with_examples = [pair for pair in found if pair[0].count]
    assert (told.survivors, told.evaluated) == (len(found), len(with_examples))
    for index, one in enumerate((told.candidate, told.baseline)):
        assert one.correct == sum(pair[index].correct for pair in found)
        assert one.count == sum(pair[index].count for pair in found)
        expected = sum(pair[index].loss_sum for pair in found)
        assert one.loss_sum == pytest.approx(expected, abs=len(found) / LOSS_UNITS_PER_NAT)
    gains = [(a.correct - b.correct) / a.count for a, b in with_examples]
    changes = [(a.loss_sum - b.loss_sum) / a.count for a, b in with_examples]
    for told_one, values, unit in ((told.gain, gains, 2**-20), (told.loss_change, changes, 2 / LOSS_UNITS_PER_NAT)):
        assert told_one.total == pytest.approx(math.fsum(values), abs=len(found) * unit)
        assert told_one.squares == pytest.approx(math.fsum(v * v for v in values), rel=0.01, abs=len(found) * unit)


def test_a_device_without_examples_adds_nothing_and_a_diverged_model_is_the_worst() -> None:
    assert not to_evaluation_words(NOTHING, NOTHING).any()
    found = from_evaluation_words(to_evaluation_words(Evaluation(math.nan, 3, 5), Evaluation(1.0, 5, 5)), 1)
    assert found.candidate.mean_loss == 100.0
    assert found.gain.total == pytest.approx(-0.4, abs=1e-5)


@pytest.mark.parametrize("word", range(EVALUATION_WORDS))
@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_impossible_sums_are_discarded(word: int, value: int) -> None:
    total = added([(Evaluation(3.0, 2, 4), Evaluation(5.0, 1, 4))] * 3)
    total[word] = value
    if (word, value) in {(6, 2**64 - 1), (8, 2**64 - 1)}:  # a small change for the worse: -1 unit
        assert from_evaluation_words(total, 3).survivors == 3
        return
    with refused("implausible-counts", UnmaskingFailed):
        from_evaluation_words(total, 3)

"""The gate's rule and the size of stages, over all that hypothesis can think of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.releases.gate import Rule, judge, smallest_stage, stage_limit
from shared.decision import PLACES, place_of
from shared.errors import UsageError
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import (
    EVALUATION_WORDS,
    ComparedSum,
    from_evaluation_words,
    to_evaluation_words,
)
from shared.secagg.parameters import CohortRules, share_of, thresholds
from tests.shared.refusals import refused

RULE = Rule()


def summed(pairs: list[tuple[Evaluation, Evaluation]]) -> ComparedSum:
    total = np.zeros(EVALUATION_WORDS, np.uint64)
    for pair in pairs:
        total += to_evaluation_words(*pair)
    return from_evaluation_words(total, len(pairs))


def drawn(
    random: np.random.Generator, devices: int, examples: int, accuracies: tuple[float, float], between: float
) -> ComparedSum:
    """Return what devices find of two models, each wrong on examples of its own; devices differ by ``between``."""
    pairs = []
    for _ in range(devices):
        shift = random.normal(0, between)
        found = []
        for accuracy in accuracies:
            correct = int(random.binomial(examples, min(1.0, max(0.0, accuracy + shift))))
            found.append(Evaluation((examples - correct) * 2.0, correct, examples))
        pairs.append((found[0], found[1]))
    return summed(pairs)


@given(
    counts=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1)), min_size=2, max_size=50),
    metric=st.sampled_from(["accuracy", "loss"]),
)
def test_a_model_that_is_the_same_always_passes(counts: list[tuple[int, float]], metric: str) -> None:
    pairs = [Evaluation(share * count, round(share * count), count) for count, share in counts]
    verdict = judge(summed([(one, one) for one in pairs]), RULE, metric, 2)  # type: ignore[arg-type]  # a literal
    assert verdict.passed
    assert verdict.drop == 0


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize(("devices", "examples"), [(10, 20), (10, 200), (100, 20)])
def test_a_model_as_good_with_other_mistakes_passes_almost_always(devices: int, examples: int, metric: str) -> None:
    random, passed = np.random.default_rng(5), 0
    rule = Rule(largest_drop=1.0)
    for _ in range(400):
        found = drawn(random, devices, examples, (0.9, 0.9), 0.05)
        passed += judge(found, rule, metric, 10).passed  # type: ignore[arg-type]  # a literal
    assert passed >= 392


@settings(max_examples=50, deadline=None)
@given(
    devices=st.integers(10, 60),
    examples=st.integers(20, 200),
    accuracy=st.floats(0.6, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_much_worse_model_never_passes(devices: int, examples: int, accuracy: float, seed: int) -> None:
    found = drawn(np.random.default_rng(seed), devices, examples, (accuracy - 0.4, accuracy), 0.02)
    for metric in ("accuracy", "loss"):
        verdict = judge(found, RULE, metric, 10)
        assert not verdict.passed
        assert verdict.drop > verdict.allowed


def test_what_chance_explains_shrinks_with_the_sample() -> None:
    random = np.random.default_rng(2)
    rule = Rule(largest_drop=1.0)
    few, many = (judge(drawn(random, devices, 50, (0.88, 0.9), 0.05), rule, "accuracy", 2) for devices in (10, 4000))
    assert few.passed  # two points are nothing on ten devices
    assert not many.passed
    assert many.standard_error < few.standard_error / 10


@given(st.integers(0, 30), st.integers(2, 30))
def test_too_few_devices_with_examples_never_pass(evaluated: int, fewest: int) -> None:
    one, none = Evaluation(1.0, 3, 4), Evaluation(0.0, 0, 0)
    found = summed([(one, one)] * evaluated + [(none, none)] * 40)
    assert judge(found, RULE, "accuracy", fewest).passed == (evaluated >= fewest)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.integers(0, 300),
    st.integers(2, 40),
    st.integers(0, 10**6),
)
def test_stages_are_nested_and_hold_the_smallest_cohort(
    shares: list[float], devices: int, smallest: int, seed: int
) -> None:
    places = [place_of("task", seed, f"device-{number}") for number in range(devices)]
    before: set[int] = set()
    limit = 0
    for share in sorted(shares):
        limit = stage_limit(places, share, smallest, limit)
        inside = {number for number, place in enumerate(places) if place < limit}
        assert before <= inside
        assert len(inside) >= min(smallest, devices)
        before = inside
    assert stage_limit(places, 1.0, smallest, limit) == PLACES


@given(st.floats(0, 0.99), st.integers(2, 40), st.data())
def test_where_too_few_can_evaluate_nobody_but_the_share_is_given_the_version(
    share: float, smallest: int, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, PLACES - 1), max_size=smallest - 1))
    before = data.draw(st.integers(0, PLACES // 2))
    assert stage_limit(places, share, smallest, before) == max(before, math.ceil(share * PLACES))


@given(fewest=st.integers(2, 100), more=st.integers(0, 200), dropout=st.sampled_from([0.0, 0.1, 0.25, 0.3]))
def test_a_stage_is_a_cohort_even_after_the_planned_drop_outs(fewest: int, more: int, dropout: float) -> None:
    rules = CohortRules(fewest, fewest + more, 0.0, dropout)
    size = smallest_stage(rules)
    assert fewest <= size <= rules.largest
    if size < rules.largest:
        thresholds(size, rules)
        assert size - share_of(dropout, size) >= fewest


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.5, 1.0), (0.5, 0.1, 1.0), (0.0, 1.0), (-0.1, 1.0), (0.5, 1.1)])
def test_stages_that_make_no_sense_are_refused(shares: tuple[float, ...]) -> None:
    with refused("bad-stages", UsageError):
        Rule(shares)


@pytest.mark.parametrize(("tolerance", "largest_drop"), [(-0.1, 0.1), (0.2, 0.1), (0.1, 2.0), (math.nan, 0.1)])
def test_gates_that_make_no_sense_are_refused(tolerance: float, largest_drop: float) -> None:
    with refused("bad-gate", UsageError):
        Rule(tolerance=tolerance, largest_drop=largest_drop)


def test_a_rule_comes_back_as_it_was_stored() -> None:
    rule = Rule((0.05, 1.0), automatic=False, tolerance=0.02, largest_drop=0.3, standard_errors=2.0)
    assert Rule.from_bytes(rule.to_bytes()) == rule

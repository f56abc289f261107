"""Whoever vanishes, whenever: the sum is exact over the survivors, or there is no sum and a reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FedloomError
from shared.secagg.masking import CIPHERS, CipherName
from shared.secagg.parameters import CohortRules, thresholds
from tests.shared.cohort_simulation import STEPS, CohortSimulation

RULES = CohortRules(min_survivors=3, largest=5, corrupt_share=0.0, dropout_share=0.4)
# By hand for RULES, by members of the roster: (shares that recover, fewest survivors, quorum).
LIMITS = {3: (2, 3, 2), 4: (3, 3, 3), 5: (3, 3, 3)}
FAILURES = {"cohort-size", "too-few-survivors", "too-few-shares"}
ALL_FIVE = range(5)


def subsets(numbers: set[int]) -> Iterator[set[int]]:
    """Yield every subset."""
    ordered = sorted(numbers)
    for size in range(len(ordered) + 1):
        yield from map(set, itertools.combinations(ordered, size))


def expect(simulation: CohortSimulation, alive: list[set[int]]) -> bool:
    """Check the outcome of a finished session; return whether it has a sum.

    Args:
        simulation: after its last step.
        alive: for each step, the numbers of the devices that had not vanished before it.
    """
    joined, shared, masked, agreed, answered = (len(numbers) for numbers in alive)
    limits = LIMITS.get(joined)
    if limits:
        threshold, survivors, quorum = limits
        if shared >= threshold and masked >= survivors and agreed >= quorum and answered >= threshold:
            assert simulation.counted() == [int(number in alive[2]) for number in ALL_FIVE]
            total = simulation.total()
            assert total.weight_sum == sum(number + 1 for number in alive[2])
            assert (total.clipped, total.evaluation.correct, total.survivors) == (masked, masked, masked)
            return True
    with pytest.raises(FedloomError) as caught:
        simulation.total()
    assert caught.value.code in FAILURES
    return False


@pytest.mark.parametrize("step", STEPS)
def test_every_subset_of_devices_may_vanish_before_a_step(step: str) -> None:
    sums = 0
    for gone in subsets(set(ALL_FIVE)):
        simulation = CohortSimulation(5, RULES)
        alive = []
        for current in STEPS:
            if current == step:
                simulation.drop(gone)
            alive.append(set(ALL_FIVE) - (gone if STEPS.index(current) >= STEPS.index(step) else set()))
            simulation.run(current)
        sums += expect(simulation, alive)
    assert sums == 16  # all five, five times four, ten times three


def test_every_mixed_pattern_of_drop_outs_counts_each_survivor_once() -> None:
    """Each of five devices vanishes before one of five steps or never: 6^5 patterns, common beginnings shared."""
    outcomes = list(_every_continuation(CohortSimulation(5, RULES), []))
    assert len(outcomes) == 6**5
    assert sum(outcomes) == _patterns_with_a_sum()


def _every_continuation(simulation: CohortSimulation, alive: list[set[int]]) -> Iterator[bool]:
    if len(alive) == len(STEPS):
        yield expect(simulation, alive)
        return
    present = alive[-1] if alive else set(ALL_FIVE)
    for left in subsets(present):
        branch = simulation.fork()
        branch.drop(set(ALL_FIVE) - left)
        branch.run(STEPS[len(alive)])
        yield from _every_continuation(branch, [*alive, left])


def _patterns_with_a_sum() -> int:
    """Count them from LIMITS alone, by the step before which each device vanishes (5: never)."""
    count = 0
    for last in itertools.product(range(6), repeat=5):
        joined, shared, masked, agreed, answered = (sum(step > k for step in last) for k in range(5))
        threshold, survivors, quorum = LIMITS.get(joined, (9, 9, 9))
        count += shared >= threshold and masked >= survivors and agreed >= quorum and answered >= threshold
    return count


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[int, CohortRules, list[int]]:
    """Draw a number of devices, rules that are safe for all of them, and when each device vanishes."""
    devices = draw(st.integers(2, 12))
    rules = CohortRules(
        min_survivors=draw(st.integers(2, devices)),
        largest=devices,
        corrupt_share=draw(st.sampled_from([0.0, 0.05, 0.1])),
        dropout_share=draw(st.sampled_from([0.0, 0.1, 0.3])),
    )
    never = len(STEPS)
    vanishing = st.sampled_from([never] * 6 + list(range(never)))
    return devices, rules, draw(st.lists(vanishing, min_size=devices, max_size=devices))


@given(cohorts(), st.integers(0, 2**32), st.sampled_from([16, 21, 32]), st.sampled_from(CIPHERS))
@settings(max_examples=80)
def test_random_drop_outs_in_larger_cohorts(
    cohort: tuple[int, CohortRules, list[int]], seed: int, lane_bits: int, cipher: CipherName
) -> None:
    devices, rules, vanishing = cohort
    simulation = CohortSimulation(devices, rules, seed=seed, lane_bits=lane_bits, cipher=cipher)
    for number, step in enumerate(STEPS):
        simulation.drop({device for device in range(devices) if vanishing[device] <= number})
        simulation.run(step)
    joined, shared, masked, agreed, answered = (sum(step > k for step in vanishing) for k in range(5))
    try:
        limits = thresholds(joined, rules)
    except FedloomError:
        possible = False
    else:
        possible = shared >= limits.threshold and masked >= limits.survivors
        possible = possible and agreed >= limits.quorum and answered >= limits.threshold
    if possible:
        assert simulation.counted() == [int(step > STEPS.index("mask")) for step in vanishing]
    else:
        with pytest.raises(FedloomError):
            simulation.total()


def test_sharing_a_beginning_changes_no_outcome() -> None:
    plain, forked = CohortSimulation(5, RULES), CohortSimulation(5, RULES)
    for step in STEPS:
        plain.run(step)
        forked = forked.fork()
        forked.fork().run(step)  # the sibling must leave no trace
        forked.run(step)
    assert forked.answers == plain.answers
    assert forked.signatures == plain.signatures
    for index, vector in plain.masked.items():
        np.testing.assert_array_equal(vector.words, forked.masked[index].words)

"""The noise is Skellam's: its table exactly, its samples within what chance allows."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.numeric.skellam import SkellamTable, table_for, tail
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

SAMPLES: Final = 200_000


def probabilities(table: SkellamTable) -> dict[int, Fraction]:
    """Return what the table gives each outcome: every draw counted, none made."""
    whole = table.alias.size << 128
    found: dict[int, int] = {}
    rows = zip(table.high.tolist(), table.low.tolist(), table.alias.tolist(), strict=True)
    for cell, (high, low, alias) in enumerate(rows):
        own = (high << 64) + low
        for outcome, weight in ((cell, own), (alias, (1 << 128) - own)):
            found[outcome - table.radius] = found.get(outcome - table.radius, 0) + weight
    return {outcome: Fraction(weight, whole) for outcome, weight in found.items() if weight}


def difference_of_poissons(outcome: int, variance: float) -> float:
    """Return P(X - Y = outcome) for two Poisson variables of mean variance / 2, term by term."""
    mean = variance / 2

    def log_term(y: int) -> float:
        return (2 * y + outcome) * math.log(mean) - 2 * mean - math.lgamma(y + 1) - math.lgamma(y + outcome + 1)

    return math.fsum(math.exp(log_term(y)) for y in range(max(0, -outcome), int(mean + 40 * math.sqrt(mean) + 60)))


@pytest.mark.parametrize("variance", [0.01, 0.5, 3.0, 40.0, 700.0])
def test_the_table_is_the_difference_of_two_poissons(variance: float) -> None:
    found = probabilities(table_for(variance))
    assert sum(found.values()) == 1
    for outcome, probability in found.items():
        expected = difference_of_poissons(outcome, variance)
        assert abs(float(probability) - expected) <= 1e-11 * expected + 2.0**-120


@pytest.mark.parametrize("variance", [0.01, 0.5, 3.0, 700.0, 123_456.7])
def test_the_table_is_exact_to_its_last_bits(variance: float) -> None:
    """Bessel functions of one argument are tied to each other: ``I_(k-1) - I_(k+1) = 2 k / variance I_k``."""
    table = table_for(variance)
    found = probabilities(table)
    unit = Fraction(1, 2**120)
    for k in range(1, table.radius):
        here, before, after = (found.get(outcome, Fraction(0)) for outcome in (k, k - 1, k + 1))
        assert abs(before - after - 2 * k / Fraction(variance) * here) <= unit * (1 + k / Fraction(variance))


@pytest.mark.parametrize("variance", [0.01, 0.5, 3.0, 700.0, 1e6])
def test_the_table_has_mean_zero_and_the_variance_asked_for(variance: float) -> None:
    found = probabilities(table_for(variance))
    assert sum(outcome * probability for outcome, probability in found.items()) == 0
    assert float(sum(outcome**2 * probability for outcome, probability in found.items())) == pytest.approx(
        variance, rel=1e-9
    )


@pytest.mark.parametrize("variance", [0.3, 9.0, 1e4, 1e6])
def test_samples_have_the_variance_within_two_percent(variance: float) -> None:
    samples = table_for(variance).draw(SAMPLES, Randomness(f"{variance}"))
    assert samples.var() == pytest.approx(variance, rel=0.02)
    assert abs(samples.mean()) < 5 * math.sqrt(variance / SAMPLES)
    skew = float(((samples / math.sqrt(variance)) ** 3).mean())
    assert abs(skew) < 5 * math.sqrt((15 + 25 / variance + 1 / variance**2) / SAMPLES)


def test_the_sum_of_ten_devices_noise_is_one_noise_of_ten_times_the_variance() -> None:
    source = Randomness("ten")
    summed = sum(table_for(2.0).draw(SAMPLES, source) for _ in range(10))
    expected = probabilities(table_for(20.0))
    counts = dict(zip(*(part.tolist() for part in np.unique(summed, return_counts=True)), strict=True))
    common = [outcome for outcome, probability in expected.items() if float(probability) * SAMPLES > 50]
    statistic = sum(
        (counts.get(outcome, 0) - SAMPLES * float(expected[outcome])) ** 2 / (SAMPLES * float(expected[outcome]))
        for outcome in common
    )
    assert abs(statistic - len(common)) < 5 * math.sqrt(2 * len(common))


@given(st.floats(0.01, 1e9), st.integers(20, 70))
def test_the_tail_holds_against_chernoffs_bound(variance: float, tail_bits: int) -> None:
    """Chernoff's bound with the exact generating function is below what the simpler bound promises."""
    beyond = tail(variance, tail_bits)
    root = math.hypot(beyond, variance)
    exponent = beyond**2 / (root + variance) - beyond * math.asinh(beyond / variance)
    assert exponent <= -tail_bits * math.log(2) * (1 - 1e-9)


def test_two_sources_give_two_noises_and_one_source_one() -> None:
    table = table_for(50.0)
    one, same, other = (table.draw(100, Randomness(name)).tolist() for name in ("a", "a", "b"))
    assert one == same != other


def test_the_source_is_asked_for_one_key_whatever_is_drawn() -> None:
    asked: list[int] = []

    def source(octets: int) -> bytes:
        asked.append(octets)
        return bytes(octets)

    drawn = table_for(5.0).draw(100_000, source)
    assert asked == [32]
    assert len(np.unique(drawn[:50])) > 3  # the key is not the sample


def test_pieces_of_a_long_draw_are_not_alike() -> None:
    table = table_for(1e6)
    drawn = table.draw(100_000, Randomness("long"))
    for shift in (1, 2**14, 2**15):
        assert np.count_nonzero(drawn[shift:] == drawn[:-shift]) < 100_000 / 1000


def test_noise_that_needs_too_large_a_table_is_refused() -> None:
    with refused("noise-too-wide"):
        table_for(1e12)

"""The privacy loss against a divergence summed term by term, and epsilon against Google's dp-accounting."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Final

import dp_accounting
import pytest
from dp_accounting import rdp as google

from shared.privacy.rdp import ORDERS, composed, epsilon, gaussian_rdp, skellam_rdp

REFERENCE_ORDERS: Final = list(ORDERS)
OUTCOMES: Final = 500


@cache
def log_skellam(variance: float, outcome: int) -> float:
    """Return log P(X - Y = outcome), outcome not negative, for two Poisson variables of mean variance / 2.

    Term by term in logarithms, accurate however unlikely: another way than the sampler's recurrence.
    """
    mean = variance / 2
    terms = [
        (2 * y + outcome) * math.log(mean) - variance - math.lgamma(y + 1) - math.lgamma(y + outcome + 1)
        for y in range(int(mean + 40 * math.sqrt(mean) + 80))
    ]
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))


def divergence(variance: float, shift: int, order: int) -> float:
    """Return the Renyi divergence of Skellam noise from itself moved by ``shift``."""
    terms = [
        order * log_skellam(variance, abs(k)) + (1 - order) * log_skellam(variance, abs(k - shift))
        for k in range(-OUTCOMES, OUTCOMES + 1)
    ]
    largest = max(terms)
    assert max(terms[0], terms[-1]) < largest - 40  # nothing that counts is beyond
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


@pytest.mark.parametrize(("variance", "shift"), [(900.0, 1), (200.0, 4), (900.0, 10)])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_bound_is_the_divergence_within_one_percent_where_noise_is_wide(
    variance: float, shift: int, order: int
) -> None:
    exact = divergence(variance, shift, order)
    bound = skellam_rdp(variance, shift, shift)[ORDERS.index(order)]
    assert exact <= bound * (1 + 1e-9)
    assert bound == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("variance", [0.5, 2.0, 10.0, 60.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_no_divergence_exceeds_the_bound_however_narrow_the_noise(variance: float, shift: int) -> None:
    for order in (2, 3, 5, 9, 17, 33, 63):
        exact = divergence(variance, shift, order)
        assert 0 < exact <= skellam_rdp(variance, shift, shift)[ORDERS.index(order)]


def test_wide_noise_costs_what_gaussian_noise_costs() -> None:
    norm = 1000.0
    wide = skellam_rdp((1.5 * norm) ** 2, 50 * norm, norm)
    assert wide == pytest.approx(gaussian_rdp(1.5), rel=1e-3)


@pytest.mark.parametrize("participations", [1, 100, 1000])
@pytest.mark.parametrize("multiplier", [0.7, 1.0, 8.0, 40.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_epsilon_is_that_of_dp_accounting(participations: int, multiplier: float, delta: float) -> None:
    norm = 1000.0
    loss = composed([skellam_rdp((multiplier * norm) ** 2, 300 * norm, norm)] * participations)
    expected, _ = google.compute_epsilon(REFERENCE_ORDERS, list(loss), delta)
    assert epsilon(loss, delta) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("participations", [1, 100, 1000])
@pytest.mark.parametrize("multiplier", [1.0, 8.0, 40.0])
def test_composition_is_that_of_dp_accounting(participations: int, multiplier: float) -> None:
    accountant = google.RdpAccountant(REFERENCE_ORDERS)
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), participations)
    ours = epsilon(composed([gaussian_rdp(multiplier)] * participations), 1e-6)
    assert ours == pytest.approx(float(accountant.get_epsilon(1e-6)), rel=1e-9)


def test_more_participations_cost_more_and_more_noise_less() -> None:
    costs = [epsilon(composed([gaussian_rdp(2.0)] * times), 1e-6) for times in range(6)]
    assert costs[0] == 0
    assert all(one < other for one, other in pairwise(costs))
    assert epsilon(gaussian_rdp(2.0), 1e-6) > epsilon(gaussian_rdp(3.0), 1e-6)

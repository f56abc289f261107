"""Thresholds: the values by hand, the intersections that they are for, and sizes that are refused."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from shared.errors import UsageError
from shared.limits import MAX_NEIGHBOURS
from shared.secagg.parameters import Adversary, CohortRules, share_of, thresholds
from tests.shared.refusals import refused

USUAL = CohortRules(min_survivors=2, largest=64, corrupt_share=0.05, dropout_share=0.1)
# t for n = 2 .. 64 at gamma = 5 %, by hand: floor(1.05 n / 2) + 1.
T_BY_HAND = [
    *(2, 2, 3, 3, 4, 4, 5, 5, 6),
    *(6, 7, 7, 8, 8, 9, 9, 10, 10, 11),
    *(12, 12, 13, 13, 14, 14, 15, 15, 16, 16),
    *(17, 17, 18, 18, 19, 19, 20, 20, 21, 22),
    *(22, 23, 23, 24, 24, 25, 25, 26, 26, 27),
    *(27, 28, 28, 29, 29, 30, 30, 31, 31, 32),
    *(33, 33, 34, 34),
]


@pytest.mark.parametrize(("members", "threshold"), list(zip(range(2, 65), T_BY_HAND, strict=True)))
def test_the_threshold_of_every_size(members: int, threshold: int) -> None:
    limits = thresholds(members, USUAL)
    assert (limits.threshold, limits.neighbours) == (threshold, members - 1)
    assert limits.survivors == members - members // 10


@pytest.mark.parametrize("members", range(2, 65))
@pytest.mark.parametrize("gamma_percent", [0, 5, 10, 20])
def test_no_two_groups_can_both_unmask_or_agree(members: int, gamma_percent: int) -> None:
    """Corrupt members help both groups; honest ones help one. Two groups together then have too few."""
    limits = thresholds(members, CohortRules(2, 64, gamma_percent / 100, 0.0))
    corrupt = members * gamma_percent // 100
    honest = members - corrupt
    assert 2 * (limits.threshold - corrupt) > honest
    assert 2 * (limits.quorum - corrupt) > honest
    assert limits.quorum <= limits.threshold <= members


@pytest.mark.parametrize("members", range(3, 65))
def test_the_alive_reach_every_threshold_when_as_many_vanish_as_allowed(members: int) -> None:
    limits = thresholds(members, USUAL)
    alive = members - members // 10
    assert limits.threshold <= alive
    assert limits.quorum <= alive
    assert limits.survivors <= alive


def test_the_smallest_cohort_needs_both() -> None:
    limits = thresholds(2, USUAL)
    assert (limits.threshold, limits.survivors, limits.quorum) == (2, 2, 2)


@pytest.mark.parametrize(
    ("members", "rules"),
    [
        (0, USUAL),
        (1, USUAL),
        (1, CohortRules(0, 64, 0.05, 0.1)),
        (9, CohortRules(10, 64, 0.05, 0.1)),
        (33, CohortRules(10, 32, 0.05, 0.1)),
    ],
)
def test_sizes_outside_the_plan_are_refused(members: int, rules: CohortRules) -> None:
    with refused("cohort-size", UsageError):
        thresholds(members, rules)


UNSAFE = [
    *[(2, 0.0, 0.5), (4, 0.0, 0.5), (10, 0.2, 0.4), (64, 0.5, 0.3)],
    *[(100, 0.05, 0.5), (2000, 0.2, 0.4), (10_000, 0.05, 0.45)],
]


@pytest.mark.parametrize(("members", "gamma", "delta"), UNSAFE)
def test_shares_of_the_cohort_that_leave_no_safe_threshold_are_refused(
    members: int, gamma: float, delta: float
) -> None:
    with refused("unsafe-cohort", UsageError):
        thresholds(members, CohortRules(2, members, gamma, delta))


def test_the_minimum_of_the_plan_prevails_over_the_share_that_may_vanish() -> None:
    assert thresholds(12, CohortRules(11, 64, 0.05, 0.1)).survivors == 11
    assert thresholds(12, CohortRules(12, 64, 0.05, 0.1)).survivors == 12
    assert thresholds(20, CohortRules(10, 64, 0.05, 0.1)).survivors == 18


@pytest.mark.parametrize(
    ("share", "members", "expected"), [(0.1, 10, 1), (0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.05, 19, 0)]
)
def test_shares_are_the_decimals_that_a_person_wrote(share: float, members: int, expected: int) -> None:
    """0.29 * 100 is 28.999... in binary."""
    assert share_of(share, members) == expected


# k and t of sparse graphs at gamma = 5 %, by members and adversary, for 10, 20 and 30 % dropping out.
SPARSE = {
    (100, "semi-honest"): [(16, 6), (20, 6), (26, 6)],
    (500, "semi-honest"): [(32, 17), (44, 18), (58, 20)],
    (1000, "semi-honest"): [(36, 19), (50, 21), (66, 23)],
    (10_000, "semi-honest"): [(42, 22), (60, 25), (80, 29)],
    (100, "semi-malicious"): [(26, 16), (44, 25), (66, 36)],
    (500, "semi-malicious"): [(66, 44), (122, 74), (212, 119)],
    (1000, "semi-malicious"): [(78, 52), (148, 90), (314, 179)],
    (10_000, "semi-malicious"): [(96, 64), (202, 123), (522, 299)],
}
CELLS = [
    (members, adversary, delta, *cell)
    for (members, adversary), row in SPARSE.items()
    for delta, cell in zip((0.1, 0.2, 0.3), row, strict=True)
]


@pytest.mark.parametrize(("members", "adversary", "delta", "neighbours", "threshold"), CELLS)
def test_sparse_graphs_have_the_degree_and_threshold_of_the_published_bounds(
    members: int, adversary: Adversary, delta: float, neighbours: int, threshold: int
) -> None:
    limits = thresholds(members, CohortRules(10, members, 0.05, delta, adversary))
    assert (limits.neighbours, limits.threshold) == (neighbours, threshold)


def _tail(marked: int, members: int, k: int, above: int) -> Fraction:
    """Return P[Hyp(members, marked, k) > above] as an exact fraction, term by term."""
    ways = sum(math.comb(marked, x) * math.comb(members - marked, k - x) for x in range(above + 1, k + 1))
    return Fraction(ways, math.comb(members, k))


@pytest.mark.parametrize("members", [65, 66, 99, 257, 400])
@pytest.mark.parametrize(("gamma", "delta"), [(0.0, 0.0), (0.05, 0.1), (0.1, 0.2), (0.01, 0.3)])
def test_the_bounds_hold_for_the_chosen_degree_and_for_no_smaller_one(members: int, gamma: float, delta: float) -> None:
    limits = thresholds(members, CohortRules(2, members, gamma, delta))
    corrupt, gone = share_of(gamma, members), share_of(delta, members)

    def holds(k: int) -> bool:
        pairs = Fraction(members * (members - k - 1), 2)
        apart = pairs * Fraction(math.comb(corrupt + gone, k), math.comb(members, k))
        t1 = next(x for x in range(k + 1) if members * _tail(corrupt, members, k, x) <= Fraction(1, 2**41))
        t = math.ceil(Fraction(4 * (t1 + k) - 5, 8)) + 1
        too_few_left = members * _tail(gone, members, k, k - t)
        found = apart < Fraction(1, 2**41) and too_few_left <= Fraction(1, 2**20)
        assert not found or k != limits.neighbours or t == limits.threshold
        return found

    assert [k for k in range(2, limits.neighbours + 1, 2) if holds(k)] == [limits.neighbours]


@pytest.mark.parametrize("members", [*range(65, 300, 7), 1000, 2000, 4096, 100_000])
def test_a_server_that_deviates_never_needs_half_of_a_neighbourhood_or_less(members: int) -> None:
    limits = thresholds(members, CohortRules(2, members, 0.05, 0.2))
    assert limits.threshold > limits.neighbours / 2
    assert limits.neighbours <= min(members - 2, MAX_NEIGHBOURS)
    assert limits.quorum <= limits.survivors


def test_small_cohorts_are_complete_graphs_whoever_the_adversary_is() -> None:
    for members in (10, 64):
        both = [thresholds(members, CohortRules(2, 64, 0.05, 0.1, a)) for a in ("semi-honest", "semi-malicious")]
        assert both[0] == both[1]
        assert both[0].neighbours == members - 1

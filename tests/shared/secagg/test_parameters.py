"""Thresholds: the values by hand, the intersections that they are for, and sizes that are refused."""

from __future__ import annotations

import pytest

from shared.errors import UsageError
from shared.secagg.parameters import CohortRules, share_of, thresholds
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
        (65, CohortRules(10, 100, 0.05, 0.1)),
    ],
)
def test_sizes_outside_the_plan_or_the_complete_graph_are_refused(members: int, rules: CohortRules) -> None:
    with refused("cohort-size", UsageError):
        thresholds(members, rules)


@pytest.mark.parametrize(("members", "gamma", "delta"), [(2, 0.0, 0.5), (4, 0.0, 0.5), (10, 0.2, 0.4), (64, 0.5, 0.3)])
def test_shares_of_the_cohort_that_leave_no_safe_threshold_are_refused(
    members: int, gamma: float, delta: float
) -> None:
    with refused("unsafe-cohort", UsageError):
        thresholds(members, CohortRules(2, 64, gamma, delta))


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

"""Daily limits: counted before anything is spent, through power cuts and whatever clocks do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from edge_client.conditions.day_count import DAY_S, DayCount
from edge_client.conditions.spending import BLOCKS, COUNTS, Spending
from edge_client.problems import NotNow
from edge_client.settings import Limits
from tests.edge_client.devices import ManualClock
from tests.shared.refusals import refused

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # machines

NOON_S = 1_800_014_400.0  # of 15 January 2027
LIMITS = Limits(download_and_upload_megabytes_per_day=2.0, training_seconds_per_day=60.0)


class Kept(dict[str, str]):
    """A journal in memory."""

    def put(self, name: str, value: str) -> None:
        self[name] = value


def utc(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)


def spending(kept: Kept, clock: ManualClock, limits: Callable[[], Limits] = lambda: LIMITS) -> Spending:
    return Spending(kept, limits, clock, utc)


def on_the_disk(kept: Kept) -> float:
    return DayCount.from_text(kept.get(COUNTS)).used.transferred_bytes


@run_with(deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(st.lists(st.tuples(st.integers(1, 700_000), st.booleans()), max_size=30))
def test_the_disk_never_says_less_than_was_spent_and_never_more_than_is_allowed(steps: list[tuple[int, bool]]) -> None:
    kept, clock, spent = Kept(), ManualClock(NOON_S), 0
    counting = spending(kept, clock)
    for amount, power_cut in steps:
        try:
            counting.spend("transferred_bytes", amount)
        except NotNow:
            assert spent + amount + len(steps) * BLOCKS["transferred_bytes"] > LIMITS.transferred_bytes
        else:
            spent += amount
        assert spent <= on_the_disk(kept) <= LIMITS.transferred_bytes
        if power_cut:
            counting = spending(kept, clock)


def test_what_was_not_spent_is_given_back() -> None:
    kept, clock = Kept(), ManualClock(NOON_S)
    counting = spending(kept, clock)
    counting.spend("transferred_bytes", 1000)
    assert on_the_disk(kept) == BLOCKS["transferred_bytes"]
    assert counting.used_today().transferred_bytes == 1000
    counting.give_back()
    assert on_the_disk(kept) == 1000


def test_a_step_that_does_not_fit_ends_the_day_until_the_owner_allows_more() -> None:
    kept, clock, limits = Kept(), ManualClock(NOON_S), [LIMITS]
    counting = spending(kept, clock, lambda: limits[0])
    counting.spend("transferred_bytes", 1_500_000)
    with refused("day-limit-reached", NotNow):
        counting.require("transferred_bytes", 600_000)
    assert counting.used_today().transferred_bytes == LIMITS.transferred_bytes
    limits[0] = Limits(download_and_upload_megabytes_per_day=3.0)
    assert counting.used_today().transferred_bytes == 1_500_000
    counting.spend("transferred_bytes", 600_000)
    clock.time_s += DAY_S
    assert counting.used_today().transferred_bytes == 0


def test_what_turned_out_longer_is_counted_although_it_is_too_much() -> None:
    counting = spending(Kept(), ManualClock(NOON_S))
    counting.spend("training_s", 59.0)
    counting.count("training_s", 5.0)
    assert counting.used_today().training_s == 64.0
    counting.count("training_s", -30.0)
    assert counting.used_today().training_s == 34.0


@pytest.mark.parametrize("wrong_s", [0.0, NOON_S - DAY_S, NOON_S - 10 * DAY_S])
def test_no_clock_that_goes_back_brings_a_new_day(wrong_s: float) -> None:
    kept, clock = Kept(), ManualClock(NOON_S)
    spending(kept, clock).spend("transferred_bytes", 1_900_000)
    for _ in range(20):  # starts, each with a wrong clock that the network then sets
        clock.time_s = wrong_s
        counting = spending(kept, clock)
        assert counting.used_today().transferred_bytes >= 1_900_000
        with refused("day-limit-reached", NotNow):
            counting.spend("transferred_bytes", 1_000_000)
        clock.time_s = NOON_S + 60
        assert spending(kept, clock).used_today().transferred_bytes >= 1_900_000
        wrong_s += 30


def test_a_clock_that_stays_in_the_past_gets_a_new_day_when_it_ran_for_one() -> None:
    kept, clock = Kept(), ManualClock(4_000_000_000.0)  # a clock that was wrong once must not end everything
    spending(kept, clock).spend("transferred_bytes", 1_900_000)
    clock.time_s = NOON_S
    counting = spending(kept, clock)
    hours = 0
    while counting.used_today().transferred_bytes:
        clock.time_s += 1800.0
        hours += 1
        if hours % 7 == 0:
            counting = spending(kept, clock)
        assert hours < 60
    assert hours >= 48


days = st.sampled_from([0.0, NOON_S - DAY_S, NOON_S, NOON_S + 60, NOON_S + DAY_S])


@run_with(deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(st.lists(st.tuples(days, st.integers(1, 900_000)), max_size=40))
def test_jumping_clocks_never_give_more_than_one_limit_per_day_that_was_shown(steps: list[tuple[float, int]]) -> None:
    kept, clock, spent, latest = Kept(), ManualClock(NOON_S), 0, 0.0
    shown = set[float]()
    for time_s, amount in steps:
        clock.time_s = time_s
        if time_s // DAY_S > latest // DAY_S:
            latest = time_s
            shown.add(time_s // DAY_S)
        try:
            spending(kept, clock).spend("transferred_bytes", amount)
            spent += amount
        except NotNow:
            pass
    assert spent <= LIMITS.transferred_bytes * max(1, len(shown) + (0.0 in [one for one, _ in steps]))

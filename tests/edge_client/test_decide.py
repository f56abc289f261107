"""The decision: the owner's limits are kept whatever is read, and tighter ones never allow more."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from math import inf
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, event, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from edge_client.conditions.decide import CLOCK_TOLERANCE_S, No, Now, Yes, decide
from edge_client.conditions.readings import Readings, UsedToday
from edge_client.settings import Limits, Settings, Train, windows

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # machines

ON = True  # mains
BERLIN = ZoneInfo("Europe/Berlin")
NOON_S = datetime(2026, 7, 1, 12, 0, tzinfo=BERLIN).timestamp()


def berlin(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, BERLIN)


def at(*local: int) -> Now:
    year, month, day, hour, minute = local
    return Now(datetime(year, month, day, hour, minute, tzinfo=BERLIN).timestamp(), berlin)


amounts = st.floats(0, 200, allow_nan=False)
maybe = st.none() | amounts
times = st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda both: both[0] != both[1])


def clock_text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


hours = st.just("") | st.lists(times, min_size=1, max_size=3).map(
    lambda found: ", ".join(f"{clock_text(first)}-{clock_text(end)}" for first, end in found)
)


def mostly(value: Any, others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:  # noqa: ANN401  # of any type
    """Draw ``value`` most of the time: with many conditions, chance alone would hardly ever meet all of them."""
    return st.sampled_from(range(8)).flatmap(lambda number: others if number == 0 else st.just(value))


trains = st.builds(
    Train,
    mostly("", hours),
    st.booleans(),
    mostly(20.0, st.floats(0, 100)),
    st.booleans(),
    mostly(None, amounts),
    mostly(None, amounts),
    mostly(None, amounts),
    mostly(None, amounts),
    st.booleans(),
)
limits = st.builds(
    Limits,
    mostly(None, amounts),
    mostly(None, amounts),
    mostly(None, amounts),
    st.floats(0.1, 100),
    mostly(None, amounts),
)
settings_of = st.builds(Settings, trains, limits)
readings_of = st.builds(
    Readings,
    mostly(ON, st.sampled_from([None, False])),
    mostly(not ON, st.sampled_from([None, True])),
    mostly(80.0, st.none() | st.floats(0, 100)),
    mostly(None, st.sampled_from([frozenset[str](), frozenset({"under-voltage"})])),
    mostly(50.0, maybe),
    mostly(0.5, maybe),
    mostly(100.0, maybe),
    mostly(0.0, maybe),
    maybe,
    maybe,
    mostly(None, st.booleans()),
)
used_of = st.builds(
    UsedToday, mostly(1e6, st.floats(0, 3e8)), mostly(9.0, st.floats(0, 300)), mostly(1e6, st.floats(0, 3e8))
)
nows = st.builds(
    Now,
    st.floats(0, 4e9),
    st.just(berlin),
    mostly(0.0, st.sampled_from([1e9, inf])),
    mostly(0.0, st.just(1.8e9)),
)


def is_kept(settings: Settings, readings: Readings, used: UsedToday, now: Now) -> bool:
    """Say whether every limit of the owner is kept; written without a look at ``decide``."""
    train, limit, local = settings.train, settings.limits, berlin(now.now_s)
    minute = local.hour * 60 + local.minute
    inside = [
        minute in (range(first, end) if first < end else [*range(first, 1440), *range(end)])
        for first, end in windows(train.hours)
    ]
    highest = [
        (train.temperature_below_c, readings.temperature_c),
        (train.load_below_per_core, readings.load_per_core),
        (train.memory_pressure_below_percent, readings.memory_pressure_percent),
    ]
    spent = [
        (limit.download_and_upload_megabytes_per_day, used.transferred_bytes / 1e6),
        (limit.training_seconds_per_day, used.training_s),
        (limit.energy_wh_per_day, used.training_s * (limit.power_w or 0) / 3600 * (1 + 1e-12)),
        (limit.written_megabytes_per_day, used.written_bytes / 1e6),
    ]
    least = train.memory_available_at_least_mib
    return (
        (not inside or any(inside))
        and now.paused_until_s <= now.now_s
        and all(most is None or (found is not None and found < most) for most, found in highest)
        and all(most is None or amount < most for most, amount in spent)
        and (least is None or (readings.memory_available_mib or -1) >= least)
        and (train.on_battery or readings.on_mains is True)
        and (not readings.has_battery or (readings.battery_percent or 100.0) >= train.battery_at_least_percent)
        and (train.throttled or not readings.throttled)
        and (train.metered or not readings.metered)
    )


@run_with(deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(settings_of, readings_of, used_of, nows)
def test_no_limit_of_the_owner_is_ever_exceeded(
    settings: Settings, readings: Readings, used: UsedToday, now: Now
) -> None:
    found = decide(settings, readings, used, now)
    if isinstance(found, Yes):
        assert is_kept(settings, readings, used, now)
    else:
        assert found.look_again_s > now.now_s


TIGHTER: list[tuple[str, str, Any]] = [
    ("train", "hours", lambda value: value or "10:00-11:00"),
    ("train", "on_battery", lambda _value: False),
    ("train", "battery_at_least_percent", lambda value: value + 10),
    ("train", "throttled", lambda _value: False),
    ("train", "metered", lambda _value: False),
    *(
        ("train", name, lambda value: 50.0 if value is None else value / 2)
        for name in ("temperature_below_c", "load_below_per_core", "memory_pressure_below_percent")
    ),
    ("train", "memory_available_at_least_mib", lambda value: 50.0 if value is None else value + 10),
    *(
        ("limits", name, lambda value: 50.0 if value is None else value / 2)
        for name in (
            "download_and_upload_megabytes_per_day",
            "training_seconds_per_day",
            "energy_wh_per_day",
            "written_megabytes_per_day",
        )
    ),
    ("limits", "power_w", lambda value: value * 2),
]


@run_with(deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(settings_of, readings_of, used_of, nows, st.sampled_from(TIGHTER))
def test_tighter_settings_never_allow_more(
    settings: Settings, readings: Readings, used: UsedToday, now: Now, change: tuple[str, str, Any]
) -> None:
    section, name, tighten = change
    part = getattr(settings, section)
    tighter = replace(settings, **{section: replace(part, **{name: tighten(getattr(part, name))})})
    assume(isinstance(decide(tighter, readings, used, now), Yes))
    event(f"{name} was tightened, and met")
    assert isinstance(decide(settings, readings, used, now), Yes)


@pytest.mark.parametrize(
    ("hours", "now", "again"),
    [
        ("22:00-07:00", at(2026, 7, 1, 12, 0), at(2026, 7, 1, 22, 0)),
        ("22:00-07:00", at(2026, 7, 1, 7, 0), at(2026, 7, 1, 22, 0)),
        ("09:00-10:00, 13:30-14:00", at(2026, 7, 1, 10, 0), at(2026, 7, 1, 13, 30)),
        ("09:00-10:00", at(2026, 7, 1, 10, 0), at(2026, 7, 2, 9, 0)),
        # Clocks go forward at 2:00 on 28 March 2027, so half past two is left out, and back at 3:00 on 25 October 2026.
        ("02:15-02:45", at(2027, 3, 28, 1, 0), at(2027, 3, 29, 2, 15)),
        ("03:00-04:00", at(2027, 3, 28, 1, 59), at(2027, 3, 28, 3, 0)),
        ("04:00-05:00", at(2026, 10, 25, 1, 0), at(2026, 10, 25, 4, 0)),
    ],
)
def test_outside_its_hours_it_says_when_they_begin(hours: str, now: Now, again: Now) -> None:
    found = decide(Settings(Train(hours)), Readings(on_mains=True), UsedToday(), now)
    assert found == No("outside-hours", again.now_s, {"hours": hours})


@pytest.mark.parametrize("local", [(22, 0), (23, 59), (0, 0), (6, 59)])
def test_hours_go_over_midnight(local: tuple[int, int]) -> None:
    assert decide(Settings(Train("22:00-07:00")), Readings(on_mains=True), UsedToday(), at(2026, 7, 1, *local)) == Yes()


def test_a_day_of_25_hours_has_one_midnight() -> None:
    found = decide(
        Settings(limits=Limits(training_seconds_per_day=10)),
        Readings(on_mains=True),
        UsedToday(training_s=10),
        at(2026, 10, 25, 0, 30),
    )
    assert found == No("training-time-used", at(2026, 10, 26, 0, 0).now_s, {"limit": 10})


@pytest.mark.parametrize(
    ("train", "readings", "code"),
    [
        (Train(), Readings(on_mains=False), "on-battery"),
        (Train(), Readings(), "power-unknown"),
        (Train(on_battery=True), Readings(has_battery=True, on_mains=False), "cannot-be-read"),
        (Train(on_battery=True), Readings(on_mains=False, has_battery=True, battery_percent=19), "battery-low"),
        (Train(), Readings(on_mains=True, throttled=frozenset({"throttled"})), "throttled"),
        (Train(temperature_below_c=70), Readings(on_mains=True, temperature_c=70), "too-hot"),
        (Train(temperature_below_c=70), Readings(on_mains=True), "cannot-be-read"),
        (Train(load_below_per_core=0.5), Readings(on_mains=True, load_per_core=0.6), "too-busy"),
        (Train(memory_available_at_least_mib=64), Readings(on_mains=True, memory_available_mib=63), "memory-low"),
        (Train(memory_pressure_below_percent=5), Readings(on_mains=True, memory_pressure_percent=9), "memory-pressure"),
        (Train(), Readings(on_mains=True, metered=True), "metered"),
    ],
)
def test_each_reason_has_its_code(train: Train, readings: Readings, code: str) -> None:
    found = decide(Settings(train), readings, UsedToday(), Now(NOON_S, berlin))
    assert isinstance(found, No)
    assert found.code == code


def test_what_nobody_limits_and_nobody_can_read_keeps_nobody_from_training() -> None:
    assert decide(Settings(), Readings(on_mains=True), UsedToday(1e12, 1e6, 1e12), Now(NOON_S, berlin)) == Yes()


def test_hours_and_days_need_a_clock_that_can_be_right() -> None:
    lost = Now(3600.0, berlin, signed_s=NOON_S)
    for settings in (Settings(Train("00:00-23:59")), Settings(limits=Limits(training_seconds_per_day=10))):
        found = decide(settings, Readings(on_mains=True), UsedToday(), lost)
        assert isinstance(found, No)
        assert found.code == "clock-wrong"
        near = replace(lost, now_s=NOON_S - CLOCK_TOLERANCE_S)
        assert decide(settings, Readings(on_mains=True), UsedToday(), near) == Yes()
    assert decide(Settings(), Readings(on_mains=True), UsedToday(), lost) == Yes()

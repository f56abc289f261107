"""The one decision: may this device train now? A pure function of settings, readings, what was used, and the time.

The owner's word counts before everything. A limit that the owner set and this machine cannot measure is not met: the
reason then names the setting. Not metered, and nothing throttled, is what there is where nobody says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from edge_client.conditions.readings import Readings, UsedToday
from edge_client.settings import Limits, Settings, Train, windows

MINUTE_S: Final = 60.0
LOOK_AGAIN_S: Final = 30.0  # after which readings may have changed
CLOCK_TOLERANCE_S: Final = 300.0
LONGEST_SEARCH_MINUTES: Final = 3 * 24 * 60  # a window of minutes may be left out on the day when clocks change
LocalTime: TypeAlias = Callable[[float], datetime]


@dataclass(frozen=True)
class Now:
    """What time it is.

    Attributes:
        now_s: seconds since the epoch, by this device's clock.
        local: local time of such seconds.
        paused_until_s: until when its owner paused it: 0 for not at all, infinity for until further notice.
        signed_s: the latest time that the server signed: it is later than that.
    """

    now_s: float
    local: LocalTime
    paused_until_s: float = 0.0
    signed_s: float = 0.0


@dataclass(frozen=True)
class Yes:
    """It may train."""


@dataclass(frozen=True)
class No:
    """It may not.

    Attributes:
        code: why; ``texts`` has the words.
        values: numbers and names that the words need.
        look_again_s: seconds since the epoch before which that does not change by itself; infinity for never.
    """

    code: str
    look_again_s: float
    values: Mapping[str, float | str] = field(default_factory=dict)


Verdict: TypeAlias = Yes | No
_Reason: TypeAlias = tuple[str, dict[str, float | str]]


def decide(settings: Settings, readings: Readings, used_today: UsedToday, now: Now) -> Verdict:
    """Return whether to train now, and else the first reason why not."""
    if now.paused_until_s > now.now_s:
        return No("paused", now.paused_until_s)
    if _depends_on_time(settings) and now.now_s < now.signed_s - CLOCK_TOLERANCE_S:
        return No("clock-wrong", now.now_s + LOOK_AGAIN_S, {"now_s": now.now_s, "signed_s": now.signed_s})
    if not _in_hours(settings.train.hours, now.local(now.now_s)):
        return No("outside-hours", _next_window_s(settings.train.hours, now), {"hours": settings.train.hours})
    for code, values in _used_up(settings.limits, used_today):
        return No(code, next_day_s(now), values)
    for code, values in _unfit(settings.train, readings):
        return No(code, now.now_s + LOOK_AGAIN_S, values)
    return Yes()


def _depends_on_time(settings: Settings) -> bool:
    limits = settings.limits
    of_a_day = (limits.download_and_upload_megabytes_per_day, limits.written_megabytes_per_day)
    return bool(settings.train.hours) or limits.training_s < float("inf") or any(one is not None for one in of_a_day)


def _in_hours(hours: str, local: datetime) -> bool:
    minute, found = local.hour * 60 + local.minute, windows(hours)
    return not found or any(
        first <= minute < end if first < end else minute >= first or minute < end for first, end in found
    )


def _next_window_s(hours: str, now: Now) -> float:
    return _first_s(now, lambda local: _in_hours(hours, local))


def next_day_s(now: Now) -> float:
    """Return when the next local day begins, seconds since the epoch."""
    today = now.local(now.now_s).date()
    return _first_s(now, lambda local: local.date() > today)


def _first_s(now: Now, holds: Callable[[datetime], bool]) -> float:
    """Return the first full minute at which ``holds`` says yes; asking each one is right over changes of the clock."""
    minute_s = now.now_s - now.now_s % MINUTE_S
    times = (minute_s + number * MINUTE_S for number in range(1, LONGEST_SEARCH_MINUTES))
    return next((time_s for time_s in times if holds(now.local(time_s))), now.now_s + LOOK_AGAIN_S)


def _used_up(limits: Limits, used: UsedToday) -> Iterator[_Reason]:
    if used.transferred_bytes >= limits.transferred_bytes:
        yield "megabytes-used", {"limit": limits.transferred_bytes / 1e6}
    if used.training_s >= limits.training_s:
        seconds = limits.training_seconds_per_day
        if seconds is not None and used.training_s >= seconds:
            yield "training-time-used", {"limit": seconds}
        else:
            yield "energy-used", {"limit": limits.energy_wh_per_day or 0.0}
    if used.written_bytes >= limits.written_bytes:
        yield "writing-used", {"limit": limits.written_bytes / 1e6}


def _unfit(train: Train, readings: Readings) -> Iterator[_Reason]:
    yield from _power(train, readings)
    if readings.throttled and not train.throttled:
        yield "throttled", {"flags": ", ".join(sorted(readings.throttled))}
    highest = (
        ("too-hot", "train.temperature_below_c", train.temperature_below_c, readings.temperature_c),
        ("too-busy", "train.load_below_per_core", train.load_below_per_core, readings.load_per_core),
        (
            "memory-pressure",
            "train.memory_pressure_below_percent",
            train.memory_pressure_below_percent,
            readings.memory_pressure_percent,
        ),
    )
    for code, name, limit, found in highest:
        if limit is not None and found is None:
            yield "cannot-be-read", {"setting": name}
        if limit is not None and found is not None and found >= limit:
            yield code, {"found": found, "limit": limit}
    least, available = train.memory_available_at_least_mib, readings.memory_available_mib
    if least is not None and available is None:
        yield "cannot-be-read", {"setting": "train.memory_available_at_least_mib"}
    if least is not None and available is not None and available < least:
        yield "memory-low", {"found": available, "limit": least}
    if readings.metered and not train.metered:
        yield "metered", {}


def _power(train: Train, readings: Readings) -> Iterator[_Reason]:
    if readings.on_mains is False and not train.on_battery:
        yield "on-battery", {}
    if readings.on_mains is None and not train.on_battery:
        yield "power-unknown", {}
    if not readings.has_battery or not train.battery_at_least_percent:
        return
    if readings.battery_percent is None and not readings.on_mains:
        yield "cannot-be-read", {"setting": "train.battery_at_least_percent"}
    if readings.battery_percent is not None and readings.battery_percent < train.battery_at_least_percent:
        yield "battery-low", {"found": readings.battery_percent, "limit": train.battery_at_least_percent}

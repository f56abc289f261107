"""Devices come back evenly: whatever their number, whenever they came, also all at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from cloud_server.rounds.pacing import (
    HOUR_S,
    SHORTEST_INTERVAL_S,
    Pace,
    count_arrivals,
    expected_devices,
)
from cloud_server.storage.schema import arrival, device
from shared.limits import MAX_RETRY_AFTER_MS
from tests.cloud_server.local import Local

JITTER = st.floats(0, 1, exclude_max=True)
DAY_S = 24 * HOUR_S


@given(devices=st.floats(0, 1e7), rate=st.floats(0.1, 1e4), jitter=JITTER, at_least_s=st.floats(0, 1e6))
def test_nobody_comes_too_early_or_is_sent_away_for_more_than_a_day(
    devices: float, rate: float, jitter: float, at_least_s: float
) -> None:
    retry_s = Pace(devices, rate).retry_after_ms(jitter, at_least_s) / 1000
    assert retry_s <= MAX_RETRY_AFTER_MS / 1000
    assert retry_s >= min(at_least_s, MAX_RETRY_AFTER_MS / 1000) - 1e-3
    interval_s = max(SHORTEST_INTERVAL_S, devices / rate)
    assert retry_s <= max(at_least_s, interval_s / 2) + interval_s + 1e-3


@given(devices=st.integers(1000, 100_000), rate=st.integers(50, 500), seed=st.integers(0, 2**32))
def test_a_herd_that_comes_at_once_comes_back_at_the_planned_rate(devices: int, rate: int, seed: int) -> None:
    pace = Pace(devices, rate)
    jitter = np.random.default_rng(seed).random(devices)
    back_s = np.array([pace.retry_after_ms(one) / 1000 for one in jitter])
    width_s = max(1.0, pace.devices / rate / 20)
    counts, _ = np.histogram(back_s, bins=np.arange(0, back_s.max() + width_s, width_s))
    planned = min(rate, devices / SHORTEST_INTERVAL_S) * width_s
    assert counts.max() <= planned + 6 * np.sqrt(planned) + 1


def test_a_fleet_that_keeps_its_pace_stays_even() -> None:
    pace, rng = Pace(20_000, 200.0), np.random.default_rng(1)
    at_s = np.zeros(20_000)  # all at once
    for _ in range(6):
        at_s += [pace.retry_after_ms(one) / 1000 for one in rng.random(at_s.size)]
    counts, _ = np.histogram(at_s, bins=np.arange(at_s.min(), at_s.max(), 10.0))
    assert counts.max() < 1.15 * 200 * 10


def test_the_day_is_learned_and_an_outage_is_not(local: Local) -> None:
    def seen(devices: int, at_s: float) -> None:
        with local.parts.database.write() as connection:
            for number in range(devices):
                name = device.c.device == f"device-{number}"
                connection.execute(update(device).where(name).values(last_seen_s=at_s))

    def expected(at_s: float) -> float:
        with local.parts.database.read() as connection:
            return expected_devices(connection, at_s)

    def housekeeping(at_s: float) -> None:
        with local.parts.database.write() as connection:
            count_arrivals(connection, at_s)

    rows = [
        {
            "device": f"device-{number}",
            "task": "point",
            "certificate": b"",
            "identity_key": b"",
            "enrolled_s": 0.0,
            "counter": 0,
            "last_request": "",
            "last_seen_s": 0.0,
            "version": -1,
        }
        for number in range(40)
    ]
    with local.parts.database.write() as connection:
        connection.execute(insert(device), rows)
    morning = 20_000.0 * DAY_S + 8 * HOUR_S
    for day in range(3):
        seen(40, morning + day * DAY_S + 60)
        housekeeping(morning + day * DAY_S + HOUR_S + 1)
        housekeeping(morning + day * DAY_S + HOUR_S + 21)  # once an hour is enough
    with local.parts.database.read() as connection:
        assert [tuple(row) for row in connection.execute(select(arrival.c.hour, arrival.c.devices))] == [(8, 40.0)]
    # The server was away the whole night: nobody was seen, and all will come in the morning.
    assert expected(morning + 3 * DAY_S) == 40
    assert expected(morning + 3 * DAY_S - HOUR_S) == 40  # the hour before, devices are sent into it
    assert expected(morning + 3 * DAY_S + 6 * HOUR_S) == 0
    seen(7, morning + 3 * DAY_S + 6 * HOUR_S)
    assert expected(morning + 3 * DAY_S + 6 * HOUR_S + 60) == 7
    # A day on which fewer come moves the mean.
    seen(40, 0.0)
    housekeeping(morning + 4 * DAY_S + HOUR_S + 1)
    assert 20 < expected(morning + 5 * DAY_S) < 40

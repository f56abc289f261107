"""How much each asker may have, in a table that does not grow with their number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.token_buckets import Slots, TokenBuckets


def taken(buckets: TokenBuckets, key: str, now_s: float, tries: int) -> int:
    return sum(buckets.take(key, now_s) == 0 for _ in range(tries))


def test_a_burst_and_then_the_rate() -> None:
    buckets = TokenBuckets(rate_per_s=2.0, burst=10.0, max_keys=100)
    assert taken(buckets, "a", 0.0, 50) == 10
    assert buckets.take("a", 0.0) == pytest.approx(0.5)
    assert buckets.take("a", 0.4) == pytest.approx(0.1)  # who asks too early does not wait longer for it
    assert taken(buckets, "a", 3.0, 50) == 6
    assert taken(buckets, "b", 3.0, 50) == 10
    assert taken(buckets, "a", 1000.0, 50) == 10


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = TokenBuckets(rate_per_s=1.0, burst=3.0, max_keys=100)
    for _ in range(100):
        assert buckets.take("a", 0.0) == 0
        buckets.give_back("a", 0.0)
    assert taken(buckets, "a", 0.0, 9) == 3
    for _ in range(100):
        buckets.give_back("a", 0.0)
    assert taken(buckets, "a", 0.0, 9) == 3  # never more than the burst


def test_a_rate_of_nothing_is_no_limit() -> None:
    buckets = TokenBuckets(rate_per_s=0.0, burst=1.0, max_keys=1)
    assert taken(buckets, "a", 0.0, 10_000) == 10_000
    assert len(buckets) == 0


def test_the_table_is_bounded_and_forgets_who_was_silent_longest() -> None:
    buckets = TokenBuckets(rate_per_s=1.0, burst=2.0, max_keys=10)
    assert taken(buckets, "busy", 0.0, 5) == 2
    for stranger in range(1000):
        buckets.take(f"stranger {stranger}", 0.0)
        assert buckets.take("busy", 0.0) > 0
    assert len(buckets) == 10


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.floats(0.1, 20), st.floats(1, 30))
def test_nobody_gets_more_than_burst_and_rate(waits_s: list[float], rate_per_s: float, burst: float) -> None:
    buckets, now_s, got = TokenBuckets(rate_per_s, burst, 5), 0.0, 0
    for wait_s in waits_s:
        now_s += wait_s
        left_s = buckets.take("a", now_s)
        got += left_s == 0
        if left_s:
            now_s += left_s * (1 + 1e-9) + 1e-9
            assert buckets.take("a", now_s) == 0  # as promised
            got += 1
    assert got <= burst + rate_per_s * now_s + 1e-6


def test_slots_are_counted_per_key_and_given_back() -> None:
    slots = Slots()
    limits = {"device": 2, "address": 3}
    with slots.hold(limits) as first, slots.hold(limits) as second:
        assert (first, second) == (None, None)
        with slots.hold(limits) as third:
            assert third == "device"
        with slots.hold({"another": 2, "address": 3}) as fourth, slots.hold({"one more": 2, "address": 3}) as fifth:
            assert (fourth, fifth) == (None, "address")
    with slots.hold(limits) as again:
        assert again is None
    with pytest.raises(ValueError, match="broken"), slots.hold({"device": 1}):
        raise ValueError("broken")
    with slots.hold({"device": 1}) as after:
        assert after is None

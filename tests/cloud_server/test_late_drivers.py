"""A driver that slept longer than its lease, and a clock that was wrong, spoil nothing that others did since."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloud_server.api import health
from cloud_server.rounds import sums
from cloud_server.rounds.driver import Driver
from cloud_server.storage.leases import LEASE_S, LONGEST_LEASE_S
from cloud_server.storage.partial_sums import PartialSums
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS, one_hot

DAY_S = 86400.0
PLAN = small_plan("point")


def sleeping_before(
    monkeypatch: pytest.MonkeyPatch, local: Local, late: object, name: str, then: Callable[[], None], owner: type
) -> None:
    """Let a driver sleep, once, before it does something, longer than its lease, and others act meanwhile."""
    real = getattr(owner, name)

    def slept(self: object, *values: object, **more: object) -> object:
        if late is None or self is late:
            monkeypatch.setattr(owner, name, real)
            local.clock.time_s += LEASE_S + 1
            then()
        return real(self, *values, **more)

    monkeypatch.setattr(owner, name, slept)


def settle(driver: Driver) -> None:
    while driver.tick():
        pass


def test_a_late_driver_opens_no_second_round(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create(PLAN)
    other = local.new_driver()
    sleeping_before(monkeypatch, local, local.driver, "_open_round", lambda: settle(other), Driver)
    local.driver.tick()
    assert local.rows("SELECT number FROM round") == [(1,)]
    assert local.rows("SELECT round, attempt FROM cohort") == [(1, 1)]


def test_a_late_driver_forms_no_second_cohort_and_no_vector_is_lost(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.create(PLAN)
    members, other = local.enrol(PLAN, 4), local.new_driver()
    assert local.driver.tick()  # the round is open

    def go_on() -> None:
        settle(other)
        for member in members:
            member.values = one_hot(member.number, 8)
            member.meet(members[0].release(0).model_sha256)
        for step in STEPS[:3]:
            for member in members:
                member.do(step)
            settle(other)

    sleeping_before(monkeypatch, local, local.driver, "_form_cohort", go_on, Driver)
    local.driver.tick()
    assert local.rows("SELECT attempt FROM cohort") == [(1,)]
    local.driver = other
    for step in STEPS[3:]:
        local.do(members, step)
    assert all(member.counted() for member in members)


def test_a_late_driver_abandons_no_later_round(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create(PLAN)
    settle(local.driver)
    other = local.new_driver()
    local.clock.time_s += PLAN.deadlines.round_s + 1
    sleeping_before(monkeypatch, local, local.driver, "_abandon", lambda: settle(other), Driver)
    local.driver.tick()
    assert local.rows("SELECT number, phase FROM round ORDER BY number") == [(1, "abandoned"), (2, "open")]
    assert local.rows("SELECT round, phase FROM cohort ORDER BY round") == [(1, "failed"), (2, "forming")]


def test_a_late_driver_leaves_the_sum_of_the_one_that_took_over(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "CHECKPOINT_VECTORS", 2)
    plan = small_plan("point", 6)
    members = local.cohort(plan, 6)
    for step in STEPS[:2]:
        local.do(members, step)
    late, other = local.driver, local.new_driver()
    for member in members[:2]:
        member.do("upload")
    late.tick()  # its first sum
    for member in members[2:4]:
        member.do("upload")

    def go_on() -> None:
        for member in members[4:]:
            member.do("upload")
        settle(other)

    sleeping_before(monkeypatch, local, None, "remove", go_on, PartialSums)
    late.tick()
    local.driver = local.new_driver()  # which has nothing in memory
    local.clock.time_s += LEASE_S + 1
    for step in STEPS[3:]:
        local.do(members, step)
    assert all(member.counted() for member in members)


def test_after_a_clock_that_was_ahead_work_goes_on_at_once(local: Local) -> None:
    local.create(PLAN)
    local.clock.time_s += DAY_S
    assert local.driver.tick()
    local.clock.time_s -= DAY_S
    assert health.driver_alive(local.parts.database, local.clock)() == "no driver holds a lease"
    another = local.new_driver()  # whoever is started again has another name
    settle(another)
    assert health.driver_alive(local.parts.database, local.clock)() == ""
    assert local.rows("SELECT phase FROM cohort") == [("forming",)]


def test_a_driver_that_runs_on_asks_again_when_the_clock_is_set_back(local: Local) -> None:
    local.create(PLAN)
    local.clock.time_s += DAY_S
    settle(local.driver)
    local.clock.time_s -= DAY_S
    settle(local.driver)
    local.clock.time_s += 1
    assert health.driver_alive(local.parts.database, local.clock)() == ""


def test_a_phase_lasts_no_longer_than_planned_where_the_clock_was_ahead(local: Local) -> None:
    local.clock.time_s += DAY_S
    members = local.cohort(PLAN, 4)
    local.do(members, "join")
    local.do(members[:1], "share")
    local.clock.time_s -= DAY_S
    local.settle()
    local.clock.time_s += HOUR_S
    local.settle()
    assert local.rows("SELECT phase FROM cohort ORDER BY attempt")[0] == ("failed",)


def test_no_lease_is_longer_than_what_is_taken_for_a_wrong_clock() -> None:
    assert LEASE_S < LONGEST_LEASE_S

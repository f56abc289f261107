"""The driver is killed, doubled and starved; every cohort ends exactly once and says how."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load
from sqlalchemy import Connection

from cloud_server.rounds.driver import MAX_ATTEMPTS, Driver
from cloud_server.rounds.machine import CohortState, Seen
from cloud_server.rounds.records import StoredCohort, save_state
from cloud_server.storage.leases import LEASE_S
from cloud_server.tasks import load_task
from edge_client.problems import CohortOver
from shared.errors import BrokenState
from shared.plan import Release, Stop, Training
from shared.release import parse_release
from shared.secagg.masking import CIPHERS, CipherName
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.shared.refusals import refused


def assert_each_counted_once(local: Local, members: list[Member], counted: int) -> None:
    assert [member.counted() for member in members] == [True] * len(members)
    theta = load(members[0].weights(1))["theta"]
    np.testing.assert_allclose(theta, [1.0] * counted + [0.0] * (8 - counted), atol=1e-6)
    assert local.rows("SELECT number FROM version ORDER BY number") == [(0,), (1,)]
    assert local.rows("SELECT phase FROM cohort") == [("summed",)]
    assert local.rows("SELECT phase FROM round") == [("closed",)]
    assert not list((local.parts.folder.uploads).iterdir())


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("killed_after", ["planned", *STEPS[:-1]])
def test_killed_between_any_two_phases_the_cohort_completes_once(local: Local, killed_after: str) -> None:
    plan = small_plan("point")
    if killed_after == "planned":
        local.create(plan)
        members = local.enrol(plan, 4)
        assert local.driver.tick()  # the round is open, its cohort is not there yet
        local.kill_driver()
        local.meet(members)
    else:
        members = local.cohort(plan, 4)
    for step in STEPS:
        local.do(members, step)
        if step == killed_after:
            local.kill_driver()
    assert_each_counted_once(local, members, 4)


@pytest.mark.parametrize("step", STEPS)
def test_killed_in_the_middle_of_a_phase_the_cohort_completes_once(local: Local, step: str) -> None:
    members = local.cohort(small_plan("point"), 4)
    for earlier in STEPS[: STEPS.index(step)]:
        local.do(members, earlier)
    local.do(members[:2], step)
    local.kill_driver()
    local.do(members[2:], step)
    for later in STEPS[STEPS.index(step) + 1 :]:
        local.do(members, later)
    assert_each_counted_once(local, members, 4)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("step", ["share", "upload"])
def test_killed_in_a_cohort_with_a_drop_out_the_cohort_completes_once(
    local: Local, step: str, cipher: CipherName
) -> None:
    plan = small_plan("point")
    members = local.cohort(dataclasses.replace(plan, cohort=dataclasses.replace(plan.cohort, cipher=cipher)), 4)
    for earlier in STEPS[: STEPS.index(step)]:
        local.do(members, earlier)
    present = members[:3]
    local.do(present, step)
    local.kill_driver()
    local.clock.time_s += HOUR_S
    local.settle()
    for later in STEPS[STEPS.index(step) + 1 :]:
        local.do(present, later)
    assert_each_counted_once(local, present, 3)


@pytest.mark.parametrize("moment", ["_messages", "_count", "_close", "_forget"])
def test_killed_while_closing_the_cohort_completes_once(
    local: Local, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in STEPS[:-1]:
        local.do(members, step)
    for member in members:
        member.do("answer")

    def die(*_values: object, **_named: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Driver, moment, die)
        with pytest.raises(Killed):
            local.settle()
    assert len(local.rows("SELECT 1 FROM version")) == (2 if moment == "_forget" else 1)
    local.kill_driver()
    local.settle()
    assert_each_counted_once(local, members, 4)


def test_killed_while_freezing_nothing_is_frozen_by_half(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in ("join", "share"):
        local.do(members, step)
    for member in members:
        member.do("upload")

    def die_after(connection: Connection, cohort_id: str, state: CohortState) -> None:
        save_state(connection, cohort_id, state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("cloud_server.rounds.driver.save_state", die_after)
        with pytest.raises(Killed):
            local.settle()
    assert local.rows("SELECT phase, survivors FROM cohort") == [("collecting", None)]
    local.kill_driver()
    local.settle()
    for step in ("agree", "answer"):
        local.do(members, step)
    assert_each_counted_once(local, members, 4)


def test_an_answer_between_two_looks_at_the_deadline_still_opens_the_sum(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in STEPS[:-1]:
        local.do(members, step)
    local.do(members[:2], "answer")
    local.clock.time_s += HOUR_S
    late = members[2].prepare("answer")
    look, looks = Driver._seen, []

    def look_and_let_one_answer(driver: Driver, connection: Connection, record: StoredCohort) -> Seen:
        looks.append(look(driver, connection, record))
        if len(looks) == 1:
            members[2].transport.send("PUT", members[2].target(late[0]), late[1])
        return looks[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_seen", look_and_let_one_answer)
        local.settle()
    assert_each_counted_once(local, members[:3], 4)


def test_a_second_driver_waits_for_the_lease_of_the_first(local: Local) -> None:
    local.create(small_plan("point"))
    second = local.new_driver()
    assert local.driver.tick()
    assert not second.tick()
    local.clock.time_s += LEASE_S - 1
    assert local.driver.tick()  # it renews
    local.clock.time_s += 2
    assert not second.tick()
    local.clock.time_s += LEASE_S
    assert not second.tick()  # nothing is due any more: both steps were done once
    assert not local.driver.tick()
    assert local.rows("SELECT count(*) FROM round") == [(1,)]
    assert local.rows("SELECT count(*) FROM cohort") == [(1,)]


def test_a_failed_cohort_is_followed_by_another_one_in_the_same_round(local: Local) -> None:
    members = local.cohort(small_plan("point"), 4)
    local.do(members, "join")
    local.do(members[:1], "share")
    local.clock.time_s += HOUR_S
    local.settle()
    for member in members:
        with refused("too-few-shares", CohortOver):
            member.counted()
    first = members[0].cohort
    local.meet(members)
    assert members[0].cohort != first
    for step in STEPS:
        local.do(members, step)
    assert all(member.counted() for member in members)
    assert local.rows("SELECT round, attempt, phase FROM cohort ORDER BY attempt") == [
        (1, 1, "failed"),
        (1, 2, "summed"),
    ]


def test_a_round_is_abandoned_after_so_many_failed_cohorts(local: Local) -> None:
    plan = small_plan("point")
    members = local.cohort(plan, 4)
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            local.meet(members)
        local.do(members, "join")
        local.clock.time_s += HOUR_S
        local.settle()
    first = local.rows("SELECT phase, reason FROM round WHERE number = 1")
    assert first == [("abandoned", f"{MAX_ATTEMPTS} cohorts failed")]
    assert local.rows("SELECT number, phase FROM round WHERE number > 1") == [(2, "open")]
    assert local.rows("SELECT number FROM version") == [(0,)]


def test_an_abandoned_round_lets_those_go_who_waited_in_its_cohort(local: Local) -> None:
    members = local.cohort(small_plan("point"), 4)
    local.do(members[:1], "join")
    local.clock.time_s += 25 * HOUR_S
    local.settle()
    assert local.rows("SELECT phase FROM round ORDER BY number") == [("abandoned",), ("open",)]
    with refused("round-abandoned", CohortOver):
        members[0].prepare("share")  # it waits for the roster


def test_abandoned_rounds_do_not_count_as_planned_ones(local: Local) -> None:
    plan = small_plan("point", stop=Stop(rounds=2))
    members = local.cohort(plan, 4)
    local.clock.time_s += 25 * HOUR_S
    local.settle()
    for version in range(2):
        local.meet(members, version)
        for step in STEPS:
            local.do(members, step)
    assert local.rows("SELECT number, phase FROM round ORDER BY number") == [
        (1, "abandoned"),
        (2, "closed"),
        (3, "closed"),
    ]
    assert local.rows("SELECT state, reason FROM task") == [("done", "2 rounds were planned")]


def test_a_damaged_file_of_one_task_does_not_stop_the_others(local: Local, caplog: pytest.LogCaptureFixture) -> None:
    local.create(small_plan("aaa"), dimension=9)  # files of its own
    members = local.enrol(small_plan("aaa"), 4)
    local.meet(members)
    for member in members:
        member.values = np.zeros(9, np.float32)
    for step in STEPS[:-1]:
        local.do(members, step)
    damage_manifest(local, "aaa")
    for member in members:
        member.do("answer")
    local.create(small_plan("bbb"))
    others = local.enrol(small_plan("bbb"), 4)
    local.meet(others)
    for step in STEPS:
        local.do(others, step)
    assert all(member.counted() for member in others)
    assert caplog.text.count("task aaa cannot go on") == 1
    assert "blob-damaged" in caplog.text


def damage_manifest(local: Local, name: str) -> None:
    with local.parts.database.read() as connection:
        digest = load_task(connection, name).bundle["manifest.json"]
    local.blob_path(digest).write_bytes(b"damaged")
    with refused("blob-damaged", BrokenState):
        local.parts.blobs.get(digest)


def test_spent_gradients_are_followed_by_the_same_weights_under_the_next_number(local: Local) -> None:
    plan = dataclasses.replace(small_plan("point"), training=Training(method="fedsgd"))
    members = local.cohort(plan, 4)
    local.do(members, "join")
    local.do(members, "share")
    local.do(members[:1], "upload")
    local.clock.time_s += HOUR_S
    local.settle()
    assert local.rows("SELECT phase FROM round WHERE number = 1") == [("abandoned",)]
    first, second = local.rows("SELECT number, master_sha256 FROM version ORDER BY number")
    assert (first[0], second[0]) == (0, 1)
    assert first[1] == second[1]
    assert local.rows("SELECT base_version, phase FROM round WHERE number = 2") == [(1, "open")]


def test_a_release_is_signed_again_before_it_expires(local: Local) -> None:
    plan = dataclasses.replace(small_plan("point"), release=Release(valid_s=4 * HOUR_S))
    local.cohort(plan, 4)
    (before,) = local.rows("SELECT release, signature FROM version")
    local.clock.time_s += 3 * HOUR_S
    local.settle()
    (after,) = local.rows("SELECT release, signature FROM version")
    old, new = parse_release(before[0]), parse_release(after[0])
    assert new.expires_at_s >= old.expires_at_s + 3 * HOUR_S - 1
    assert (new.version, new.files, new.model_sha256) == (old.version, old.files, old.model_sha256)
    assert before[1] != after[1]

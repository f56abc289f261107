"""As many devices are asked to train as will fill the cohort, and nobody whom the plan leaves out gets in."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from cloud_server.cli import main
from cloud_server.rounds.eligibility import Candidate, left_out
from cloud_server.rounds.pacing import CHECK_INS_PER_S
from cloud_server.rounds.selection import SMALLEST_SHOW_RATE, places, show_rate
from cloud_server.storage.schema import arrival
from shared.errors import Refused
from shared.limits import RETRY_AFTER_MS
from shared.plan import Deadlines, Eligibility, Plan, Privacy, Stop
from shared.wire.messages import Assignment, CheckIn
from shared.wire.requests import CHECK_IN
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.cloud_server.signed_in import SignedIn
from tests.shared.refusals import refused

ROUNDS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=5)
LONG_S = 1000 * HOUR_S


def check_in(member: Member, memory_mib: int = 512, declined: int = 0) -> Assignment:
    body = CheckIn(-1, memory_mib, declined).to_bytes()
    return Assignment.from_bytes(member.transport.send("POST", CHECK_IN, body).body)


def plan_with(eligibility: Eligibility | None = None, members: int = 2, rounds: int = 9) -> Plan:
    plan = small_plan("point", members, stop=Stop(rounds=rounds))
    deadlines = Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S, LONG_S, training_s=HOUR_S)
    return dataclasses.replace(plan, deadlines=deadlines, eligibility=eligibility or Eligibility())


@pytest.fixture
def hurried(local: Local, monkeypatch: pytest.MonkeyPatch) -> Local:
    """Return an aggregator that holds nobody."""
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    return local


@given(past=ROUNDS, dropout_share=st.floats(0, 0.5))
def test_the_rate_is_a_share_and_follows_what_was_seen(past: list[tuple[int, int]], dropout_share: float) -> None:
    rate = show_rate(past, dropout_share)
    assert SMALLEST_SHOW_RATE <= rate <= 1
    assert show_rate([], dropout_share) == pytest.approx(1 - dropout_share)
    assert show_rate([(10**6, 3 * 10**5)] * 5, dropout_share) == pytest.approx(0.3, abs=1e-3)


@given(target=st.integers(2, 4096), joined=st.integers(0, 4096), rate=st.floats(SMALLEST_SHOW_RATE, 1))
def test_just_enough_are_asked_that_the_cohort_is_full_if_they_come_as_learned(
    target: int, joined: int, rate: float
) -> None:
    asked = places(target, joined, 0, rate)
    assert joined + asked * rate >= target or asked == 0
    assert asked == 0 or joined + (asked - 1) * rate < target
    assert places(target, joined, asked, rate) == 0
    assert places(target, joined, 10**6, rate) == 0


def test_no_more_devices_are_asked_than_there_are_places(hurried: Local) -> None:
    plan = plan_with(members=4)  # which expects a quarter to stay away
    hurried.create(plan)
    members = hurried.enrol(plan, 10)
    hurried.settle()
    actions = [check_in(member) for member in members]
    assert [(one.action, one.reason) for one in actions] == [("train", "")] * 6 + [("wait", "round-full")] * 4
    assert [check_in(member).action for member in members] == ["train"] * 6 + [
        "wait"
    ] * 4  # whoever was asked, still is


def test_whoever_does_not_come_in_time_is_replaced(hurried: Local) -> None:
    plan = plan_with()
    hurried.create(plan)
    members = hurried.enrol(plan, 8)
    hurried.settle()
    assert [check_in(member).action for member in members] == ["train"] * 3 + ["wait"] * 5
    hurried.clock.time_s += HOUR_S + 1
    assert [check_in(member).action for member in members[3:]] == ["train"] * 3 + ["wait"] * 2


def test_operators_see_who_declines(hurried: Local, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_with()
    hurried.create(plan)
    members = hurried.enrol(plan, 4)
    hurried.settle()
    for member in members[:3]:
        check_in(member, declined=1)
    browser = SignedIn(hurried).browser("ada", "viewer")
    page = browser.get("/console/overview").get_data(as_text=True)
    assert "Devices that keep out of this round: 3." in page
    listed = browser.get("/console/devices?task=point").get_data(as_text=True)
    assert listed.count("keeps out of round 1") == 3
    assert "keeps out of round 1" in browser.get(f"/console/devices/{members[0].device}").get_data(as_text=True)
    words = ["device", "list", "--data", str(hurried.parts.folder.path)]
    assert main(words) == 0
    assert capsys.readouterr().out.count("declined round 1") == 3
    assert main([*words, "--json"]) == 0
    assert [one["declined"] for one in json.loads(capsys.readouterr().out)["devices"]] == [1, 1, 1, None]
    run_round(hurried, members[2:], 0)  # one of them changed its mind, and the round is over
    hurried.clock.time_s += HOUR_S  # devices are counted anew
    hurried.settle()
    assert "keep out of this round" not in browser.get("/console/overview").get_data(as_text=True)


def test_whoever_declines_gives_its_place_away_at_once_and_is_asked_in_the_next_round(hurried: Local) -> None:
    plan = plan_with()
    hurried.create(plan)
    members = hurried.enrol(plan, 5)
    hurried.settle()
    assert [check_in(member).action for member in members] == ["train"] * 3 + ["wait"] * 2
    for _ in range(2):  # an agent says so each time
        answer = check_in(members[0], declined=1)
        assert (answer.action, answer.reason) == ("wait", "declined")
        assert answer.retry_after_ms > RETRY_AFTER_MS
    assert [check_in(member).action for member in members[3:]] == ["train", "wait"]
    run_round(hurried, members[1:3], 0)
    hurried.settle()
    assert check_in(members[0], declined=1).action == "train"


def test_a_device_that_joined_is_told_so(hurried: Local) -> None:
    plan = plan_with()
    hurried.create(plan)
    members = hurried.enrol(plan, 1)
    hurried.meet(members)
    members[0].do("join")
    assert check_in(members[0]).reason == "joined"


def run_round(local: Local, members: list[Member], version: int) -> None:
    local.meet(members, version)
    for step in STEPS:
        local.do(members, step)
    assert all(member.counted() for member in members)


def test_more_are_asked_after_rounds_to_which_few_came(hurried: Local) -> None:
    plan = plan_with(members=8)
    hurried.create(plan)
    members = hurried.enrol(plan, 40)
    asked = []
    for version in range(3):
        hurried.settle()
        asked.append(sum(check_in(member).action == "train" for member in members))
        hurried.meet(members[:2], version)
        hurried.do(members[:2], "join")
        hurried.clock.time_s += HOUR_S  # nobody else comes
        hurried.settle()
        for step in STEPS[1:]:
            hurried.do(members[:2], step)
    rounds = hurried.rows("SELECT invited FROM round WHERE phase = 'closed' ORDER BY number")
    assert [row[0] for row in rounds] == asked
    came = [2] * 3
    expected = [math.ceil(8 / show_rate(list(zip(asked[:done], came, strict=False)), 0.25)) for done in range(3)]
    assert asked == expected
    assert asked[-1] > 2 * asked[0]
    assert hurried.rows("SELECT * FROM invitation") == []


def test_distance_and_number_of_contributions_are_kept(hurried: Local) -> None:
    plan = plan_with(Eligibility(min_interval_s=10 * HOUR_S, max_contributions=2))
    hurried.create(plan)
    members = hurried.enrol(plan, 2)
    for version in range(2):
        hurried.settle()
        assert [check_in(member).action for member in members] == ["train"] * 2
        run_round(hurried, members, version)
        hurried.settle()
        again = [check_in(member) for member in members]
        if version == 0:
            assert {one.reason for one in again} == {"too-soon"}
            assert all(one.retry_after_ms >= 1000 * 10 * HOUR_S for one in again)
            hurried.meet(members, 1)
            with refused("too-soon", Refused):
                members[0].do("join")
        else:
            assert {one.reason for one in again} == {"contributions-used"}
        hurried.clock.time_s += 10 * HOUR_S
    hurried.meet(members, 2)
    with refused("contributions-used", Refused):
        members[0].do("join")


def test_groups_and_memory_decide_too(hurried: Local) -> None:
    plan = plan_with(Eligibility(groups=("kitchen",), min_memory_mib=256))
    hurried.create(plan)
    strangers = hurried.enrol(plan, 1)
    cooks = hurried.enrol(plan, 1, group="kitchen")
    hurried.settle()
    assert check_in(strangers[0]).reason == "other-group"
    assert check_in(cooks[0], 255).reason == "too-little-memory"
    assert check_in(cooks[0], 256).action == "train"
    hurried.meet([*cooks, *strangers])
    with refused("other-group", Refused):
        strangers[0].do("join")
    cooks[0].do("join")
    assert hurried.rows("SELECT count(*) FROM step WHERE step = 'join'") == [(1,)]


@given(
    candidate=st.builds(
        Candidate,
        st.sampled_from(["", "kitchen"]),
        st.integers(0, 1024),
        st.integers(0, 9),
        st.integers(0, 9),
        st.floats(0, 1e6),
    ),
    rule=st.builds(
        Eligibility, st.sampled_from([(), ("kitchen",)]), st.integers(0, 1024), st.floats(0, 1e6), st.integers(0, 9)
    ),
    now_s=st.floats(0, 3e6),
)
def test_whoever_waits_long_enough_is_left_out_for_good_or_not_at_all(
    candidate: Candidate, rule: Eligibility, now_s: float
) -> None:
    plan = dataclasses.replace(plan_with(rule), privacy=Privacy("skellam", 1.0, 1e-6, 5, 8.0))
    found = left_out(candidate, plan, now_s)
    assert (found is not None and found.reason == "contributions-used") <= (
        candidate.vectors >= 5 or 0 < rule.max_contributions <= candidate.contributions
    )
    if found is not None and found.reason == "too-soon":
        assert found.wait_s <= rule.min_interval_s
        after_s = max(now_s, candidate.last_contribution_s) + found.wait_s  # a clock may have been set back
        assert left_out(candidate, plan, after_s + 1e-3) is None


def test_small_fleets_are_held_and_large_ones_are_spread(hurried: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_with()
    hurried.create(plan)
    members = hurried.enrol(plan, 4)  # no round is open
    assert check_in(members[0]).retry_after_ms == RETRY_AFTER_MS
    with hurried.parts.database.write() as connection:
        usual = {"hour": int(hurried.clock.time_s // 3600) % 24, "devices": 60 * CHECK_INS_PER_S, "counted": 0}
        connection.execute(insert(arrival).values(usual))
    hurried.clock.time_s += 10
    monkeypatch.setattr(hurried.parts.assigner._pacer, "_jitter", iter([0.0, 0.5, 0.999]).__next__)
    assert [check_in(member).retry_after_ms for member in members[1:]] == [30_000, 60_000, 89_940]

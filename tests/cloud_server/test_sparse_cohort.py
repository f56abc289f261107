"""Cohorts with a sparse graph through the real application and driver: seeded once, summed exactly, cleaned up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.authority.registry import Authority
from cloud_server.rounds.machine import CohortState, Effect, Phase, Seen, advance
from shared.errors import Conflict, TryLater, UsageError
from shared.plan import Deadlines, Plan
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.parameters import CohortRules, thresholds
from shared.secagg.roster import Roster
from shared.wire.canonical import sha256
from shared.wire.messages import read_shares, write_shares
from shared.wire.signed import Signed
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import Member
from tests.shared.refusals import refused

MEMBERS = 66


def sparse_plan() -> Plan:
    plan = small_plan("point", MEMBERS, dropout_share=0.1)
    return dataclasses.replace(plan, cohort=dataclasses.replace(plan.cohort, min_survivors=10, corrupt_share=0.05))


@pytest.fixture
def members(local: Local, monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """Devices that joined; those that read the same roster share its verification."""
    cache: dict[bytes, Roster] = {}
    verify = Roster.verified

    def once(value: object, *rest: object) -> Roster:
        key = sha256(repr(value).encode())
        if key not in cache:
            cache[key] = verify(value, *rest)  # type: ignore[arg-type]
        return cache[key]

    monkeypatch.setattr(Roster, "verified", once)
    found = local.cohort(sparse_plan(), MEMBERS, MEMBERS)
    for member in found:
        member.do("join")
    return found


def phase(local: Local) -> str:
    return str(local.rows("SELECT phase FROM cohort ORDER BY attempt DESC")[0][0])


def test_sixty_six_devices_of_which_six_vanish_are_summed_exactly(local: Local, members: list[Member]) -> None:
    local.settle()
    local.do(members[:-2], "share")  # two vanish before sharing
    local.clock.time_s += HOUR_S
    local.settle()
    present = members[:-5]  # three before uploading
    local.do(present, "upload")
    local.clock.time_s += HOUR_S
    local.settle()
    local.do(present, "agree")
    assert len(local.rows("SELECT 1 FROM box")) > 0
    local.do(present[:-1], "answer")  # one before answering
    assert [member.counted() for member in present] == [True] * 61
    theta = load(present[0].weights(1))["theta"]
    np.testing.assert_allclose(theta, [1.0] * 61 + [0.0] * 5, atol=1e-2)
    assert phase(local) == "summed"
    assert local.rows("SELECT 1 FROM box") == []


def test_each_device_shares_with_its_neighbours_only_and_receives_theirs(local: Local, members: list[Member]) -> None:
    local.settle()
    neighbours = thresholds(MEMBERS, sparse_plan().rules).neighbours
    route, body = members[0].prepare("share")
    message = read_shares(body)
    assert len(message.boxes) == neighbours < MEMBERS - 1
    stranger = next(i for i in range(MEMBERS) if i not in message.boxes and i != members[0].session._index)
    for boxes in ({**message.boxes, stranger: bytes(80)}, dict(list(message.boxes.items())[1:])):
        with refused("wrong-receivers", UsageError):
            members[0].transport.send(
                "PUT", members[0].target(route), write_shares(dataclasses.replace(message, boxes=boxes))
            )
    members[0].transport.send("PUT", members[0].target(route), body)
    local.do(members[1:], "share")
    members[0].prepare("upload")
    assert members[0].inbox.keys() == message.boxes.keys()


class Authorities:
    """Seed sources that fail in some way."""

    def __init__(self, local: Local) -> None:
        self.honest: Callable[[str, bytes], Signed] = local.authority.draw_seed

    def absent(self, _cohort: str, _root: bytes) -> Signed:
        raise TryLater("no-connection", "The authority cannot be reached.")

    def confused(self, cohort: str, _root: bytes) -> Signed:
        return self.honest(cohort, bytes(32))


def test_a_cohort_waits_for_an_authority_that_is_away(local: Local, members: list[Member]) -> None:
    authorities = Authorities(local)
    local.driver._seed_source = authorities.absent
    local.settle()
    assert phase(local) == "seeding"
    local.driver._seed_source = authorities.honest
    local.settle()
    assert phase(local) == "sharing"
    members[0].prepare("share")


def test_a_cohort_without_a_seed_fails_at_its_deadline_and_says_why(local: Local, members: list[Member]) -> None:
    assert len(members) == MEMBERS
    local.driver._seed_source = Authorities(local).absent
    local.settle()
    local.clock.time_s += HOUR_S
    local.settle()
    assert local.rows("SELECT phase, failure FROM cohort WHERE attempt = 1") == [
        ("failed", "no-graph-seed: the authority drew no seed for a graph of 66 members in time")
    ]


def test_a_seed_for_another_roster_fails_the_cohort(local: Local, members: list[Member]) -> None:
    assert len(members) == MEMBERS
    local.driver._seed_source = Authorities(local).confused
    local.settle()
    (state, failure) = local.rows("SELECT phase, failure FROM cohort WHERE attempt = 1")[0]
    assert (state, failure.partition(":")[0]) == ("failed", "other-roster")


def test_killed_after_the_draw_the_same_seed_is_used(
    local: Local, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(members) == MEMBERS

    class Killed(BaseException):
        """The process is gone."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("cloud_server.rounds.driver.with_seed", die)
        with pytest.raises(Killed):
            local.settle()
    assert phase(local) == "seeding"
    local.kill_driver()
    local.settle()
    assert phase(local) == "sharing"
    with local.authority._database.read() as connection:
        assert len(connection.exec_driver_sql("SELECT 1 FROM seed_log").all()) == 1


class TestAuthority:
    """The draw itself."""

    @pytest.fixture
    def authority(self, local: Local) -> Authority:
        return local.authority

    def test_a_seed_is_drawn_once_per_cohort(self, authority: Authority) -> None:
        first = authority.draw_seed("cohort-a", sha256(b"roster"))
        assert authority.draw_seed("cohort-a", sha256(b"roster")) == first
        other = authority.draw_seed("cohort-b", sha256(b"roster"))
        read = [
            GraphSeed.verified(signed, authority.public_key, cohort=name, roster_root=sha256(b"roster")).seed
            for name, signed in (("cohort-a", first), ("cohort-b", other))
        ]
        assert read[0] != read[1]

    def test_another_roster_of_the_same_cohort_gets_none(self, authority: Authority) -> None:
        first = authority.draw_seed("cohort-a", sha256(b"roster"))
        with refused("seed-drawn", Conflict):
            authority.draw_seed("cohort-a", sha256(b"roster without the victim's friends"))
        assert authority.draw_seed("cohort-a", sha256(b"roster")) == first

    def test_a_cohort_has_a_name(self, authority: Authority) -> None:
        with refused("bad-name", UsageError):
            authority.draw_seed("../a", sha256(b"roster"))


def test_unmasking_waits_for_the_secret_with_the_fewest_shares() -> None:
    rules = CohortRules(10, 100, 0.05, 0.1)
    everybody = frozenset(range(100))
    state = CohortState(Phase.UNMASKING, 0.0, 100, everybody, everybody)
    threshold = thresholds(100, rules).threshold
    seen = Seen(1.0, answered=frozenset(range(90)), holders_answered=threshold - 1)
    assert advance(state, seen, rules, Deadlines()) == (state, Effect.NONE)
    enough = dataclasses.replace(seen, holders_answered=threshold)
    assert advance(state, enough, rules, Deadlines())[1] is Effect.UNMASK
    late = dataclasses.replace(seen, now_s=1e6)
    failed, effect = advance(state, late, rules, Deadlines())
    assert (effect, failed.failure.partition(":")[0]) == (Effect.FAIL, "too-few-answers")


def test_a_driver_that_was_killed_before_it_cleaned_up_leaves_no_shares(
    local: Local, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    local.settle()
    local.do(members[:3], "share")
    with monkeypatch.context() as patch:
        patch.setattr("cloud_server.rounds.driver.forget_shares", lambda *_: None)
        local.clock.time_s += HOUR_S
        local.settle()
    assert local.rows("SELECT phase FROM cohort WHERE attempt = 1") == [("failed",)]
    assert local.rows("SELECT 1 FROM commitment") != []
    local.kill_driver()
    local.settle()
    assert local.rows("SELECT 1 FROM commitment") == local.rows("SELECT 1 FROM box") == []

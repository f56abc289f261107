"""The malicious server of ``test_server_machine`` against a sparse graph: it lies about seeds and neighbours too.

The authority is honest: it draws one seed per cohort id, for the first roster that the server asks about, whichever
that is. What the server can never collect is the same, and one thing more: no honest device answers for fewer
survivors than the smallest cohort.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from shared.secagg.graph_seed import GraphSeed
from shared.secagg.parameters import thresholds
from shared.secagg.roster import Roster
from shared.secagg.session import DeviceSession
from shared.wire.canonical import Json, sha256
from shared.wire.signed import SigningKey
from tests.shared.cohort_simulation import binding_for, drawn_seed, new_session
from tests.shared.secagg.small_sparse import make_sparse
from tests.shared.secagg.test_server_machine import (
    DEVICES,
    HONEST,
    RULES,
    SEARCH,
    MaliciousServer,
    SessionWithoutAgreement,
    cohorts,
    devices,
    few,
    groups,
)

OWN_KEY = SigningKey(sha256(b"the server itself"))
lies = st.sampled_from(["own key", "other roster", "other cohort", "none"])


class SparseServer(MaliciousServer):
    """Any step, any material, any seed, any neighbours, any device, any order."""

    @initialize(drawn_for=st.frozensets(devices, max_size=1))
    def first_rosters(self, drawn_for: frozenset[int]) -> None:
        """Perhaps the server has a smaller roster's seed drawn before any device sees one."""
        self.left_out = drawn_for

    def roster(self, name: str, without: frozenset[int] = frozenset()) -> Roster:
        joined = self.cohorts[name].joined
        return Roster.of(binding_for(name), [joined[i] for i in DEVICES if i not in without])

    def seeded(self, name: str) -> Roster:
        """Return the one roster of a cohort for which the authority drew."""
        drawn: dict[str, Roster] = self.__dict__.setdefault("drawn", {})
        if name not in drawn:
            roster = self.roster(name, getattr(self, "left_out", frozenset()))
            drawn[name] = dataclasses.replace(roster, seed=drawn_seed(roster, sha256(name.encode())))
        return drawn[name]

    def right_material(self, name: str, device: int, step: str) -> Any:  # noqa: ANN401  # one type per step
        return self.seeded(name).to_json() if step == "share" else super().right_material(name, device, step)

    def wrong_material(self, name: str, device: int, step: str, chosen: frozenset[int], foreign: str) -> Any:  # noqa: ANN401  # one type per step
        material = super().wrong_material(name, device, step, chosen, foreign)
        if step != "share":
            return material
        return {**material, "seed": self.seed_json(name)}

    def seed_json(self, name: str) -> Json:
        seed = self.seeded(name).seed
        assert seed is not None
        return seed.signed.to_json()

    @rule(name=cohorts, group=groups, lie=lies, without=few)
    def lie_about_the_seed(self, name: str, group: frozenset[int], lie: str, without: frozenset[int]) -> None:
        roster = self.roster(name, without if len(without) < 2 else frozenset())
        own = GraphSeed.issue(OWN_KEY, cohort=name, roster_root=roster.root, seed=bytes(32)).signed.to_json()
        other = "cohort-b" if name == "cohort-a" else "cohort-a"
        seeds: dict[str, dict[str, Json]] = {
            "own key": {"seed": own},
            "other roster": {"seed": self.seed_json(name)},
            "other cohort": {"seed": self.seed_json(other)},
            "none": {},
        }
        for device in sorted(group):
            if self.next_step(name, device) == "share":
                self.send(name, device, "share", {**roster.to_json(), **seeds[lie]})

    @rule(name=cohorts, device=devices, sender=st.integers(0, 4), source=devices)
    def put_a_strangers_box_into_the_inbox(self, name: str, device: int, sender: int, source: int) -> None:
        if self.next_step(name, device) == "mask":
            boxes = self.cohorts[name].shares[source].boxes if source in self.cohorts[name].shares else {}
            stolen = next(iter(boxes.values()), bytes(80))
            self.send(name, device, "mask", {**self.right_material(name, device, "mask"), sender: stolen})

    @invariant()
    def only_one_seed_is_ever_believed(self) -> None:
        for name, cohort in getattr(self, "cohorts", {}).items():
            shared = [cohort.sessions[d] for d in HONEST if d in cohort.shares]
            assert len({session._sid for session in shared}) <= 1
            for session in shared:
                assert session._roster.seed == self.seeded(name).seed

    @invariant()
    def no_answer_is_for_fewer_than_the_smallest_cohort(self) -> None:
        for cohort in getattr(self, "cohorts", {}).values():
            for device in set(HONEST) & cohort.answers.keys():
                session = cohort.sessions[device]
                assert len(session._survivors) >= thresholds(session.members, RULES).survivors >= RULES.min_survivors


class SparseServerAgainstNoAgreement(SparseServer):
    """The same server against devices that believe every signature."""

    def new_session(self, name: str, device: int) -> DeviceSession:
        session = new_session(device, RULES, binding_for(name))
        session.__class__ = SessionWithoutAgreement
        return session


def test_no_order_of_messages_reveals_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    make_sparse(monkeypatch)
    run_state_machine_as_test(SparseServer, settings=SEARCH)
    assert MaliciousServer.answers_seen[SparseServer] > 50  # many sessions did come to their end


def test_the_same_server_does_succeed_where_nobody_checks_the_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    make_sparse(monkeypatch)
    quick = settings(SEARCH, max_examples=1000, phases=[Phase.generate], print_blob=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(SparseServerAgainstNoAgreement, settings=quick)

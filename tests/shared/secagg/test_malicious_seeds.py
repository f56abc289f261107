"""A server that lies about a sparse graph, one attack per test: seeds, neighbours, survivors nearby."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from shared.errors import FedloomError, ProtocolAbort, Unauthenticated, UsageError
from shared.secagg.graph_seed import GRAPH_SEED_DOMAIN, GraphSeed
from shared.secagg.parameters import CohortRules
from shared.secagg.roster import to_bitmap
from shared.wire.canonical import Json, encode, octets_to_text, sha256
from shared.wire.signed import Signed, SigningKey
from tests.shared.cohort_simulation import AUTHORITY, NOW_S, CohortSimulation, binding_for, drawn_seed
from tests.shared.refusals import refused
from tests.shared.secagg.small_sparse import make_sparse

RULES = CohortRules(min_survivors=3, largest=8, corrupt_share=0.125, dropout_share=0.25)
VICTIM = 0


@pytest.fixture(autouse=True)
def _sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    make_sparse(monkeypatch)


def cohort_after(step: str) -> CohortSimulation:
    simulation = CohortSimulation(8, RULES)
    simulation.run_to(step)
    return simulation


def neighbours(simulation: CohortSimulation) -> tuple[int, ...]:
    return simulation.roster.graph(2).neighbours_of(VICTIM)


def seed_of(simulation: CohortSimulation, **changes: object) -> GraphSeed:
    """Return a well-signed draw with something wrong in it."""
    roster = simulation.roster
    values = {"cohort": roster.binding.cohort, "roster_root": roster.root, "seed": sha256(b"graph")}
    return GraphSeed.issue(AUTHORITY, **{**values, **changes})  # type: ignore[arg-type]


def by_the_server(simulation: CohortSimulation) -> Json:
    own = SigningKey(sha256(b"the server itself"))
    root = simulation.roster.root
    return GraphSeed.issue(own, cohort="cohort-a", roster_root=root, seed=bytes(32)).signed.to_json()


def of_another_roster(simulation: CohortSimulation) -> Json:
    return seed_of(simulation, roster_root=sha256(b"a roster without the victim's friends")).signed.to_json()


def of_another_cohort(simulation: CohortSimulation) -> Json:
    return seed_of(simulation, cohort="cohort-b").signed.to_json()


def for_another_purpose(simulation: CohortSimulation) -> Json:
    seed = seed_of(simulation).signed
    return Signed.make(AUTHORITY, "fedloom/1/certificate", seed.body).to_json()


def short(simulation: CohortSimulation) -> Json:
    return seed_of(simulation, seed=bytes(31)).signed.to_json()


def with_a_field_too_many(simulation: CohortSimulation) -> Json:
    root = octets_to_text(simulation.roster.root)
    body = {"format": "fedloom-graph-seed-1", "cohort": "cohort-a", "roster_root": root}
    more = encode({**body, "seed": octets_to_text(bytes(32)), "tries": 7})
    return Signed.make(AUTHORITY, GRAPH_SEED_DOMAIN, more).to_json()


@pytest.mark.parametrize(
    ("lie", "code", "kind"),
    [
        (by_the_server, "bad-signature", Unauthenticated),
        (of_another_roster, "other-roster", ProtocolAbort),
        (of_another_cohort, "other-cohort", ProtocolAbort),
        (for_another_purpose, "bad-signature", Unauthenticated),
        (short, "bad-field", UsageError),
        (with_a_field_too_many, "bad-field", UsageError),
    ],
)
def test_a_seed_that_the_authority_did_not_draw_for_this_roster(
    lie: Callable[[CohortSimulation], Json], code: str, kind: type[FedloomError]
) -> None:
    simulation = cohort_after("join")
    victim = simulation.sessions[VICTIM]
    with refused(code, kind):
        victim.share({**simulation.roster.to_json(), "seed": lie(simulation)}, NOW_S)
    with refused("out-of-order", ProtocolAbort):
        victim.share(simulation.roster.to_json(), NOW_S)


def test_a_sparse_roster_without_a_seed() -> None:
    simulation = cohort_after("join")
    with refused("no-graph-seed", ProtocolAbort):
        simulation.sessions[VICTIM].share({"members": simulation.roster.to_json()["members"]}, NOW_S)


def test_a_complete_roster_with_a_seed_that_would_change_its_session() -> None:
    simulation = CohortSimulation(3, RULES)
    simulation.run_to("join")
    seed = drawn_seed(simulation.roster).signed.to_json()
    with refused("no-graph-seed", ProtocolAbort):
        simulation.sessions[VICTIM].share({**simulation.roster.to_json(), "seed": seed}, NOW_S)


def test_two_seeds_make_two_sessions_whose_shares_do_not_mix() -> None:
    """Were the authority to sign twice, devices of different graphs still could not open each other's boxes."""
    simulation = cohort_after("join")
    roster = simulation.roster
    others = dataclasses.replace(roster, seed=drawn_seed(roster, sha256(b"second draw")))
    assert others.sid != roster.sid
    messages = {i: simulation.sessions[i].share((roster if i else others).to_json(), NOW_S) for i in range(8)}
    inbox = {i: message.boxes[VICTIM] for i, message in messages.items() if VICTIM in message.boxes}
    relabelled = dict(zip(others.graph(2).neighbours_of(VICTIM), inbox.values(), strict=True))
    with refused("bad-sealed-share", ProtocolAbort):
        simulation.sessions[VICTIM].mask(relabelled, np.zeros(8, np.uint64))


def test_an_inbox_with_a_member_that_is_no_neighbour() -> None:
    simulation = cohort_after("share")
    stranger = next(i for i in range(1, 8) if i not in neighbours(simulation))
    inbox = {**simulation.inbox(VICTIM), stranger: bytes(80)}
    with refused("bad-inbox", ProtocolAbort):
        simulation.sessions[VICTIM].mask(inbox, np.zeros(8, np.uint64))


def test_an_inbox_without_one_of_the_t_neighbours() -> None:
    simulation = cohort_after("share")
    inbox = simulation.inbox(VICTIM)
    inbox.pop(neighbours(simulation)[0])
    with refused("too-few-shares", ProtocolAbort):
        simulation.sessions[VICTIM].mask(inbox, np.zeros(8, np.uint64))


def test_shares_replayed_from_another_cohort_of_the_same_devices() -> None:
    simulation, other = cohort_after("share"), CohortSimulation(8, RULES, binding_for("cohort-b"))
    other.run_to("share")
    replayed = [message.boxes[VICTIM] for message in other.shares.values() if VICTIM in message.boxes]
    inbox = dict(zip(neighbours(simulation), replayed, strict=True))
    with refused("bad-sealed-share", ProtocolAbort):
        simulation.sessions[VICTIM].mask(inbox, np.zeros(8, np.uint64))


def test_survivors_that_leave_the_victim_too_few_neighbours() -> None:
    simulation = cohort_after("mask")
    gone = neighbours(simulation)[:1]
    with refused("too-few-survivors", ProtocolAbort):
        simulation.sessions[VICTIM].agree(to_bitmap(frozenset(range(8)) - set(gone), 8))


def test_survivors_below_the_smallest_cohort_although_the_neighbours_are_there() -> None:
    simulation = cohort_after("mask")
    kept = frozenset({VICTIM, *neighbours(simulation)})
    with refused("too-few-survivors", ProtocolAbort):
        simulation.sessions[VICTIM].agree(to_bitmap(kept, 8))


def test_a_neighbour_that_sent_no_shares_is_listed_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three neighbours would be no even number; a threshold below the two lets one be missing.
    monkeypatch.setattr("shared.secagg.parameters._smallest_degree", lambda *_: (4, 3))
    simulation = cohort_after("share")
    silent = simulation.roster.graph(4).neighbours_of(VICTIM)[0]
    inbox = simulation.inbox(VICTIM)
    inbox.pop(silent)
    victim = simulation.sessions[VICTIM]
    victim.mask(inbox, np.zeros(8, np.uint64))
    with refused("unknown-survivor", ProtocolAbort):
        victim.agree(to_bitmap(frozenset(range(8)), 8))


def test_an_answer_holds_neighbours_only_and_each_by_its_fate() -> None:
    simulation = cohort_after("unmask")
    answer = simulation.answers[VICTIM]
    assert set(answer.self_mask) == set(neighbours(simulation))
    assert answer.mask_key == {}
    assert VICTIM not in answer.self_mask  # own shares are not kept on a sparse graph

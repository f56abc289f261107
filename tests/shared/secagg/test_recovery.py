"""Members that lie to the aggregator: worked around, or a named failure without output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from shared.errors import UnmaskingFailed
from shared.secagg.parameters import CohortRules
from shared.secagg.sealing import SharePair, seal
from shared.secagg.session import SharesMessage, UnmaskAnswer
from tests.shared.cohort_simulation import CohortSimulation
from tests.shared.refusals import refused

RULES = CohortRules(min_survivors=3, largest=5, corrupt_share=0.0, dropout_share=0.4)


def finished(gone: set[int] | None = None) -> CohortSimulation:
    """Return a finished cohort of five in which ``gone`` vanished after sharing."""
    simulation = CohortSimulation(5, RULES)
    simulation.run_to("share")
    simulation.drop(gone or set())
    simulation.run_to("unmask")
    return simulation


def with_garbage(answer: UnmaskAnswer) -> UnmaskAnswer:
    return UnmaskAnswer(dict.fromkeys(answer.self_mask, bytes(32)), dict.fromkeys(answer.mask_key, b"\x01" * 32))


def test_an_owner_that_deals_wrong_shares_is_named_beside_the_holders_it_frames() -> None:
    simulation = CohortSimulation(8, CohortRules(3, 8, 0.0, 0.25))
    simulation.run_to("join")
    session, framed = simulation.sessions[7], (0, 1)
    deal = session._sealed_shares

    def dealing(holders: Sequence[int]) -> dict[int, bytes]:
        boxes = deal(holders)
        for holder in framed:
            boxes[holder] = seal(
                SharePair(bytes(31) + b"\x01", bytes(31) + b"\x01"),
                secret=session._channel.secret,
                public=session._roster.members[holder].channel_key,
                sid=session.sid,
                sender=7,
                receiver=holder,
                cipher="aes-256-ctr",
            )
        return boxes

    session._sealed_shares = dealing  # type: ignore[method-assign]
    simulation.run_to("unmask")
    assert simulation.counted() == [1] * 8
    members = simulation.roster.members
    assert simulation.blamed == {members[holder].device: [members[7].device] for holder in framed}


@pytest.mark.parametrize("liar", [0, 1, 2, 3])
def test_one_member_that_answers_garbage_changes_nothing_and_is_named(liar: int) -> None:
    simulation = finished({4})
    simulation.answers[liar] = with_garbage(simulation.answers[liar])
    assert simulation.counted() == [1, 1, 1, 1, 0]
    in_the_way = {simulation.roster.members[liar].device} if liar < simulation.thresholds.threshold else set()
    assert set(simulation.blamed) == in_the_way
    assert all(len(owners) >= 1 for owners in simulation.blamed.values())


def test_too_many_members_that_answer_garbage_give_no_output() -> None:
    simulation = finished()
    for liar in (0, 1, 2):
        simulation.answers[liar] = with_garbage(simulation.answers[liar])
    with refused("bad-shares", UnmaskingFailed):
        simulation.total()


def test_answers_from_fewer_than_t_members_give_no_output() -> None:
    simulation = finished({4})
    for index in (0, 1):
        del simulation.answers[index]
    with refused("too-few-shares", UnmaskingFailed):
        simulation.total()


def test_a_member_that_leaves_entries_out_of_its_answer_counts_as_absent_there() -> None:
    simulation = finished({4})
    simulation.answers[0] = UnmaskAnswer({}, {})
    assert simulation.counted() == [1, 1, 1, 1, 0]


def test_a_survivor_that_committed_to_another_seed_gives_no_output() -> None:
    simulation = finished()
    simulation.shares[2] = SharesMessage(bytes(32), simulation.shares[2].boxes)
    with refused("bad-shares", UnmaskingFailed):
        simulation.total()


def test_a_drop_out_whose_shares_are_not_of_its_mask_key_gives_no_output() -> None:
    simulation = finished({4})
    stranger = simulation.joined[0].mask_key
    simulation.joined[4] = dataclasses.replace(simulation.joined[4], mask_key=stranger[::-1])
    # Only the server's copy of the key changed, not the signed message that the session id is made of.
    with refused("bad-shares", UnmaskingFailed):
        simulation.total()


def test_an_altered_masked_vector_is_found_by_its_counts() -> None:
    simulation = finished()
    simulation.masked[1].words[-5] += 1000  # the weight
    with refused("implausible-counts", UnmaskingFailed):
        simulation.total()


def test_a_vector_added_twice_does_not_decode() -> None:
    simulation = finished()
    simulation.masked[2].words[:] += simulation.masked[2].words.copy()
    with refused("implausible-counts", UnmaskingFailed):
        simulation.total()

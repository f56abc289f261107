"""The roster's order, root, session id and bitmaps."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolAbort
from shared.secagg.parameters import CohortRules
from shared.secagg.roster import Roster, from_bitmap, merkle_root, to_bitmap
from shared.wire.canonical import sha256, transcript
from tests.shared.cohort_simulation import AUTHORITY, NOW_S, CohortSimulation, binding_for
from tests.shared.refusals import refused

RULES = CohortRules(2, 64, 0.05, 0.1)


def joined(devices: int) -> Roster:
    simulation = CohortSimulation(devices, RULES)
    simulation.run_to("join")
    return simulation.roster


def reference_root(leaves: list[bytes]) -> bytes:
    """Bottom up: hash in pairs, an odd one out moves up as it is. The same tree as RFC 9162 cuts from above."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=70))
def test_the_merkle_root_agrees_with_an_independent_reference(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == reference_root(leaves)


def test_the_root_of_nothing_is_the_standards() -> None:
    assert merkle_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_leaf_cannot_pass_for_an_inner_node() -> None:
    inner = sha256(b"\x00", b"a") + sha256(b"\x00", b"b")
    assert merkle_root([b"a", b"b"]) != merkle_root([inner])


def test_the_session_id_is_bound_to_plan_model_and_every_octet_of_the_roster() -> None:
    roster = joined(3)
    leaves = [
        sha256(
            transcript(
                "fedloom/1/roster-leaf",
                member.join.body,
                member.join.signature,
                member.certificate.signed.body,
                member.certificate.signed.signature,
            )
        )
        for member in roster.members
    ]
    expected = transcript("fedloom/1/session", sha256(b"plan"), sha256(b"model"), reference_root(leaves), b"")
    assert roster.sid == hashlib.sha256(expected).digest()


def test_another_plan_or_model_gives_another_session() -> None:
    roster = joined(3)
    bindings = [
        roster.binding,
        dataclasses.replace(roster.binding, plan_sha256=bytes(32)),
        dataclasses.replace(roster.binding, model_sha256=bytes(32)),
    ]
    assert len({Roster(binding, roster.members).sid for binding in bindings}) == 3


def test_what_travels_is_read_back_whole() -> None:
    roster = joined(4)
    again = Roster.verified(roster.to_json(), binding_for(), AUTHORITY.public, NOW_S)
    assert again == roster
    assert [again.index_of(member.device) for member in again.members] == [0, 1, 2, 3]


def test_a_device_that_is_not_in_the_roster_has_no_index() -> None:
    with refused("not-in-roster", ProtocolAbort):
        joined(2).index_of("device-009")


@given(st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.frozensets(st.integers(0, n - 1)))))
def test_a_bitmap_is_read_back_and_is_the_only_one_of_its_set(case: tuple[int, frozenset[int]]) -> None:
    members, indices = case
    bitmap = to_bitmap(indices, members)
    assert len(bitmap) == -(-members // 8)
    assert from_bitmap(bitmap, members) == indices
    assert int.from_bytes(bitmap, "little") == sum(1 << index for index in indices)


@pytest.mark.parametrize(
    ("bitmap", "members"),
    [(b"", 1), (b"\x01\x00", 8), (b"\x01", 9), (b"\x02", 1), (b"\x00\x02", 9), (b"\xff" * 9, 64)],
)
def test_a_bitmap_that_does_not_fit_is_refused(bitmap: bytes, members: int) -> None:
    with refused("bad-bitmap", ProtocolAbort):
        from_bitmap(bitmap, members)

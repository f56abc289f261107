"""A server that withholds boxes to cut an arc out of a sparse graph's ring, and what it can open of it.

Twelve members on a ring, four neighbours each, three shares to open a mask; two members are the server's own, one on
each side of an arc of six. With one box withheld from each of its ends, these mask towards their own side only. They
then refuse to agree, but others hold their shares, and nobody needs to drop out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import comb, log2
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shared
from shared.errors import FedloomError
from shared.secagg import parameters
from shared.secagg.parameters import CohortRules, share_of, thresholds
from shared.secagg.roster import to_bitmap
from shared.secagg.session import DeviceSession
from shared.secagg.signed_inbox import verified_inbox
from tests.shared.cohort_simulation import CohortSimulation
from tests.shared.secagg.openable import openable_sums

MEMBERS: Final = 12
NEIGHBOURS, THRESHOLD = 4, 3  # for one corrupt neighbour at most, as everybody has here
RULES: Final = CohortRules(min_survivors=3, largest=MEMBERS, corrupt_share=0.17, dropout_share=0.1)
CORRUPT: Final = frozenset({6, 11})  # places on the ring
HONEST: Final = frozenset(range(MEMBERS)) - CORRUPT
ARC: Final = frozenset(range(6))
WITHHELD: Final = frozenset({(0, 10), (5, 7)})  # (receiver, sender), by place
THREATS: Final = Path(shared.__path__[0]) / "spec" / "THREATS.md"
places = st.integers(0, MEMBERS - 1)


class SessionWithoutInboxes(DeviceSession):
    """What the protocol would be if nobody signed whose boxes it used."""

    def _doubt(self, survivor: int, signed: bytes | None) -> str:
        del survivor, signed
        return ""


class SessionThatLooksForItself(DeviceSession):
    """What it would be if a holder only asked whether it is in the survivor's list."""

    def _doubt(self, survivor: int, signed: bytes | None) -> str:
        key, neighbours = self._roster.members[survivor].certificate.identity_key, self._graph.neighbours_of(survivor)
        used = verified_inbox(signed or b"", key, self._sid, survivor, neighbours)
        return "" if self._index in used else "masked-without"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "MAX_COMPLETE_GRAPH_MEMBERS", 3)
    monkeypatch.setattr(parameters, "_smallest_degree", lambda *_: (NEIGHBOURS, THRESHOLD))


def opened(
    kind: type[DeviceSession], withheld: frozenset[tuple[int, int]], dropped: int | None = None
) -> list[frozenset[int]]:
    """Let a cohort meet a server that withholds boxes; return, by place, which sums it can open."""
    simulation = CohortSimulation(MEMBERS, RULES)
    for session in simulation.sessions:
        session.__class__ = kind
    simulation.run_to("share")
    graph, sessions = simulation.roster.graph(NEIGHBOURS), simulation.sessions
    place_of = {member: place for place, member in enumerate(graph.ring)}
    used: dict[int, set[int]] = {}

    def mask(member: int) -> None:
        inbox = simulation.inbox(member)
        kept = {s: box for s, box in inbox.items() if (place_of[member], place_of[s]) not in withheld}
        sessions[member].mask(kept, np.zeros(4, np.uint64))
        used[member] = set(kept)
        simulation.inboxes[member] = sessions[member].signed_inbox

    survivors = frozenset(member for member in range(MEMBERS) if place_of[member] != dropped)
    bitmap = to_bitmap(survivors, MEMBERS)

    def agree(member: int) -> None:
        simulation.signatures[member] = sessions[member].agree(bitmap)

    def unmask(member: int) -> None:
        simulation.answers[member] = sessions[member].unmask(simulation.signatures, simulation.inboxes)

    for step in (mask, agree, unmask):
        for member in range(MEMBERS):
            unless_refused(step, member)
    corrupt = {graph.ring[place] for place in CORRUPT}
    answers = {member: answer for member, answer in simulation.answers.items() if member not in corrupt}
    sums = openable_sums(graph, THRESHOLD, corrupt, range(MEMBERS), used, answers)
    return [frozenset(place_of[member] for member in one) for one in sums]


def unless_refused(step: Callable[[int], None], member: int) -> None:
    """Let a device do a step; whoever refuses one refuses those after it, too."""
    try:
        step(member)
    except FedloomError:
        return


@pytest.mark.usefixtures("small")
def test_an_arc_is_not_opened() -> None:
    assert opened(DeviceSession, WITHHELD) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", [SessionWithoutInboxes, SessionThatLooksForItself])
def test_the_same_server_does_open_it_where_less_is_asked(kind: type[DeviceSession]) -> None:
    assert opened(kind, WITHHELD) == [ARC]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dropped", [None, 3, 6])
def test_an_honest_server_opens_the_sum_over_everybody(dropped: int | None) -> None:
    assert opened(DeviceSession, frozenset(), dropped) == [HONEST - {dropped}]


@pytest.mark.usefixtures("small")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(withheld=st.frozensets(st.tuples(places, places), max_size=8), dropped=st.none() | places)
def test_whatever_boxes_are_withheld_no_sum_is_over_too_few(
    withheld: frozenset[tuple[int, int]], dropped: int | None
) -> None:
    fewest = thresholds(MEMBERS, RULES).survivors - len(CORRUPT)
    assert all(len(members) >= fewest for members in opened(DeviceSession, withheld, dropped))


def arc_bound_log2(members: int, corrupt_share: float, dropout_share: float) -> float:
    """Return the base-2 logarithm of a bound on the chance that declaring members dead cuts off an arc.

    An arc is cut off when the k / 2 places on either side of it are all corrupt or listed dead; the mask of its last
    member is opened by t of its inner neighbours and the corrupt, so at least t - k / 2 of each side are corrupt. Union
    over pairs of sides.
    """
    limits = thresholds(members, CohortRules(10, members, corrupt_share, dropout_share))
    corrupt, gone = share_of(corrupt_share, members), share_of(dropout_share, members)
    side, fewest = limits.neighbours // 2, limits.threshold - limits.neighbours // 2
    ways = sum(
        comb(side, left) * comb(side, right) * comb(members - 2 * side, corrupt - left - right)
        for left in range(fewest, min(side, corrupt) + 1)
        for right in range(fewest, min(side, corrupt - left) + 1)
        if 2 * side - left - right <= gone
    )
    if not ways:
        return float("-inf")
    return log2(ways) - log2(comb(members, corrupt)) + log2(members * (members - 2 * side + 1) / 2)


def test_the_bound_in_the_threats_is_this_one() -> None:
    table = re.findall(r"2\^-(\d+) at n = ([\d,]+), gamma = (\d+) %, delta = (\d+) %", THREATS.read_text("utf-8"))
    assert table
    for bits, members, gamma, delta in table:
        exact = arc_bound_log2(int(members.replace(",", "")), int(gamma) / 100, int(delta) / 100)
        assert -int(bits) - 1 < exact <= -int(bits)

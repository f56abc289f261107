"""The graph: everybody's neighbours are mutual, in an order that follows from the key alone and favours nobody."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from shared.secagg.graph import Graph, _below, make_graph, shuffled
from shared.wire.canonical import sha256

keys = st.binary(min_size=32, max_size=32)


@st.composite
def sparse(draw: st.DrawFn) -> Graph:
    members = draw(st.integers(5, 90))
    return make_graph(members, 2 * draw(st.integers(1, (members - 2) // 2)), draw(keys))


@given(sparse())
def test_everybody_has_k_neighbours_that_have_it_as_theirs(graph: Graph) -> None:
    sets = [set(graph.neighbours_of(member)) for member in range(graph.members)]
    for member, neighbours in enumerate(sets):
        assert len(neighbours) == 2 * graph.reach
        assert member not in neighbours
        assert all(member in sets[other] for other in neighbours)
        assert graph.holders_of(member) == tuple(sorted(neighbours))


@given(sparse(), st.randoms(use_true_random=False))
def test_fewer_than_k_gone_members_leave_the_graph_connected(graph: Graph, random: st.DataObject) -> None:
    """A Harary graph is k-connected: it is what keeps one neighbourhood from being cut off."""
    everybody = range(graph.members)
    left = set(random.sample(everybody, graph.members - 2 * graph.reach + 1))  # type: ignore[attr-defined]
    reached, edge = set(), {min(left)}
    while edge:
        reached |= edge
        edge = {other for member in edge for other in graph.neighbours_of(member)} & left - reached
    assert reached == left


def test_the_complete_graph_needs_no_key_and_keeps_own_shares() -> None:
    graph = make_graph(5, 4, b"")
    assert graph.neighbours_of(2) == (0, 1, 3, 4)
    assert graph.holders_of(2) == (0, 1, 2, 3, 4)


@given(st.integers(1, 300), keys)
def test_a_ring_is_an_order_of_all_members_and_follows_from_its_key(members: int, key: bytes) -> None:
    ring = shuffled(members, key)
    assert sorted(ring) == list(range(members))
    assert ring == shuffled.__wrapped__(members, key)


def test_every_order_is_as_frequent_as_any_other() -> None:
    draws = 4800
    counts = Counter(shuffled(4, sha256(number.to_bytes(4, "big"))) for number in range(draws))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi_squared = sum((count - draws / 24) ** 2 / (draws / 24) for count in counts.values())
    assert chi_squared < 58.6  # 23 degrees of freedom: exceeded once in 16,000 seeds


def test_the_ring_is_the_specifications() -> None:
    """Fisher-Yates from the end over the words of AES-256-CTR, written once more with NumPy."""
    key = bytes(range(32))
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8 * 9))
    ring = list(range(10))
    for i, word in zip(range(9, 0, -1), np.frombuffer(stream, "<u8"), strict=True):
        j = int(word) % (i + 1)
        ring[i], ring[j] = ring[j], ring[i]
    assert shuffled(10, key) == tuple(ring)


@pytest.mark.parametrize(("bound", "refused"), [(3, 2**64 - 1), (10, 2**64 - 6), (2**33 - 1, 2**64 - 1)])
def test_words_that_would_favour_small_numbers_are_skipped(bound: int, refused: int) -> None:
    assert _below(bound, iter([refused, 2**64 - 1, bound + 1])) == 1
    assert _below(bound, iter([bound - 1])) == bound - 1

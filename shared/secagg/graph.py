"""Who is whose neighbour. Each device works it out from roster and seed; a server's word on it is never asked for.

Small cohorts are complete graphs, in which every member also holds a share of its own secrets. Larger ones are Harary
graphs (Bell et al., CCS 2020, section 3.3): members stand in a ring, in an order that the authority's seed decides,
and each is the neighbour of the k / 2 members on either side; own shares are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from shared.secagg.masking import keystream

_WORD_BYTES: Final = 8
_WORDS_AT_ONCE: Final = 512


@dataclass(frozen=True)
class Graph:
    """The neighbours of every member, by roster index.

    Attributes:
        members: n.
        ring: the members in their order around the ring; empty for the complete graph.
        reach: how many neighbours a member has on each side of the ring, k / 2.
    """

    members: int
    ring: tuple[int, ...] = ()
    reach: int = 0

    @cached_property
    def _places(self) -> dict[int, int]:
        return {member: place for place, member in enumerate(self.ring)}

    def neighbours_of(self, member: int) -> tuple[int, ...]:
        """Return those with whom ``member`` shares a mask, in ascending order."""
        if not self.ring:
            return tuple(other for other in range(self.members) if other != member)
        place = self._places[member]
        steps = (step for side in range(1, self.reach + 1) for step in (-side, side))
        return tuple(sorted(self.ring[(place + step) % self.members] for step in steps))

    def holders_of(self, owner: int) -> tuple[int, ...]:
        """Return those who hold shares of ``owner``'s secrets, ascending; the i-th holds the share at point i + 1."""
        return self.neighbours_of(owner) if self.ring else tuple(range(self.members))


def make_graph(members: int, neighbours: int, key: bytes) -> Graph:
    """Return the graph of a cohort.

    Args:
        members: n.
        neighbours: k; n - 1 gives the complete graph, else an even number below it.
        key: 32 octets that only roster and seed determine; unused on the complete graph.
    """
    if neighbours == members - 1:
        return Graph(members)
    return Graph(members, shuffled(members, key), neighbours // 2)


@lru_cache(maxsize=8)
def shuffled(members: int, key: bytes) -> tuple[int, ...]:
    """Return 0 .. members - 1 in an order that is uniform over all of them (Fisher and Yates, from the end)."""
    order, words = list(range(members)), _words(key)
    for last in range(members - 1, 0, -1):
        chosen = _below(last + 1, words)
        order[last], order[chosen] = order[chosen], order[last]
    return tuple(order)


def _below(bound: int, words: Iterator[int]) -> int:
    """Return a uniform number below ``bound``; words beyond the last whole multiple of it would favour small ones."""
    usable = 2**64 - 2**64 % bound
    return next(word for word in words if word < usable) % bound


def _words(key: bytes) -> Iterator[int]:
    """Yield the keystream of AES-256-CTR as little-endian 64-bit numbers, without end."""
    generator = keystream(key, "aes-256-ctr")
    while True:
        piece = generator.update(bytes(_WORDS_AT_ONCE * _WORD_BYTES))
        for start in range(0, len(piece), _WORD_BYTES):
            yield int.from_bytes(piece[start : start + _WORD_BYTES], "little")

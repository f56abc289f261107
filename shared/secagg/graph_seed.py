"""The authority's draw that orders a sparse graph, made after the roster is fixed and once per cohort.

A server that could choose the seed, or ask for another, would try until one device has too many corrupt neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.errors import ProtocolAbort
from shared.ids import require_name
from shared.wire.canonical import Fields, decode, encode, octets_to_text
from shared.wire.signed import Signed, SigningKey

GRAPH_SEED_DOMAIN: Final = "fedloom/1/graph-seed"
SEED_BYTES: Final = 32
ROOT_BYTES: Final = 32
SeedSource = Callable[[str, bytes], Signed]  # (cohort id, roster root) -> the authority's draw


@dataclass(frozen=True)
class GraphSeed:
    """What the authority drew for one roster of one cohort.

    Attributes:
        cohort: the cohort's id.
        roster_root: Merkle root of the roster, 32 octets.
        seed: 32 octets.
        signed: the exact bytes and the authority's signature.
    """

    cohort: str
    roster_root: bytes
    seed: bytes
    signed: Signed

    @classmethod
    def issue(cls, authority: SigningKey, *, cohort: str, roster_root: bytes, seed: bytes) -> GraphSeed:
        """Sign a draw."""
        body = encode(
            {
                "format": "fedloom-graph-seed-1",
                "cohort": cohort,
                "roster_root": octets_to_text(roster_root),
                "seed": octets_to_text(seed),
            }
        )
        return cls(cohort, roster_root, seed, Signed.make(authority, GRAPH_SEED_DOMAIN, body))

    @classmethod
    def verified(cls, signed: Signed, authority_key: bytes, *, cohort: str, roster_root: bytes) -> GraphSeed:
        """Return the draw in ``signed`` if the authority made it for this cohort and this roster.

        Raises:
            ProtocolAbort: ``other-cohort`` or ``other-roster``.
            Unauthenticated: ``bad-signature``.
            UsageError: for a malformed body.
        """
        signed.verify(authority_key, GRAPH_SEED_DOMAIN, "a graph's seed")
        fields = Fields(decode(signed.body), "graph seed")
        fields.choice("format", ("fedloom-graph-seed-1",))
        drawn = cls(
            require_name(fields.text("cohort"), "the cohort"),
            fields.octets("roster_root", ROOT_BYTES),
            fields.octets("seed", SEED_BYTES),
            signed,
        )
        fields.end()
        if drawn.cohort != cohort:
            raise ProtocolAbort("other-cohort", "The graph's seed was drawn for another cohort.")
        if drawn.roster_root != roster_root:
            raise ProtocolAbort("other-roster", "The graph's seed was drawn for another roster of this cohort.")
        return drawn

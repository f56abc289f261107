"""Whose boxes a member masked with, in its own signed words: the edges of the graph as they were used.

The aggregator carries the boxes, so it decides who gets whose. Left to itself it could, on a sparse graph, let the
members around a part of the cohort mask towards that part only, and open the sum of that part. So each member signs
whose boxes it used, and no holder reveals a share of the self mask of a survivor that did not mask towards every other
survivor around it. What is opened then has no edge to survivors outside.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from shared.errors import ProtocolAbort, UsageError
from shared.secagg.roster import from_bitmap, to_bitmap
from shared.wire.canonical import transcript
from shared.wire.signed import SIGNATURE_BYTES, SigningKey, verify

INBOX_DOMAIN: Final = "fedloom/1/inbox"


def inbox_message(sid: bytes, member: int, used: bytes) -> bytes:
    """Return the bytes that ``member`` signs: ``used`` has a bit for each of its neighbours, in ascending order."""
    return transcript(INBOX_DOMAIN, sid, member, used)


def sign_inbox(key: SigningKey, sid: bytes, member: int, neighbours: Sequence[int], used: Collection[int]) -> bytes:
    """Return what travels with the masked vector: the bits, ceil(k / 8) octets, and the signature over them.

    Args:
        key: the member's identity.
        sid: of the session.
        member: its index.
        neighbours: its own, ascending.
        used: those whose boxes it used.
    """
    bits = to_bitmap(frozenset(place for place, other in enumerate(neighbours) if other in used), len(neighbours))
    return bits + key.sign(inbox_message(sid, member, bits))


def verified_inbox(
    signed: bytes, identity_key: bytes, sid: bytes, member: int, neighbours: Sequence[int]
) -> frozenset[int]:
    """Return the neighbours whose boxes ``member`` says that it used.

    Raises:
        UsageError: ``bad-signed-inbox`` for a wrong length or bits beyond the neighbours.
        Unauthenticated: ``bad-signature``.
    """
    bits, signature = signed[:-SIGNATURE_BYTES], signed[-SIGNATURE_BYTES:]
    try:
        places = from_bitmap(bits, len(neighbours))
    except ProtocolAbort as error:
        raise UsageError("bad-signed-inbox", "The list of used boxes does not fit the member's neighbours.") from error
    verify(identity_key, inbox_message(sid, member, bits), signature, "a list of used boxes")
    return frozenset(neighbours[place] for place in places)

"""What a server can open of one session, by counting: whose masks it knows, and which pair masks cancel."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shared.secagg.graph import Graph
from shared.secagg.session import UnmaskAnswer


def openable_sums(
    graph: Graph,
    threshold: int,
    corrupt: Collection[int],
    shared: Collection[int],
    used: Mapping[int, Collection[int]],
    answers: Mapping[int, UnmaskAnswer],
) -> list[frozenset[int]]:
    """Return the smallest sets of honest members whose sums the server can open; all by roster index.

    Args:
        graph: who holds whose shares.
        threshold: t.
        corrupt: members that tell the server everything.
        shared: members that sealed shares.
        used: of each honest member that sent a vector, whose boxes it masked with.
        answers: of honest members.
    """

    def recovered(owner: int, kind: str) -> bool:
        holders = graph.holders_of(owner)
        told = sum(holder in answers and owner in getattr(answers[holder], kind) for holder in holders)
        return owner in shared and told + len(set(corrupt).intersection(holders)) >= threshold

    def known(member: int, other: int) -> bool:
        return other in corrupt or recovered(member, "mask_key") or recovered(other, "mask_key")

    # Whoever has a mask that neither is known nor cancels can be in no sum; without it others may be left with one.
    kept = {member for member in used if member not in corrupt and recovered(member, "self_mask")}
    ties = {member: {other for other in used[member] if not known(member, other)} for member in kept}
    while lone := {m for m in kept if any(other not in kept or m not in used[other] for other in ties[m])}:
        kept -= lone
    sums = []
    while kept:
        group, edge = set[int](), {min(kept)}
        while edge:
            group |= edge
            edge = set[int]().union(*(ties[member] for member in edge)) - group
        sums.append(frozenset(group))
        kept -= group
    return sums

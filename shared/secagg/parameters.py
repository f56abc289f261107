"""Who is whose neighbour, and how many shares unmask: derived from plan and roster, never taken from the server."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from shared.errors import UsageError
from shared.limits import MAX_COMPLETE_GRAPH_MEMBERS


@dataclass(frozen=True)
class CohortRules:
    """What the plan fixes for every cohort.

    Attributes:
        min_survivors: n_min, the fewest devices whose sum is ever revealed.
        largest: the most members of one cohort.
        corrupt_share: gamma, the share of members that may collude with the aggregator.
        dropout_share: delta, the share of members that may vanish.
    """

    min_survivors: int
    largest: int
    corrupt_share: float
    dropout_share: float


@dataclass(frozen=True)
class Thresholds:
    """What follows for one roster.

    Attributes:
        neighbours: k, how many others share masks with a device; n - 1 on the complete graph.
        threshold: t, how many shares recover a secret; the device's own share counts.
        survivors: the fewest survivors that a device unmasks for.
        quorum: how many signatures over one survivor bitmap a device wants to see.
    """

    neighbours: int
    threshold: int
    survivors: int
    quorum: int


def share_of(share: float, members: int) -> int:
    """Return ``floor(share * members)`` of the decimal that a person wrote, not of its binary neighbour."""
    return int(Fraction(str(share)) * members)


def thresholds(members: int, rules: CohortRules) -> Thresholds:
    """Return k, t, the fewest survivors and the agreement quorum for a roster of ``members``.

    Complete graph: ``t = floor(n (1 + gamma) / 2) + 1``. Two disjoint sets of honest devices can then never both
    reach t with the corrupt ones' help, so no server obtains both shares of one device.

    Raises:
        UsageError: ``unsafe-cohort`` or ``cohort-size`` with the reason, where no safe parameters exist.
    """
    if members < max(2, rules.min_survivors) or members > rules.largest:
        raise UsageError(
            "cohort-size",
            f"A cohort of {members} is outside {max(2, rules.min_survivors)} to {rules.largest}, the plan's sizes.",
        )
    if members > MAX_COMPLETE_GRAPH_MEMBERS:
        raise UsageError(
            "cohort-size",
            f"{members} members need a sparse graph; this version runs cohorts of up to {MAX_COMPLETE_GRAPH_MEMBERS}.",
            "lower cohort.largest in the plan",
        )
    gamma = Fraction(str(rules.corrupt_share))
    threshold = int(members * (1 + gamma) / 2) + 1
    alive = members - share_of(rules.dropout_share, members)
    if threshold > alive:
        raise UsageError(
            "unsafe-cohort",
            f"With {members} members, {rules.corrupt_share:g} corrupt and {rules.dropout_share:g} dropping out,"
            f" unmasking needs {threshold} members but only {alive} are sure to remain.",
            "lower dropout_share or corrupt_share, or wait for larger cohorts",
        )
    quorum = int(Fraction(members + share_of(rules.corrupt_share, members), 2)) + 1
    return Thresholds(members - 1, threshold, max(rules.min_survivors, alive), quorum)

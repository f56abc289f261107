"""How many neighbours share masks, and how many shares unmask: derived from plan and roster, never from the server.

Up to ``MAX_COMPLETE_GRAPH_MEMBERS`` everybody is everybody's neighbour; above it each member has k of them, chosen at
random (Bell et al., CCS 2020, section 3 and theorem 3.10; ``graph.py``). k and t are the smallest for which all of
these fail with negligible probability, B = floor(gamma n) + floor(delta n) members being corrupt or gone:

- the graph falls apart without those B (``_falls_apart``): 2^-41;
- any member has more than t1 corrupt neighbours, so that shares suffice without enough honest ones: 2^-41;
- any member has fewer than t neighbours that remain: 2^-20.

All of it is integer arithmetic: devices with other processors and libraries must find the same k and t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

from shared.errors import UsageError
from shared.limits import MAX_COMPLETE_GRAPH_MEMBERS, MAX_NEIGHBOURS

PRIVACY_BITS: Final = 40  # sigma
CORRECTNESS_BITS: Final = 20  # eta
Adversary = Literal["semi-malicious", "semi-honest"]


@dataclass(frozen=True)
class CohortRules:
    """What the plan fixes for every cohort.

    Attributes:
        min_survivors: n_min, the fewest devices whose sum is ever revealed.
        largest: the most members of one cohort.
        corrupt_share: gamma, the share of members that may collude with the aggregator.
        dropout_share: delta, the share of members that may vanish.
        adversary: what sparse graphs withstand: an aggregator that may say different things to different members, or
            one that only reads along.
    """

    min_survivors: int
    largest: int
    corrupt_share: float
    dropout_share: float
    adversary: Adversary = "semi-malicious"


@dataclass(frozen=True)
class Thresholds:
    """What follows for one roster.

    Attributes:
        neighbours: k, how many others share masks with a device; n - 1 on the complete graph.
        threshold: t, how many shares recover a secret; the device's own share counts on the complete graph.
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


def is_sparse(members: int) -> bool:
    """Say whether a cohort of ``members`` needs a sparse graph, and so the authority's seed."""
    return members > MAX_COMPLETE_GRAPH_MEMBERS


def thresholds(members: int, rules: CohortRules) -> Thresholds:
    """Return k, t, the fewest survivors and the agreement quorum for a roster of ``members``.

    Raises:
        UsageError: ``unsafe-cohort`` or ``cohort-size`` with the reason, where no safe parameters exist.
    """
    if members < max(2, rules.min_survivors) or members > rules.largest:
        raise UsageError(
            "cohort-size",
            f"A cohort of {members} is outside {max(2, rules.min_survivors)} to {rules.largest}, the plan's sizes.",
        )
    neighbours, threshold = _sparse(members, rules) if is_sparse(members) else _complete(members, rules)
    alive = members - share_of(rules.dropout_share, members)
    quorum = int(Fraction(members + share_of(rules.corrupt_share, members), 2)) + 1
    if quorum > alive:
        raise _unsafe(members, rules, f"agreeing needs {quorum} members but only {alive} are sure to remain")
    return Thresholds(neighbours, threshold, max(rules.min_survivors, alive), quorum)


def _unsafe(members: int, rules: CohortRules, reason: str) -> UsageError:
    return UsageError(
        "unsafe-cohort",
        f"With {members} members, {rules.corrupt_share:g} corrupt and {rules.dropout_share:g} dropping out, {reason}.",
        "lower dropout_share or corrupt_share, or wait for larger cohorts",
    )


def _complete(members: int, rules: CohortRules) -> tuple[int, int]:
    """Return k and ``t = floor(n (1 + gamma) / 2) + 1``.

    Two disjoint sets of honest devices can then never both reach t with the corrupt ones' help, so no server obtains
    both shares of one device, certainly and not only with overwhelming probability.
    """
    threshold = int(members * (1 + Fraction(str(rules.corrupt_share))) / 2) + 1
    alive = members - share_of(rules.dropout_share, members)
    if threshold > alive:
        raise _unsafe(members, rules, f"unmasking needs {threshold} members but only {alive} are sure to remain")
    return members - 1, threshold


def _sparse(members: int, rules: CohortRules) -> tuple[int, int]:
    corrupt, gone = (share_of(share, members) for share in (rules.corrupt_share, rules.dropout_share))
    found = _smallest_degree(members, corrupt, gone, rules.adversary)
    if found is None:
        raise _unsafe(members, rules, f"no {MAX_NEIGHBOURS} neighbours or fewer suffice for every member")
    return found


@lru_cache(maxsize=256)
def _smallest_degree(members: int, corrupt: int, gone: int, adversary: Adversary) -> tuple[int, int] | None:
    """Return the smallest even k with its t, None where every k fails.

    t is one more than t1 in semi-honest mode. In semi-malicious mode two disjoint groups of one member's neighbours,
    both helped by t1 corrupt ones, must not both reach t: more than half of k + t1 (so never k / 2 or less).
    """
    if adversary == "semi-malicious" and 2 * gone + corrupt >= members:
        return None  # what remains of a large neighbourhood is no majority beside the corrupt
    subsets = 1  # C(n, k)
    for k in range(2, min(members - 2, MAX_NEIGHBOURS) + 1, 2):
        subsets = subsets * (members - k + 2) * (members - k + 1) // (k * (k - 1))
        if _falls_apart(members, corrupt + gone, k, subsets):
            continue
        most_corrupt = _most(corrupt, members, k, subsets // (members << PRIVACY_BITS + 1))
        threshold = most_corrupt + 1 if adversary == "semi-honest" else (most_corrupt + k) // 2 + 1
        most_gone = _most(gone, members, k, subsets // (members << CORRECTNESS_BITS))
        if threshold <= k - most_gone:
            return k, threshold
    return None


def _falls_apart(members: int, missing: int, k: int, subsets: int) -> bool:
    """Say whether the graph without ``missing`` members is disconnected with probability 2^-41 or more.

    Bound: n (n - k - 1) / 2 pairs of gaps in the ring, each with probability C(B, k) / C(n, k).
    """
    gaps = members * (members - k - 1) * math.comb(missing, k)
    return gaps << PRIVACY_BITS + 1 >= 2 * subsets


def _most(marked: int, members: int, k: int, limit: int) -> int:
    """Return the smallest x such that at most ``limit`` of all k-subsets hold more than x marked members.

    The upper tail of the hypergeometric distribution, counted from its end in whole numbers.
    """
    unmarked = members - marked
    x = min(marked, k)
    ways = math.comb(marked, x) * math.comb(unmarked, k - x)  # subsets with exactly x marked
    total = 0
    while total + ways <= limit and x > max(0, k - unmarked):
        total += ways
        ways = ways * x * (unmarked - k + x) // ((marked - x + 1) * (k - x + 1))
        x -= 1
    return x

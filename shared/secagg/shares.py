"""Shamir's secret sharing over GF(2^256 - 189) (Shamir, CACM 1979)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from shared.errors import UnmaskingFailed
from shared.limits import MAX_SHARE_SUBSETS

PRIME: Final = 2**256 - 189
SECRET_BYTES: Final = 32


def random_secret(random_bytes: Callable[[int], bytes]) -> bytes:
    """Return 32 octets that are uniform below the prime (all but 189 of 2^256 values are)."""
    while True:
        secret = random_bytes(SECRET_BYTES)
        if int.from_bytes(secret, "big") < PRIME:
            return secret


def split(
    secret: bytes, threshold: int, points: Sequence[int], random_bytes: Callable[[int], bytes]
) -> dict[int, bytes]:
    """Return one 32-octet share per point; any ``threshold`` of them recover ``secret``, fewer say nothing.

    Raises:
        ValueError: if points repeat, are not in 1 .. PRIME - 1, or are fewer than the threshold.
    """
    if len(set(points)) != len(points) or len(points) < threshold or not all(0 < x < PRIME for x in points):
        raise ValueError("points must be distinct, non-zero and at least as many as the threshold")
    constant = int.from_bytes(secret, "big")
    if constant >= PRIME:
        raise ValueError("the secret is not below the prime")
    coefficients = [int.from_bytes(random_secret(random_bytes), "big") for _ in range(threshold - 1)]
    return {x: _evaluate([constant, *coefficients], x).to_bytes(SECRET_BYTES, "big") for x in points}


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    # Horner without reduction: x is small, so one big remainder at the end beats many small ones.
    value = 0
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value % PRIME


class Polynomial:
    """The polynomial of degree ``len(shares) - 1`` through the shares, in barycentric form: O(t) per evaluation.

    Args:
        shares: 32 octets by point.
    """

    def __init__(self, shares: Mapping[int, bytes]) -> None:
        points = list(shares)
        # Differences of points are small, so products of them grow slowly and need no reduction.
        weights = _inverses([math.prod(x - other for other in points if other != x) % PRIME for x in points])
        values = (int.from_bytes(share, "big") for share in shares.values())
        self._terms = [(x, weight * value % PRIME) for x, weight, value in zip(points, weights, values, strict=True)]

    def at(self, x: int) -> bytes:
        """Return the value at ``x``, which is none of the shares' points."""
        distances = [x - point for point, _ in self._terms]
        total = sum(
            term * inverse for (_, term), inverse in zip(self._terms, map(_inverse_of_small, distances), strict=True)
        )
        return (math.prod(distances) * total % PRIME).to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=1 << 14)
def _inverse_of_small(value: int) -> int:
    return pow(value, -1, PRIME)


def _inverses(values: Sequence[int]) -> list[int]:
    """Return every inverse modulo the prime at the price of one (Montgomery's trick)."""
    products = list(itertools.accumulate(values, lambda product, value: product * value % PRIME))
    inverse, result = pow(products[-1], -1, PRIME), []
    for value, before in zip(reversed(values), [*products[-2::-1], 1], strict=True):
        result.append(inverse * before % PRIME)
        inverse = inverse * value % PRIME
    return result[::-1]


def interpolate(shares: Mapping[int, bytes], at: int = 0) -> bytes:
    """Return the value at ``at`` of the polynomial of degree ``len(shares) - 1`` through the shares."""
    return shares[at] if at in shares else Polynomial(shares).at(at)


def recover(
    shares: Mapping[int, bytes], threshold: int, is_secret: Callable[[bytes], bool], owner: str
) -> tuple[bytes, frozenset[int]]:
    """Return the secret that ``is_secret`` confirms, and the points whose shares do not fit if any was in the way.

    A share that does not fit was sent by a holder that lies, or dealt by an owner that does: the shares do not tell.

    A wrong share makes its subset miss the commitment; other subsets are tried until one fits: all of them where
    there are few, else ``MAX_SHARE_SUBSETS`` random ones (at t = 34 of 58 they find a right one beside 5 wrong shares
    but for one time in 10^8).

    Raises:
        UnmaskingFailed: ``too-few-shares``, or ``bad-shares`` when no subset fits (the owner itself shared garbage,
            or too many holders lie).
    """
    usable = {x: share for x, share in shares.items() if int.from_bytes(share, "big") < PRIME}
    if len(usable) < threshold:
        raise UnmaskingFailed(
            "too-few-shares",
            f"{len(usable)} shares of {owner}'s secret arrived, {threshold} are needed.",
            "too many members vanished; the round goes on with a new cohort",
        )
    unreadable = frozenset(shares.keys() - usable.keys())
    for tried, points in enumerate(_subsets(sorted(usable), threshold)):
        chosen = {x: usable[x] for x in points}
        polynomial = Polynomial(chosen)
        secret = polynomial.at(0)
        if is_secret(secret):
            # Where the first subset fits, nobody is suspected, and looking at all the others would double the work.
            others = usable.keys() - chosen.keys() if tried else ()
            return secret, unreadable | {x for x in others if polynomial.at(x) != usable[x]}
    raise UnmaskingFailed(
        "bad-shares",
        f"No {threshold} shares fit {owner}'s commitment: it dealt wrong ones, or too many of their holders sent such.",
    )


def _subsets(points: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    # In lexicographic order a wrong first share would be in all of the first 2000 subsets of a large cohort.
    if math.comb(len(points), size) <= MAX_SHARE_SUBSETS:
        yield from itertools.combinations(points, size)
        return
    source = random.Random(0)  # only an order of tries: it need not be secret
    for _ in range(MAX_SHARE_SUBSETS):
        yield tuple(source.sample(points, size))

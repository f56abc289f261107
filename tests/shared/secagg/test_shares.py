"""Shamir's sharing: t shares give the secret, t - 1 give nothing, and liars are found."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnmaskingFailed
from shared.secagg.shares import PRIME, SECRET_BYTES, interpolate, random_secret, recover, split
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

secrets = st.integers(0, PRIME - 1).map(lambda number: number.to_bytes(SECRET_BYTES, "big"))
EDGES = [0, 1, PRIME - 1]


def octets(number: int) -> bytes:
    return number.to_bytes(SECRET_BYTES, "big")


@given(secrets, st.integers(1, 8), st.integers(0, 8), st.integers(0, 2**32), st.data())
def test_any_t_shares_recover_the_secret(
    secret: bytes, threshold: int, spare: int, seed: int, data: st.DataObject
) -> None:
    points = range(1, threshold + spare + 1)
    shares = split(secret, threshold, points, Randomness(str(seed)))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert interpolate({x: shares[x] for x in chosen}) == secret


@pytest.mark.parametrize("number", EDGES)
def test_every_subset_recovers_the_edges_of_the_field(number: int) -> None:
    shares = split(octets(number), 3, range(1, 7), Randomness("edges"))
    for chosen in itertools.combinations(shares, 3):
        assert interpolate({x: shares[x] for x in chosen}) == octets(number)


@given(secrets, secrets, st.integers(2, 6), st.integers(0, 2**32))
def test_one_share_fewer_fits_every_other_secret_equally_well(
    secret: bytes, other: bytes, threshold: int, seed: int
) -> None:
    """For any other secret there is exactly one choice of coefficients that gives a coalition the same shares.

    The coefficients are uniform, so t - 1 shares are as likely under one secret as under another.
    """
    shares = split(secret, threshold, range(1, 8), Randomness(str(seed)))
    seen = {x: shares[x] for x in range(2, threshold + 1)}
    coefficients = coefficients_through({0: other, **seen})
    assert coefficients[0] == int.from_bytes(other, "big")
    drawn = iter([octets(coefficient) for coefficient in coefficients[1:]])
    alternative = split(other, threshold, range(1, 8), lambda _: next(drawn))
    assert {x: alternative[x] for x in seen} == seen


def coefficients_through(points: dict[int, bytes]) -> list[int]:
    """Return the coefficients, constant first, of the polynomial through ``points`` (Newton's divided differences)."""
    xs = list(points)
    table = [int.from_bytes(value, "big") for value in points.values()]
    for order in range(1, len(xs)):
        for i in range(len(xs) - 1, order - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(xs[i] - xs[i - order], -1, PRIME) % PRIME
    result = [0] * len(xs)
    for x, difference in zip(reversed(xs), reversed(table), strict=True):
        # Horner: times X minus x, then the next difference.
        shifted = [0, *result[:-1]]
        result = [(up - x * same) % PRIME for up, same in zip(shifted, result, strict=True)]
        result[0] = (result[0] + difference) % PRIME
    return result


def test_one_share_too_few_is_a_named_failure() -> None:
    shares = split(octets(7), 4, range(1, 6), Randomness("few"))
    with refused("too-few-shares", UnmaskingFailed):
        recover({x: shares[x] for x in (1, 3, 5)}, 4, lambda _: True, "somebody")


@pytest.mark.parametrize("liar", [1, 2, 3, 4, 5])
def test_a_wrong_share_is_worked_around_and_its_holder_named(liar: int) -> None:
    shares = split(octets(7), 3, range(1, 6), Randomness("wrong"))
    shares[liar] = octets(12345)
    in_the_way = {liar} if liar <= 3 else set()  # the first three shares are tried first
    assert recover(shares, 3, octets(7).__eq__, "somebody") == (octets(7), frozenset(in_the_way))


@pytest.mark.parametrize("liars", [{1}, {1, 2, 3}, {62, 63, 64}, {1, 16, 32, 48}])
def test_wrong_shares_in_the_largest_cohort_are_worked_around(liars: set[int]) -> None:
    """The first share is in all of the first C(63, 33) subsets in lexicographic order."""
    shares = split(octets(7), 34, range(1, 65), Randomness("large"))
    shares.update({x: octets(x) for x in liars})
    secret, named = recover(shares, 34, octets(7).__eq__, "somebody")
    assert secret == octets(7)
    assert named in (frozenset(liars), frozenset())  # nobody if the first subset had none of them


@pytest.mark.parametrize("value", [PRIME, 2**256 - 1])
def test_a_share_outside_the_field_is_not_used_and_its_holder_named(value: int) -> None:
    shares = split(octets(7), 3, range(1, 6), Randomness("outside"))
    shares[2] = octets(value)
    assert recover(shares, 3, octets(7).__eq__, "somebody") == (octets(7), frozenset({2}))
    with refused("too-few-shares", UnmaskingFailed):
        recover({x: shares[x] for x in (1, 2, 3)}, 3, octets(7).__eq__, "somebody")


def test_too_many_wrong_shares_fail_by_name() -> None:
    shares = split(octets(7), 3, range(1, 6), Randomness("many"))
    shares.update({x: octets(x) for x in (1, 2, 4)})
    with refused("bad-shares", UnmaskingFailed):
        recover(shares, 3, octets(7).__eq__, "somebody")


@pytest.mark.parametrize("points", [[0, 1, 2], [1, 1, 2], [1, 2], [1, 2, PRIME], [-1, 1, 2]])
def test_points_that_leak_or_collide_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError, match="points must be distinct"):
        split(octets(7), 3, points, Randomness("points"))


def test_a_secret_outside_the_field_is_refused() -> None:
    with pytest.raises(ValueError, match="below the prime"):
        split(octets(PRIME), 2, [1, 2], Randomness("outside"))


def test_random_secrets_are_redrawn_until_below_the_prime() -> None:
    draws = iter([b"\xff" * 32, octets(PRIME), octets(PRIME - 1)])
    assert random_secret(lambda _: next(draws)) == octets(PRIME - 1)

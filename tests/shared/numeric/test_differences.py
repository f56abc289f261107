"""Differences of weights files: exact, and nothing unpacks to more than it should."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.numeric.differences import apply_difference, make_difference
from tests.shared.refusals import refused

BEFORE = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()


@given(st.binary(min_size=1, max_size=300))
def test_it_leads_from_one_file_to_the_other(start: bytes) -> None:
    before = start * 40
    after = bytes((octet + index % 3) % 256 for index, octet in enumerate(before))
    difference = make_difference(before, after)
    assert difference is None or apply_difference(before, difference) == after


def test_a_small_change_is_short() -> None:
    after = bytes([BEFORE[0] ^ 1]) + BEFORE[1:]
    difference = make_difference(BEFORE, after)
    assert difference is not None
    assert len(difference) < 100
    assert apply_difference(BEFORE, difference) == after


def test_there_is_none_where_it_would_not_help() -> None:
    assert make_difference(BEFORE, np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes()) is None
    assert make_difference(BEFORE, BEFORE + b"x") is None


@pytest.mark.parametrize(
    "difference",
    [b"", b"no zlib", zlib.compress(bytes(4999)), zlib.compress(bytes(5001)), zlib.compress(bytes(10**8)),
     zlib.compress(bytes(5000))[:-1], zlib.compress(bytes(5000)) + b"x"],
    ids=["empty", "unreadable", "short", "long", "bomb", "cut", "followed"],
)  # fmt: skip
def test_others_are_refused(difference: bytes) -> None:
    with refused("bad-difference", UsageError):
        apply_difference(BEFORE, difference)

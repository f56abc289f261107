"""The numbers that dropout draws: spread evenly, new in every step, and the same again for the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

COUNT = 200 * 100


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.convert.draw"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_uniform_numbers_fill_the_interval_evenly(found: dict[str, Any]) -> None:
    assert 0 <= found["lowest"] < found["highest"] < 1
    # A count of a tenth has a standard deviation of 42.
    assert all(abs(count - COUNT / 10) < 5 * 42.4 for count in found["tenths"])
    assert abs(found["last"] - 0.5) < 0.02


def test_rows_and_columns_are_no_more_alike_than_chance(found: dict[str, Any]) -> None:
    assert 0.5 < found["row_means"] / (1 / 1200**0.5) < 1.5  # the mean of 100 numbers
    assert 0.5 < found["column_means"] / (1 / 2400**0.5) < 1.5  # the mean of 200


def test_steps_seeds_and_draws_differ_and_repeat(found: dict[str, Any]) -> None:
    assert found["repeats"]
    for name, correlation in found["correlations"].items():
        assert abs(correlation) < 5 / COUNT**0.5, name


def test_normal_numbers_have_the_moments_of_a_normal(found: dict[str, Any]) -> None:
    mean, deviation, largest = found["normal"]
    assert abs(mean) < 0.04
    assert abs(deviation - 1) < 0.03
    assert 3 < largest < 7

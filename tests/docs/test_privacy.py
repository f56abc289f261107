"""The figures and the plan in docs/privacy.md are the code's."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from shared.numeric.noisy_encoding import NoisyEncoding
from shared.plan import Cohort, Plan, Privacy, Update
from shared.privacy.charges import epsilon_of, loss_of

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text("utf-8")
DIMENSION = 10_000


def table(heading: str) -> list[list[float]]:
    """Return the numbers of the table whose head begins with ``heading``."""
    rows = PAGE.split(f"| {heading}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[float(cell) for cell in re.findall(r"[\d.]+", row)] for row in rows]


def plan_with(multiplier: float, largest: int = 64) -> Plan:
    return Plan(
        "a",
        update=Update(lane_bits=32),
        cohort=Cohort(5, largest, 0.05, 0.1),
        privacy=Privacy("skellam", multiplier, 1e-6, 1000, 1000.0),
    )


def test_the_plan_is_valid_but_for_the_size_of_todays_cohorts() -> None:
    text = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    small = text.replace("800", "50").replace("1000", "64")
    plan = Plan.from_toml(small)
    encoding = replace(plan, cohort=Cohort(800, 1000)).encoding(1000, DIMENSION, 0)
    spent = epsilon_of([loss_of(plan, encoding)] * plan.privacy.max_participations, plan.privacy.delta)
    assert 0.9 * plan.privacy.max_epsilon < spent <= plan.privacy.max_epsilon


def test_epsilons_are_right() -> None:
    rows = table("noise_multiplier")
    assert len(rows) == 4
    for multiplier, *cells in rows:
        plan = plan_with(multiplier)
        loss = loss_of(plan, plan.encoding(64, DIMENSION, 0))
        for times, cell in zip((1, 10, 100), cells, strict=True):
            assert epsilon_of([loss] * times, 1e-6) == pytest.approx(cell, rel=0.01, abs=0.05)


def test_the_noise_in_the_mean_is_right() -> None:
    rows = table("members")
    assert [members for members, _ in rows] == [8, 64, 1000]
    for members, cell in rows:
        encoding = plan_with(1.0, int(members)).encoding(int(members), DIMENSION, 0)
        assert isinstance(encoding, NoisyEncoding)
        noise, lanes = encoding.noise, encoding.sizes[0]
        in_mean = math.sqrt(noise.device_variance * members * lanes) * noise.grids[0].step / members
        assert in_mean == pytest.approx(cell, rel=0.05)

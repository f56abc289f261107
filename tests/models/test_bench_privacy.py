"""The simulation of many devices under noise against sums that are known, and what it claims to have spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import rdp
from numpy.typing import NDArray

from models.full_size import FOLDER_VARIABLE
from shared.bundle import TensorSpec
from shared.errors import UsageError
from shared.layout import Layout
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.plan import Cohort, Plan, Privacy, Training, Update
from shared.privacy.rdp import ORDERS
from tests.models.test_baselines import DEVICES, START, TENSORS, MeanSeeker
from tests.shared.cohort_simulation import Randomness
from tools.bench.privacy import (
    DELTA,
    MAX_EPSILON,
    MEMBERS,
    NOISY,
    ROUNDS,
    SETTINGS,
    Setting,
    epsilon_after,
    measure,
    results,
    train,
)

PLAN = Plan(
    "a",
    training=Training(learning_rate=1.0),
    cohort=Cohort(2, 2, 0.0, 0.0),
    update=Update(max_l2_norm=4.0, lane_bits=32),
)
PARAMETERS = 20_746  # of the network for digits


def weights_of(plan: Plan, rounds: int = 1, seed: str = "a", *, plain: bool = False) -> NDArray[np.float32]:
    setting = Setting(plan, plain=plain)
    return train(MeanSeeker(), TENSORS, START, DEVICES, setting, rounds, 1, Randomness(seed))


def test_lanes_and_int8_weights_change_a_mean_by_their_rounding_alone() -> None:
    plan = replace(PLAN, update=replace(PLAN.update, max_weight=100))
    np.testing.assert_allclose(weights_of(plan, plain=True), [0.75, 0.75], rtol=1e-6)
    np.testing.assert_allclose(weights_of(plan), [0.75, 0.75], rtol=1e-4)


def test_updates_are_clipped_before_they_are_added() -> None:
    plan = replace(PLAN, update=Update(max_l2_norm=0.1, lane_bits=32))
    np.testing.assert_allclose(weights_of(plan), [0.05 / np.sqrt(2)] * 2, rtol=1e-4)


def test_noise_has_the_deviation_that_epsilon_was_computed_for() -> None:
    plan = replace(PLAN, privacy=Privacy("skellam", 0.2, 1e-5, 10, 1000.0))
    found = np.array([weights_of(plan, seed=f"{number}") for number in range(400)])
    encoding = plan.encoding(2, 2, 0)
    assert isinstance(encoding, NoisyEncoding)
    expected = np.sqrt(encoding.noise.variance) * encoding.noise.grids[0].step / 2
    assert float(found.std(axis=0).mean()) == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(found.mean(axis=0), [0.5, 0.5], atol=5 * expected / 20)


def test_the_benched_noise_spends_the_epsilon_that_it_names() -> None:
    layout = Layout.of([TensorSpec("all", (PARAMETERS,), 0, PARAMETERS, "shared")])
    spent = epsilon_after(NOISY, layout, MEMBERS, ROUNDS)
    assert 0.95 * MAX_EPSILON < spent <= MAX_EPSILON
    assert DELTA < MEMBERS**-1.1
    assert Plan.from_bytes(NOISY.to_bytes()) == NOISY
    gaussian = [ROUNDS * order / (2 * NOISY.privacy.noise_multiplier**2) for order in ORDERS]
    assert spent == pytest.approx(float(rdp.compute_epsilon(list(ORDERS), gaussian, DELTA)[0]), rel=0.01)


def test_every_comparison_is_reported_with_its_own_figures() -> None:
    shares = dict(zip(SETTINGS, (0.1, 0.2, 0.3, 0.4), strict=True))
    found = results(shares, 7.9, 539)
    assert (found[0].value, found[0].reference_value) == (7.9, MAX_EPSILON)
    pairs = [(result.value, result.reference_value) for result in found[1:]]
    assert pairs == [(0.1, 0.2), (0.1, 0.4), (0.2, 0.4), (0.3, 0.4)]
    assert len({result.name for result in found}) == 5


@pytest.mark.parametrize("there", [False, True])
def test_without_the_full_data_it_says_so_before_anything_is_converted(
    *, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    if there:
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=r"mnist\.npz") as raised:
        measure()
    assert raised.value.code == ("full-size-file" if there else "full-size-unset")

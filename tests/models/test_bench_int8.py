"""``fedloom bench int8`` on a small task of which it is known what every twin must answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_client.trainer.protocol import Examples, TrainingRecipe
from edge_client.trainer.runtime import installed_runtimes
from tools.bench.int8 import Case, compare
from tools.bench.report import Result, to_json

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # three conversions, on a machine that may be busy

CASE = Case("line", "tests.models.networks:small", TrainingRecipe("fedavg", 60, 0.2), calibrated_on=60)
WRONG = 4  # every fourth test example has a wrong label
TWINS = ("dynamic range", "full integer, stale ranges", "full integer, own ranges")


def line(count: int, seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 4, count)
    x = 2.0 * y - 3.0 + generator.uniform(-0.3, 0.3, count)
    return Examples(x[:, None].astype(np.float32), y.astype(np.int32))


@pytest.fixture(scope="module")
def found() -> dict[str, Result]:
    test = line(80, 2)
    y = np.where(np.arange(80) % WRONG == 0, (test.y + 2) % 4, test.y).astype(np.int32)
    return {result.name: result for result in compare(CASE, line(240, 1), Examples(np.asarray(test.x), y))}


def test_every_twin_is_reported_on_every_runtime_beside_float(found: dict[str, Result]) -> None:
    accuracies = {f"int8/line/{twin} on {runtime}" for twin in TWINS for runtime in installed_runtimes()}
    assert set(found) == accuracies | {"int8/line/patch, d = 100"}
    rows = json.loads(to_json(list(found.values())))["results"]
    assert all(
        row.keys() == {"name", "value", "unit", "reference", "reference_value", "ratio"} and row["value"] is not None
        for row in rows
    )
    assert {(found[name].unit, found[name].reference) for name in accuracies} == {("share", "float")}
    patch = found["int8/line/patch, d = 100"]
    assert (patch.unit, patch.reference) == ("ms", "dynamic range")
    assert patch.value > 0
    assert patch.reference_value > 0


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_accuracy_is_that_of_the_trained_weights_on_the_test_examples(found: dict[str, Result], runtime: str) -> None:
    """A trained model gets all examples right but those with a wrong label, which only the test examples have."""
    for twin in ("dynamic range", "full integer, own ranges"):
        result = found[f"int8/line/{twin} on {runtime}"]
        assert (result.value, result.reference_value) == pytest.approx((1 - 1 / WRONG, 1 - 1 / WRONG))


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_ranges_of_the_untrained_model_are_stale(found: dict[str, Result], runtime: str) -> None:
    stale, own = (found[f"int8/line/full integer, {kind} ranges on {runtime}"] for kind in ("stale", "own"))
    assert stale.reference_value == own.reference_value
    assert stale.value < own.value - 0.2

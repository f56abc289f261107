"""The TFLite trainer: its arithmetic against closed forms, and what it says about examples that do not fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client.trainer.protocol import Examples, Trainer, TrainingDiverged, TrainingRecipe
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import Bundle, initial_weights
from shared.errors import UsageError
from shared.layout import Layout

ROOT = Path(__file__).parents[2]
ONE_STEP = TrainingRecipe("fedavg", epochs=1, learning_rate=0.05, max_steps=1)


@pytest.fixture(scope="module")
def trainer(activity_bundle: Bundle) -> Trainer:
    return TfliteTrainer(activity_bundle)


@pytest.fixture(scope="module")
def start(activity_bundle: Bundle) -> Any:  # noqa: ANN401 - an array
    return initial_weights(activity_bundle)


def examples(count: int, seed: int = 0) -> Examples:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 100, 6)).astype(np.float32)
    return Examples(x, generator.integers(0, 7, count).astype(np.int32))


def test_training_learns(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    data = examples(40)
    recipe = TrainingRecipe("fedavg", epochs=30, learning_rate=0.1)
    trained = trainer.train(start, data, recipe, shuffle_seed=1)
    assert trained.steps == 30 * 3
    assert trained.examples == 40
    assert trainer.evaluate(trained.weights, data).correct >= 36
    assert trainer.evaluate(trained.weights, data).loss_sum < trainer.evaluate(start, data).loss_sum / 2


def test_weight_decay_shrinks_by_its_rate(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    plain = trainer.train(start, examples(16), ONE_STEP, 1).weights
    decayed = trainer.train(start, examples(16), replace(ONE_STEP, inputs={"weight_decay": 0.5}), 1).weights
    np.testing.assert_allclose(decayed, plain - 0.05 * 0.5 * start, rtol=0, atol=1e-6)


def test_an_input_that_the_program_lacks_is_named_with_the_nearest(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match="weight_decya") as caught:
        trainer.train(start, examples(16), replace(ONE_STEP, inputs={"weight_decya": 0.5}), 1)
    assert caught.value.code == "unknown-training-input"
    assert "weight_decay" in caught.value.remedy


def test_same_seed_gives_the_same_bits(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    recipe = TrainingRecipe("fedavg", epochs=2, learning_rate=0.05)
    one, same, other = (trainer.train(start, examples(40), recipe, seed).weights for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_a_partial_batch_counts_only_its_own_rows(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    five = examples(5)
    twice = Examples(np.concatenate([five.x, five.x]), np.concatenate([five.y, five.y]))
    one, two = trainer.gradient_sum(start, five), trainer.gradient_sum(start, twice)
    assert (one.examples, two.examples) == (5, 10)
    np.testing.assert_allclose(two.total, 2 * one.total, rtol=0, atol=2e-5)
    assert trainer.evaluate(start, five).count == 5


def test_gradient_sum_adds_over_examples(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    data = examples(37)
    x = np.asarray(data.x)
    parts = [Examples(x[part], data.y[part]) for part in (slice(0, 20), slice(20, 37))]
    whole = trainer.gradient_sum(start, data).total
    np.testing.assert_allclose(whole, sum(trainer.gradient_sum(start, part).total for part in parts), atol=1e-4)


def test_a_full_gradient_drops_others_in_every_batch_and_with_every_seed(dropping_bundle: Bundle) -> None:
    trainer, weights = TfliteTrainer(dropping_bundle), initial_weights(dropping_bundle)
    shape = dropping_bundle.manifest.inputs[0].shape
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    once = Examples(x, np.zeros(len(x), np.int32))
    twice = Examples(np.concatenate([x, x]), np.zeros(2 * len(x), np.int32))
    one, same, other = (trainer.gradient_sum(weights, once, seed).total for seed in (1, 1, 999))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(trainer.gradient_sum(weights, twice, 1).total - 2 * one).max() > 1e-3


def test_gradient_is_the_slope_of_the_loss(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    data = examples(24)
    gradient = trainer.gradient_sum(start, data).total
    direction = gradient / np.linalg.norm(gradient)
    after, before = (trainer.evaluate(start + h * direction, data).loss_sum for h in (1e-3, -1e-3))
    assert (after - before) / 2e-3 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_statistics_have_no_gradient_and_move_by_one_pass(personal_bundle: Bundle) -> None:
    """Keras' rule, batch by batch in the examples' order: moment = momentum * moment + (1 - momentum) * batch's."""
    trainer, layout = TfliteTrainer(personal_bundle), Layout.of(personal_bundle.manifest.tensors)
    generator = np.random.default_rng(2)
    inputs = personal_bundle.manifest.inputs[0].shape[1]
    x = generator.normal(1.5, 2.0, (12, inputs)).astype(np.float32)
    data = Examples(x, generator.integers(0, 3, 12).astype(np.int32))
    weights = initial_weights(personal_bundle)
    full = trainer.gradient_sum(weights, data)
    mean, variance, momentum = np.zeros(inputs), np.ones(inputs), 0.1
    for batch in np.split(x.astype(np.float64), 3):
        mean = momentum * mean + (1 - momentum) * batch.mean(axis=0)
        variance = momentum * variance + (1 - momentum) * batch.var(axis=0)
    np.testing.assert_allclose(layout.statistics.take(full.moved), np.concatenate([mean, variance]), rtol=1e-5)
    assert not layout.statistics.take(full.total).any()
    for part in (layout.shared, layout.local):
        np.testing.assert_array_equal(part.take(full.moved), part.take(weights))
    # Batch normalisation trains with the batch's moments, so the kept ones change no gradient.
    elsewhere = trainer.gradient_sum(full.moved, data)
    np.testing.assert_allclose(elsewhere.total, full.total, rtol=0, atol=2e-2)
    assert np.abs(layout.shared.take(full.total)).max() > 1


def test_fedsgd_is_one_step_along_the_mean_gradient(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    data = examples(40)
    full = trainer.gradient_sum(start, data)
    trained = trainer.train(start, data, TrainingRecipe("fedsgd", 1, 0.5), 0)
    np.testing.assert_allclose(trained.weights, start - 0.5 * full.total / full.examples, atol=1e-6)


def test_the_proximal_term_pulls_to_the_start(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    def distance(mu: float) -> float:
        recipe = TrainingRecipe("fedavg", epochs=10, learning_rate=0.05, proximal_mu=mu)
        return float(np.linalg.norm(trainer.train(start, examples(40), recipe, 1).weights - start))

    assert distance(5.0) < 0.5 * distance(0.0)


def test_max_steps_bounds_the_work(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    assert trainer.train(start, examples(40), ONE_STEP, 1).steps == 1
    none = TrainingRecipe("fedavg", epochs=1, learning_rate=0.05, max_steps=0)
    np.testing.assert_array_equal(trainer.train(start, examples(40), none, 1).weights, start)


def test_divergence_is_an_error(trainer: Trainer, start: Any) -> None:  # noqa: ANN401
    with pytest.raises(TrainingDiverged) as caught:
        trainer.train(start, examples(40), TrainingRecipe("fedavg", 30, 1e6), 1)
    assert caught.value.code == "training-diverged"
    assert "learning rate" in caught.value.remedy


@pytest.mark.parametrize(
    ("x", "y", "code"),
    [
        (np.zeros((3, 99, 6), np.float32), np.zeros(3, np.int32), "examples-shape"),
        (np.zeros((3, 100, 6), np.float64), np.zeros(3, np.int32), "examples-shape"),
        (np.zeros((2, 100, 6), np.float32), np.zeros(3, np.int32), "examples-shape"),
        (np.full((3, 100, 6), np.nan, np.float32), np.zeros(3, np.int32), "examples-values"),
        (np.zeros((3, 100, 6), np.float32), np.full(3, 7), "examples-labels"),
        (np.zeros((3, 100, 6), np.float32), np.full(3, -1), "examples-labels"),
        (np.zeros((3, 100, 6), np.float32), np.zeros((3, 1), np.int32), "examples-labels"),
        (np.zeros((3, 100, 6), np.float32), np.zeros(3, np.float32), "examples-labels"),
        (np.zeros((0, 100, 6), np.float32), np.zeros(0, np.int32), "examples-empty"),
    ],
)
def test_examples_that_do_not_fit_are_refused(trainer: Trainer, start: Any, x: Any, y: Any, code: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError) as caught:
        trainer.train(start, Examples(x, y), ONE_STEP, 1)
    assert caught.value.code == code


def test_weights_of_another_model_are_refused(trainer: Trainer) -> None:
    with pytest.raises(UsageError, match="weights-shape"):
        trainer.evaluate(np.zeros(3, np.float32), examples(3))


ON_A_DEVICE = """
import importlib.util, pathlib, sys
import numpy as np
from edge_client.trainer.protocol import Examples, TrainingRecipe
from edge_client.trainer.runtime import InferenceModel, installed_runtimes
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import initial_weights, read_bundle
bundle = read_bundle(pathlib.Path(sys.argv[1]))
generator = np.random.default_rng(0)
data = Examples(generator.normal(size=(40, 100, 6)).astype(np.float32), np.arange(40) % 7)
trainer = TfliteTrainer(bundle)
trained = trainer.train(initial_weights(bundle), data, TrainingRecipe("fedavg", 3, 0.05), 1)
int8 = InferenceModel(bundle.files["infer_int8.tflite"]).predict(data.x[:2])
assert np.isfinite(trained.weights).all() and int8.shape == (2, 7)
assert importlib.util.find_spec("tensorflow") is None and "tensorflow" not in sys.modules
print(installed_runtimes()[0], trainer.evaluate(trained.weights, data).loss_sum)
"""


@pytest.mark.parametrize("environment", [".venv-edge", ".venv-edge-tflite"])
def test_a_device_environment_trains_without_tensorflow(activity_folder: Path, environment: str) -> None:
    python = ROOT / environment / "bin" / "python"
    if not python.exists() and sys.version_info >= (3, 12):
        return  # tflite-runtime has no wheels beyond Python 3.11
    command = [str(python), "-c", ON_A_DEVICE, str(activity_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    name, loss = done.stdout.split()[-2:]
    assert name == {".venv-edge": "ai-edge-litert", ".venv-edge-tflite": "tflite-runtime"}[environment]
    assert 0 < float(loss) < 40 * np.log(7) * 1.2

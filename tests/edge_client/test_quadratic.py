"""The textbook engine against its closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_client import contribution
from edge_client.trainer.protocol import Examples, TrainingDiverged, TrainingRecipe
from edge_client.trainer.quadratic import QuadraticTrainer
from shared.layout import Layout, Part
from shared.plan import Plan, Server, Training
from tests.edge_client.aggregator import DIMENSION, quadratic_manifest
from tests.shared.refusals import refused

X = np.random.default_rng(1).normal(size=(10, DIMENSION)).astype(np.float32)
EXAMPLES = Examples(X, np.zeros(10, np.int32))
THETA = np.full(DIMENSION, 0.5, np.float32)
TRAINER = QuadraticTrainer(quadratic_manifest())


def test_gradient_and_loss() -> None:
    full = TRAINER.gradient_sum(THETA, EXAMPLES)
    np.testing.assert_allclose(full.total, 2 * (THETA - X).sum(axis=0), rtol=1e-5)
    result = TRAINER.evaluate(THETA, EXAMPLES)
    assert (full.examples, result.count, result.correct) == (10, 10, 0)
    assert result.loss_sum == pytest.approx(float(((THETA - X) ** 2).sum()))


def test_sgd_reaches_the_mean() -> None:
    recipe = TrainingRecipe("fedavg", 200, 0.01)
    trained = TRAINER.train(THETA, EXAMPLES, recipe, 1)
    np.testing.assert_allclose(trained.weights, X.mean(axis=0), atol=0.1)
    assert trained.steps == 200 * 3
    assert TRAINER.train(THETA, EXAMPLES, recipe, 1).weights.tolist() == trained.weights.tolist()
    assert TRAINER.train(THETA, EXAMPLES, dataclasses.replace(recipe, max_steps=7), 1).steps == 7


def test_what_is_frozen_stays() -> None:
    frozen = Part((slice(1, 3),))
    recipe = TrainingRecipe("fedavg", 3, 0.01)
    free = TRAINER.train(THETA, EXAMPLES, recipe, 1).weights
    held = TRAINER.train(THETA, EXAMPLES, dataclasses.replace(recipe, frozen=frozen), 1).weights
    np.testing.assert_array_equal(held, frozen.replace(free, frozen.take(THETA)))


def test_fedsgd_takes_one_mean_step() -> None:
    trained = TRAINER.train(THETA, EXAMPLES, TrainingRecipe("fedsgd", 1, 0.1), 1)
    np.testing.assert_allclose(trained.weights, THETA - 0.2 * (THETA - X).mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("combine", "divisor"), [("sum", 1), ("mean", 10)])
def test_a_fedsgd_update_is_minus_the_gradient(combine: str, divisor: int) -> None:
    server = dataclasses.replace(Server(), combine=combine)  # type: ignore[arg-type] # one of the two choices
    plan = Plan("point", training=Training(method="fedsgd"), server=server)
    trained = contribution.local_update(TRAINER, THETA, EXAMPLES, plan, Layout.of(quadratic_manifest().tensors), 1)
    update = trained.update
    np.testing.assert_allclose(update.values, -2 * (THETA - X).sum(axis=0) / divisor, rtol=1e-5)
    assert (update.examples, trained.mean_loss) == (10, None)


def test_divergence_is_named() -> None:
    with refused("training-diverged", TrainingDiverged):
        TRAINER.train(THETA, EXAMPLES, TrainingRecipe("fedavg", 500, 1e6), 1)


@pytest.mark.parametrize(
    ("code", "examples"),
    [
        ("examples-empty", Examples(X[:0], np.zeros(0))),
        ("examples-shape", Examples(X[:, :2], np.zeros(10))),
        ("examples-shape", Examples(X.astype(np.float64), np.zeros(10))),
        ("examples-values", Examples(X * np.float32("inf"), np.zeros(10))),
    ],
)
def test_examples_must_fit(code: str, examples: Examples) -> None:
    with refused(code):
        TRAINER.evaluate(THETA, examples)


def test_no_held_out_examples_are_counted_as_none() -> None:
    evaluation = contribution.evaluate(TRAINER, THETA, Examples(X[:0], np.zeros(0)))
    assert (evaluation.count, evaluation.loss_sum) == (0, 0.0)


def test_weights_that_diverged_are_judged_all_the_same() -> None:
    far = np.full(DIMENSION, np.inf, np.float32)
    assert TRAINER.evaluate(far, EXAMPLES).loss_sum == np.inf

"""The textbook model in NumPy: one point theta, f32[d], and the loss of an example x_i is ||theta - x_i||^2.

Its minimum is the mean of all examples, wherever they are, and a gradient step of rate alpha over all of them
is ``theta - 2 alpha sum(theta - x_i)``: federated and central training can be compared digit by digit. Labels
are ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.protocol import (
    F32,
    BeforeBatch,
    Evaluation,
    Examples,
    FullGradient,
    Trained,
    TrainingDiverged,
    TrainingRecipe,
    go_on,
)
from shared.bundle import BundleManifest
from shared.errors import UsageError

F64 = NDArray[np.float64]


class QuadraticTrainer:
    """The engine for bundles without programs; computes in f64, gives and takes f32."""

    def __init__(self, manifest: BundleManifest, before_batch: BeforeBatch = go_on) -> None:
        self._before_batch = before_batch
        self._batch_size = manifest.batch_size
        self._parameters = manifest.parameters

    @property
    def parameters(self) -> int:
        """The number of weights, d."""
        return self._parameters

    def train(self, weights: F32, examples: Examples, recipe: TrainingRecipe, shuffle_seed: int) -> Trained:
        """Take SGD steps on shuffled batches, or one full step (fedsgd); raises as the protocol says."""
        x = self._checked(weights, examples)
        batches = [np.arange(len(x))] if recipe.method == "fedsgd" else self._batches(len(x), recipe, shuffle_seed)
        start = weights.astype(np.float64)
        theta, loss_sum = start.copy(), 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is checked once, at the end
            for rows in batches:
                self._before_batch()
                distance = theta - x[rows]
                loss_sum += float(np.sum(distance**2))
                pull = recipe.proximal_mu * (theta - start)
                moved = theta - recipe.learning_rate * (2.0 * distance.mean(axis=0) + pull)
                theta = recipe.frozen.replace(moved, recipe.frozen.take(start))
        return Trained(_finite(theta), len(x), len(batches), loss_sum / sum(len(rows) for rows in batches))

    def _batches(self, examples: int, recipe: TrainingRecipe, shuffle_seed: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng(shuffle_seed)
        batches: list[NDArray[np.int64]] = []
        for _ in range(recipe.epochs):
            rows = generator.permutation(examples)
            batches += [rows[i : i + self._batch_size] for i in range(0, examples, self._batch_size)]
        return batches[: recipe.max_steps]

    def gradient_sum(self, weights: F32, examples: Examples, seed: int = 0) -> FullGradient:  # noqa: ARG002
        """Return ``2 sum(theta - x_i)``, f32[d]; the model has no statistics that move."""
        x = self._checked(weights, examples)
        self._before_batch()
        return FullGradient(_finite(2.0 * (weights.astype(np.float64) - x).sum(axis=0)), len(x), weights)

    def evaluate(self, weights: F32, examples: Examples) -> Evaluation:
        """Return the summed loss; a distance has no right or wrong, so ``correct`` is 0."""
        x = self._checked(weights, examples)
        loss = np.sum((weights.astype(np.float64) - x) ** 2)
        return Evaluation(float(loss), 0, len(x))

    def _checked(self, weights: F32, examples: Examples) -> F64:
        if weights.shape != (self._parameters,) or weights.dtype != np.float32:
            raise UsageError(
                "weights-shape",
                f"weights are {weights.dtype}{list(weights.shape)}, expected float32[{self._parameters}]",
            )
        if not len(examples):
            raise UsageError("examples-empty", "there are no examples", "give the device data before it trains")
        x: NDArray[Any] | None = examples.inputs().get("x")
        if x is None or x.shape != (len(examples), self._parameters) or x.dtype != np.float32:
            got = "missing" if x is None else f"{x.dtype}{list(x.shape)}"
            raise UsageError(
                "examples-shape",
                f"x is {got}, expected float32[{len(examples)}, {self._parameters}]",
                "convert the examples as the task describes them",
            )
        if not np.isfinite(x).all():
            raise UsageError("examples-values", "x holds infinite values or NaN", "remove these examples")
        return x.astype(np.float64)


def _finite(values: F64) -> F32:
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise TrainingDiverged(
            "training-diverged", "a value became infinite or not a number", "lower the plan's learning rate"
        )
    return narrow

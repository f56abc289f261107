"""Training inside a stock TFLite runtime: the signatures of ``train.tflite``, driven batch by batch.

The last batch is filled up with copies of its own examples whose mask is 0. They count for neither loss nor
gradient, and batch normalisation sees real values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.protocol import (
    BeforeBatch,
    Evaluation,
    Examples,
    FullGradient,
    Trained,
    TrainingDiverged,
    TrainingRecipe,
    go_on,
)
from edge_client.trainer.runtime import load_interpreter
from shared.bundle import TRAIN_FILE, Bundle
from shared.errors import UsageError
from shared.layout import Layout
from shared.training_inputs import GRADIENT_RATE, Inputs, gradient_inputs, step_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

F32: TypeAlias = NDArray[np.float32]
Batch: TypeAlias = dict[str, NDArray[Any]]


class TfliteTrainer:
    """The engine for bundles with a ``train.tflite``.

    Args:
        bundle: a verified bundle.
        num_threads: of the runtime; more than the device has idle slow it down.
        runtime: "ai-edge-litert" or "tflite-runtime"; by default the one that is installed.
        before_batch: asked before each batch of a training or an evaluation.
    """

    def __init__(
        self,
        bundle: Bundle,
        num_threads: int = 1,
        runtime: str | None = None,
        before_batch: BeforeBatch = go_on,
    ) -> None:
        self._before_batch = before_batch
        self._manifest = bundle.manifest
        self._interpreter = load_interpreter(bundle.files[TRAIN_FILE], num_threads, runtime)
        names = ("set_weights", "get_weights", "train", "evaluate", "infer")
        runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        self._set, self._get, self._train, self._evaluate, self._infer = (runners[name] for name in names)
        self._classes: int | None = None

    @property
    def parameters(self) -> int:
        """The number of weights, d."""
        return self._manifest.parameters

    def train(self, weights: F32, examples: Examples, recipe: TrainingRecipe, shuffle_seed: int) -> Trained:
        """Train from ``weights``; the same seed gives the same order of examples.

        Raises:
            UsageError: "examples-shape", "examples-labels", "examples-values", "examples-empty" or
                "unknown-training-input".
            TrainingDiverged: "training-diverged", at the end of all steps; "training-failed".
        """
        if recipe.method == "fedsgd":
            return self._one_step(weights, examples, recipe, shuffle_seed)
        self._check(examples)
        inputs = step_inputs(
            self._manifest,
            rate=recipe.learning_rate,
            mu=recipe.proximal_mu,
            seed=shuffle_seed,
            values=recipe.inputs,
        )
        self._start(weights)
        generator = np.random.default_rng(shuffle_seed)
        steps, seen, loss_sum = 0, 0, 0.0
        while (steps < recipe.max_steps) if recipe.max_steps is not None else True:
            epoch, within = divmod(steps, self._batches(len(examples)))
            if epoch >= recipe.epochs:
                break
            if within == 0:
                order = generator.permutation(len(examples))
            self._before_batch()
            batch, count = self._batch(examples, order, within)
            loss_sum += self._step(batch, inputs) * count  # finite or not: how long training takes must not tell
            if recipe.frozen.size:
                self._set(weights=recipe.frozen.replace(self._get()["weights"], recipe.frozen.take(weights)))
            steps, seen = steps + 1, seen + count
        _require_finite_loss(loss_sum)
        return Trained(_finite(self._weights()), len(examples), steps, loss_sum / max(seen, 1))

    def gradient_sum(self, weights: F32, examples: Examples, seed: int = 0) -> FullGradient:
        """Return the sum of all examples' loss gradients at ``weights``, f32[d].

        One SGD step per batch, each from the same weights, gives (before - after) / rate: the batch's mean
        gradient. Statistics alone go on from batch to batch; in training they are not read. Raises as ``train``.
        """
        return self._gradient(weights, examples, seed)[0]

    def evaluate(self, weights: F32, examples: Examples) -> Evaluation:
        """Return loss and hits of ``weights`` on ``examples``; raises UsageError as ``train``.

        The loss of weights that diverged is returned as it is: a round may still repair them. So is NaN where the
        runtime cannot compute it.
        """
        self._check(examples)
        self._start(weights)
        sums = np.zeros(2)
        try:
            with np.errstate(invalid="ignore"):
                for batch, _ in self._all_batches(examples):
                    self._before_batch()
                    got = self._evaluate(**batch)
                    sums += [float(got[name][0]) for name in ("loss_sum", "metric_sum")]
        except (RuntimeError, ValueError):
            sums[:] = np.nan
        counted = self._manifest.metric == "accuracy" and np.isfinite(sums[1])
        return Evaluation(float(sums[0]), round(sums[1]) if counted else 0, len(examples))

    def predict(self, weights: F32, examples: Examples) -> F32:
        """Return the model's outputs f32[n, ...]; raises as ``train``."""
        self._check(examples)
        self._start(weights)
        outputs = []
        for batch, count in self._all_batches(examples):
            inputs = {spec.name: batch[spec.name] for spec in self._manifest.inputs}
            outputs.append(self._infer(**inputs)["y"][:count])
        return np.concatenate(outputs)

    def _one_step(self, weights: F32, examples: Examples, recipe: TrainingRecipe, seed: int) -> Trained:
        full, loss_sum = self._gradient(weights, examples, seed)
        count = len(examples)
        stepped = full.moved - np.float32(recipe.learning_rate) * (full.total / np.float32(count))
        return Trained(stepped, count, self._batches(count), loss_sum / count)

    def _gradient(self, weights: F32, examples: Examples, seed: int) -> tuple[FullGradient, float]:
        self._check(examples)
        statistics = Layout.of(self._manifest.tensors).statistics
        start, total, loss_sum = weights, np.zeros(self.parameters), 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is checked once, at the end
            for number, (batch, count) in enumerate(self._all_batches(examples)):
                self._start(start)
                self._before_batch()
                # Dropout drops others in every batch: a number of its own, as the step is the first one each time.
                loss_sum += self._step(batch, gradient_inputs(self._manifest, seed + number)) * count
                after = self._weights()
                total += (start.astype(np.float64) - after) * (count / GRADIENT_RATE)
                start = statistics.replace(weights, statistics.take(after))
            narrow = statistics.replace(total, np.zeros(statistics.size)).astype(np.float32)
        _require_finite_loss(loss_sum)
        return FullGradient(_finite(narrow), len(examples), _finite(start)), loss_sum

    def _start(self, weights: F32) -> None:
        if weights.shape != (self.parameters,) or weights.dtype != np.float32:
            raise UsageError(
                "weights-shape",
                f"weights are {weights.dtype}{list(weights.shape)}, expected float32[{self.parameters}]",
            )
        self._set(weights=weights)

    def _step(self, batch: Batch, inputs: Inputs) -> float:
        try:
            return float(self._train(**batch, **inputs)["loss"][0])
        except (RuntimeError, ValueError) as error:
            raise TrainingDiverged(
                "training-failed", f"the runtime cannot run a step: {error}", "tell the operator: all devices run it"
            ) from error

    def _weights(self) -> F32:
        weights: F32 = self._get()["weights"].copy()
        return weights

    def _batches(self, examples: int) -> int:
        return -(-examples // self._manifest.batch_size)

    def _all_batches(self, examples: Examples) -> Iterator[tuple[Batch, int]]:
        order = np.arange(len(examples))
        return (self._batch(examples, order, index) for index in range(self._batches(len(examples))))

    def _batch(self, examples: Examples, order: NDArray[np.int64], index: int) -> tuple[Batch, int]:
        """Return the arguments of one call and how many of its rows count."""
        size = self._manifest.batch_size
        rows = order[index * size : (index + 1) * size]
        filled = np.resize(rows, size)  # repeats the rows
        batch: Batch = {name: values[filled] for name, values in examples.inputs().items()}
        batch["y"] = examples.y[filled].astype(self._manifest.labels.dtype)
        batch["mask"] = (np.arange(size) < len(rows)).astype(np.float32)
        return batch, len(rows)

    def _check(self, examples: Examples) -> None:
        if len(examples) == 0:
            raise UsageError("examples-empty", "there are no examples", "give the device data before it trains")
        inputs = examples.inputs()
        for spec in self._manifest.inputs:
            values = inputs.get(spec.name)
            expected = (len(examples), *spec.shape[1:])
            if (
                values is None
                or values.shape != expected
                or values.dtype != spec.dtype
                or len(inputs) != len(self._manifest.inputs)
            ):
                got = "missing" if values is None else f"{values.dtype}{list(values.shape)}"
                raise UsageError(
                    "examples-shape",
                    f"{spec.name} is {got}, expected {spec.dtype}{list(expected)}",
                    "convert the examples as the task describes them",
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise UsageError(
                    "examples-values", f"{spec.name} holds infinite values or NaN", "remove these examples"
                )
        self._check_labels(examples.y)

    def _check_labels(self, y: NDArray[Any]) -> None:
        spec = self._manifest.labels
        sparse = spec.dtype == "int32"
        if y.shape[1:] != spec.shape[1:] or (y.dtype.kind not in "iu" if sparse else y.dtype != spec.dtype):
            raise UsageError(
                "examples-labels",
                f"y is {y.dtype}{list(y.shape)}, expected {spec.dtype}{[len(y), *spec.shape[1:]]}",
            )
        if sparse and not (y.min() >= 0 and y.max() < self._class_count()):
            raise UsageError(
                "examples-labels",
                f"labels are {y.min()} to {y.max()}, expected 0 to {self._class_count() - 1}",
                "number the classes from 0",
            )

    def _class_count(self) -> int:
        """The size of the model's output, which the manifest does not state: run it once on nothing."""
        if self._classes is None:
            self._set(weights=np.zeros(self.parameters, np.float32))
            zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self._manifest.inputs}
            self._classes = int(self._infer(**zeros)["y"].shape[-1])
        return self._classes


def _require_finite_loss(loss_sum: float) -> None:
    if not np.isfinite(loss_sum):
        raise _diverged("the loss")


def _finite(weights: F32) -> F32:
    if not np.isfinite(weights).all():
        raise _diverged("a weight")
    return weights


def _diverged(what: str) -> TrainingDiverged:
    return TrainingDiverged(
        "training-diverged", f"{what} became infinite or not a number", "lower the plan's learning rate"
    )

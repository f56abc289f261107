"""What TensorFlow says the training program must compute: the case that every runtime is measured against.

The gradients come from TensorFlow's own rules and the losses from Keras: nothing of the lowered program is
used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.convert.losses import Loss, per_example_mean
from tools.convert.random_numbers import Randomness
from tools.convert.tf import Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.convert.program import Program
    from tools.convert.source import ModelInput, SourceModel

Array: TypeAlias = NDArray[Any]

_BATCHES = 3  # the last one is partly masked
_RATE, _MU = 0.05, 0.1


def make_case(source: SourceModel, loss: Loss, program: Program, batch_size: int) -> tuple[dict[str, Array], float]:
    """Return the arrays of ``case.npz`` and TensorFlow's own time for a step in milliseconds."""
    generator = np.random.default_rng(1602)
    weights = [_perturbed(weight.value, generator, positive=not weight.trainable) for weight in source.weights]
    batches = [_batch(source, loss, program, batch_size, generator) for _ in range(_BATCHES)]
    batches[-1][-1][batch_size - max(batch_size // 3, 1) :] = 0.0
    gradient = tf.function(lambda values, batch, step: _gradient(source, loss, values, batch, step))
    first = np.zeros(1, np.float32)
    case: dict[str, Array] = {"weights": _flat(weights), "rate_mu": np.array([_RATE, _MU], np.float32)}
    for index, batch in enumerate(batches):
        names = [*program.x_names, "y", "mask"]
        case |= {f"batch{index}/{name}": array for name, array in zip(names, batch, strict=True)}
    results = [gradient(weights, batch, first) for batch in batches]
    case["gradients"] = np.stack([_flat(grads) for _, grads, _ in results])
    case["trained"] = np.concatenate([np.full(w.value.size, w.trainable) for w in source.weights])
    case["losses"], case["weights_after"] = _train(source, gradient, weights, batches)
    evaluated = [_evaluate(source, loss, weights, batch) for batch in batches]
    case["evaluations"] = np.stack([np.array(sums) for sums, _ in evaluated])
    case["outputs"] = evaluated[0][1]
    initial = [weight.value for weight in source.weights]
    case["outputs_initial"] = _evaluate(source, loss, initial, batches[0])[1]
    return case, _step_ms(gradient, weights, batches[0])


def _perturbed(value: Array, generator: np.random.Generator, *, positive: bool) -> Array:
    """Move weights off their first values: biases of zero would hide errors."""
    moved = value + generator.normal(0.0, 0.05, value.shape)
    return np.asarray(np.abs(moved) if positive else moved, np.float32)


def _batch(source: SourceModel, loss: Loss, program: Program, size: int, generator: np.random.Generator) -> list[Array]:
    x = [_example_input(spec, size, generator) for spec in source.inputs]
    output = _shape_of_output(source, x)
    return [*x, _labels(loss, program, output, generator), np.ones(size, np.float32)]


def _example_input(spec: ModelInput, size: int, generator: np.random.Generator) -> Array:
    shape = (size, *spec.shape)
    if spec.dtype.startswith("float"):
        return generator.normal(size=shape).astype(np.float32)
    # Integers may be indices into a small table.
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _shape_of_output(source: SourceModel, x: Sequence[Array]) -> int:
    def call(*tensors: Tensor) -> Tensor:
        return source.reference([tf.constant(w.value) for w in source.weights], tensors, training=False)[0]

    return int(tf.function(call)(*x).shape[-1])


def _labels(loss: Loss, program: Program, units: int, generator: np.random.Generator) -> Array:
    if loss.sparse:
        return generator.integers(0, units, program.label_shape).astype(np.int32)
    if loss.name == "categorical_crossentropy":
        one_hot: Array = np.eye(units)[generator.integers(0, units, program.label_shape[:-1])]
        return one_hot.astype(np.float32)
    if loss.name == "binary_crossentropy":
        return generator.integers(0, 2, program.label_shape).astype(np.float32)
    return generator.normal(size=program.label_shape).astype(np.float32)


def _gradient(
    source: SourceModel, loss: Loss, weights: Sequence[Tensor], batch: Sequence[Tensor], step: Tensor
) -> Tensor:
    *x, y, mask = batch
    values = [tf.convert_to_tensor(weight) for weight in weights]
    randomness = Randomness(tf.zeros([1]), step) if source.draws else None
    output, moved = source.reference(values, x, training=True, randomness=randomness)
    losses = per_example_mean(loss.reference(y, output)) * mask
    mean = tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(mask), 1.0)
    # A GradientTape would not see the operations of an imported SavedModel.
    gradients = tf.gradients(mean, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return mean, [tf.convert_to_tensor(gradient) for gradient in gradients], moved


def _train(
    source: SourceModel, gradient: Tensor, weights: Sequence[Array], batches: list[list[Array]]
) -> tuple[Array, Array]:
    """Take one proximal step per batch: w - rate (g + mu (w - w at the start))."""
    current, losses = list(weights), []
    for index, batch in enumerate(batches):
        mean, gradients, moved = gradient(current, batch, np.full(1, index, np.float32))
        losses.append(float(mean))
        steps = zip(source.weights, current, gradients, weights, moved, strict=True)
        current = [
            np.asarray(w - _RATE * (g + _MU * (w - start)) if spec.trainable else after)
            for spec, w, g, start, after in steps
        ]
    return np.array(losses), _flat(current)


def _evaluate(
    source: SourceModel, loss: Loss, weights: Sequence[Array], batch: list[Array]
) -> tuple[list[float], Array]:
    *x, y, mask = batch

    def call(*tensors: Tensor) -> Tensor:
        return source.reference([tf.constant(weight) for weight in weights], tensors, training=False)[0]

    output = tf.function(call)(*x)
    sums = [
        float(tf.reduce_sum(per_example_mean(loss.reference(y, output)) * mask)),
        float(tf.reduce_sum(loss.metric_per_example(y, output) * mask)),
        float(mask.sum()),
    ]
    return sums, np.asarray(output)


def _flat(parts: Sequence[Tensor]) -> Array:
    return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in parts])


def _step_ms(gradient: Tensor, weights: Sequence[Array], batch: list[Array]) -> float:
    first = tf.zeros([1])
    values, tensors = [tf.constant(w) for w in weights], [tf.constant(part) for part in batch]
    times = []
    for _ in range(12):
        began = time.perf_counter()
        gradient(values, tensors, first)
        times.append(time.perf_counter() - began)
    return round(min(times) * 1e3, 3)

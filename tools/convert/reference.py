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
    from collections.abc import Callable, Iterator, Sequence

    from tools.convert.program import Program
    from tools.convert.source import ModelInput, SourceModel

Array: TypeAlias = NDArray[Any]

_BATCHES = 3  # the last one is partly masked
_RATE, _MU = 0.05, 0.1
_TRIES = 32  # batches to choose from
_TILED_FROM = 4  # tries with pictures that repeat themselves
_TILE = 8  # pixels
_JOLT = 2.0**-19  # of a weight: many times the rounding error of f32
_JOLTS = 6  # each crosses a kink that is close with probability 1/2
_STEADY = 5e-5  # relative to a tensor's largest gradient


def make_case(source: SourceModel, loss: Loss, program: Program, batch_size: int) -> tuple[dict[str, Array], float]:
    """Return the arrays of ``case.npz`` and TensorFlow's own time for a step in milliseconds."""
    generator = np.random.default_rng(1602)
    weights = [_perturbed(weight.value, generator, positive=not weight.trainable) for weight in source.weights]
    gradient = tf.function(lambda values, batch, step: _gradient(source, loss, values, batch, step))
    first = np.zeros(1, np.float32)

    def gradients(values: Sequence[Array], batch: list[Array]) -> Array:
        return _flat(gradient(values, batch, first)[1])

    batches = []
    for index in range(_BATCHES):
        masked = max(batch_size // 3, 1) if index == _BATCHES - 1 else 0
        drawn = (
            _batch(source, loss, program, batch_size, generator, masked, tiled=turn >= _TILED_FROM)
            for turn in range(_TRIES)
        )
        batches.append(_steady(drawn, weights, gradients, generator))
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


def _steady(
    drawn: Iterator[list[Array]],
    weights: Sequence[Array],
    gradients: Callable[[Sequence[Array], list[Array]], Array],
    generator: np.random.Generator,
) -> list[Array]:
    """Return the first batch whose gradient does not jump when rounding errors are added, or the best of them.

    Where an activation is within rounding errors of a kink (ReLU), or two of each other (max pooling), either
    gradient is right, so such a batch can tell nothing about a runtime. Large networks have so many activations
    that one is always near a kink; there, pictures that repeat themselves help, as most activations are equal.
    """
    best: list[Array] = []
    least = np.inf
    for batch in drawn:
        before = gradients(weights, batch)
        jump = 0.0
        for _ in range(_JOLTS):
            jump = max(jump, _jump(before, gradients(_jolted(weights, generator), batch), weights))
            if jump > _STEADY:
                break
        if not best or jump < least:
            best, least = batch, jump
        if jump <= _STEADY:
            break
    return best


def _jolted(weights: Sequence[Array], generator: np.random.Generator) -> list[Array]:
    return [np.asarray(w * (1 + _JOLT * generator.choice([-1, 1], w.shape)), np.float32) for w in weights]


def _jump(before: Array, after: Array, weights: Sequence[Array]) -> float:
    """Return how much the gradient of one tensor changed, relative to its largest element; the largest of all."""
    ends = np.cumsum([weight.size for weight in weights])[:-1]
    pairs = zip(np.split(before, ends), np.split(after, ends), strict=True)
    return max(float(np.abs(b - a).max() / max(np.abs(b).max(), 1e-2)) for b, a in pairs)


def _batch(
    source: SourceModel,
    loss: Loss,
    program: Program,
    size: int,
    generator: np.random.Generator,
    masked: int,
    *,
    tiled: bool,
) -> list[Array]:
    mask = np.ones(size, np.float32)
    mask[size - masked :] = 0.0
    x = [_example_input(spec, size, generator) for spec in source.inputs]
    x = [_tiled(array) if tiled and array.ndim > 2 and array.dtype == np.float32 else array for array in x]
    output = _shape_of_output(source, x)
    return [*x, _labels(loss, program, output, generator), mask]


def _example_input(spec: ModelInput, size: int, generator: np.random.Generator) -> Array:
    shape = (size, *spec.shape)
    if spec.dtype.startswith("float"):
        return generator.normal(size=shape).astype(np.float32)
    # Integers may be indices into a small table.
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _tiled(array: Array) -> Array:
    """Repeat the first rows and columns of every example, f32[n, ..., channels], as far as the shape goes."""
    for axis in range(1, array.ndim - 1):
        array = np.take(array, np.arange(array.shape[axis]) % _TILE, axis=axis)
    return array


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

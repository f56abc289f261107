"""Losses and metrics, written with operations that TFLite has, one value per example.

Labels of the sparse loss are int32 class numbers; all others have the output's shape in float32. Whether the
model's output is logits or probabilities follows from its last operation (softmax, sigmoid or anything else).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from shared.errors import BundleError
from tools.convert.source import load_object
from tools.convert.tf import Operation, Tensor, keras, tf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EPSILON = 1e-7  # Keras' own bound on probabilities
_LAST = {"softmax": "Softmax", "sigmoid": "Sigmoid"}  # operations of these activations


Elementwise: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"  # of (y, output)


@dataclass(frozen=True)
class Loss:
    """A loss and the metric beside it.

    Attributes:
        name: Keras' name, or package.module:callable.
        metric: "accuracy" or "mean_absolute_error".
        output: how the output is read: "logits", "probabilities" or "values".
        elementwise: (y, output) to f32[B] or, for outputs with places, f32[B, ...].
        metric_per_example: (y, output) to f32[B].
        reference: ``elementwise`` as Keras has it.
        sparse: whether labels are class numbers.
        class_weights: factor on the loss of each class in training, as Keras' ``fit``; empty for none.
    """

    name: str
    metric: str
    output: str
    elementwise: Elementwise
    metric_per_example: Elementwise
    reference: Elementwise
    sparse: bool
    class_weights: tuple[float, ...] = ()

    def per_example(self, y: Tensor, output: Tensor) -> Tensor:
        """Return the loss of each example, f32[B], as ``evaluate`` sums it: without class weights."""
        return per_example_mean(self.elementwise(y, output))

    def weighted(self, y: Tensor, losses: Tensor) -> Tensor:
        """Return f32[B], for training, from losses by element."""
        if not self.class_weights:
            return per_example_mean(losses)
        return per_example_mean(losses * self._weights(y))

    def _weights(self, y: Tensor) -> Tensor:
        weights = tf.constant(self.class_weights)
        if self.sparse:
            return tf.reduce_sum(tf.one_hot(y, len(self.class_weights)) * weights, axis=-1)
        if self.name == "categorical_crossentropy":
            return tf.reduce_sum(y * weights, axis=-1)
        low, high = self.class_weights  # one unit, y is 0 or 1
        return tf.reduce_mean(low + (high - low) * y, axis=-1)


def output_kind(output: Tensor) -> str:
    """Return "softmax", "sigmoid" or "linear" for a symbolic model output."""
    op: Operation = output.op
    while op.type in {"Identity", "Reshape", "Squeeze"}:
        op = op.inputs[0].op
    return next((activation for activation, last in _LAST.items() if op.type == last), "linear")


@dataclass(frozen=True)
class LossOptions:
    """What a loss may be changed by; see ``fedloom convert --help``."""

    name: str | None = None
    label_smoothing: float = 0.0
    class_weights: Sequence[float] = ()


def choose_loss(options: LossOptions, activation: str, units: int) -> Loss:
    """Return the loss by Keras' name or package.module:callable; without a name the one that fits the output.

    Raises:
        BundleError: "convert-loss" for an unknown name, or options that this loss does not have.
    """
    loss = _by_name(options.name, activation, units, options.label_smoothing)
    if options.label_smoothing and loss.name not in _SMOOTHED:
        raise BundleError(
            "convert-loss", f"{loss.name} has no label smoothing", f"leave it out, or take {' or '.join(_SMOOTHED)}"
        )
    return replace(loss, class_weights=_class_weights(loss, options.class_weights, units))


def _class_weights(loss: Loss, weights: Sequence[float], units: int) -> tuple[float, ...]:
    if not weights:
        return ()
    binary = loss.name == "binary_crossentropy"
    if loss.output == "values" or (binary and units > 1):
        raise BundleError(
            "convert-loss", f"{loss.name} of {units} outputs has no classes to weight", "leave --class-weights out"
        )
    classes = 2 if binary else units
    if len(weights) != classes:
        raise BundleError("convert-loss", f"{len(weights)} class weights for {classes} classes", f"give {classes}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise BundleError("convert-loss", f"class weights {list(weights)}", "give finite weights from 0 on, not all 0")
    return tuple(weights)


def _by_name(name: str | None, activation: str, units: int, smoothing: float) -> Loss:
    if name is None:
        several = "mean_squared_error" if units == 1 else "sparse_categorical_crossentropy"
        name = "binary_crossentropy" if activation == "sigmoid" else several
    if ":" in name:
        return _custom(name)
    makers = {
        "sparse_categorical_crossentropy": _sparse_categorical,
        "categorical_crossentropy": _categorical,
        "binary_crossentropy": _binary,
    }
    canonical = _canonical(name)
    if canonical in makers:
        return makers[canonical](activation, smoothing)
    if canonical in _REGRESSION:
        return _regression(canonical, _REGRESSION[canonical])
    known = ", ".join([*makers, *_REGRESSION])
    raise BundleError("convert-loss", f"unknown loss {name!r}", f"one of {known}, or package.module:callable")


def _canonical(name: str) -> str:
    short = {"mse": "mean_squared_error", "mae": "mean_absolute_error", "huber_loss": "huber"}
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    return short.get(name.lower(), snake)


def per_example_mean(values: Tensor) -> Tensor:
    """Average all dimensions but the first: f32[B, ...] to f32[B]."""
    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank))) if values.shape.rank > 1 else values


def _logits(output: Tensor, activation: str) -> Tensor | None:
    """Return what goes into the model's last softmax or sigmoid, as Keras does; None if that is hidden.

    From probabilities that have reached 0 or 1 there is no way back: their logarithm has no slope.
    """
    if activation not in _LAST:
        return output
    op: Operation = output.op
    while op.type == "Identity":
        op = op.inputs[0].op
    return op.inputs[0] if op.type == _LAST[activation] else None


def _log_probabilities(output: Tensor, activation: str) -> Tensor:
    logits = _logits(output, activation)
    return tf.math.log(tf.maximum(output, _EPSILON)) if logits is None else tf.nn.log_softmax(logits)


def _hits(y_class: Tensor, output: Tensor) -> Tensor:
    found = tf.argmax(output, axis=-1, output_type=tf.int32)
    return per_example_mean(tf.cast(tf.equal(found, y_class), tf.float32))


def _smoothed(probability: Tensor, smoothing: float, classes: int) -> Tensor:
    """Move ``smoothing`` of the labels' mass to all classes alike (Szegedy et al., arXiv 1512.00567, section 7)."""
    return probability * (1.0 - smoothing) + smoothing / classes if smoothing else probability


def _cross_entropy(probability: Tensor, output: Tensor, activation: str, smoothing: float) -> Tensor:
    wanted = _smoothed(probability, smoothing, output.shape[-1])
    return -tf.reduce_sum(wanted * _log_probabilities(output, activation), axis=-1)


def _sparse_categorical(activation: str, smoothing: float) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        return _cross_entropy(tf.one_hot(y, output.shape[-1]), output, activation, smoothing)

    def reference(y: Tensor, output: Tensor) -> Tensor:
        logits = activation != "softmax"
        if not smoothing:
            return keras.losses.sparse_categorical_crossentropy(y, output, from_logits=logits)
        one_hot = tf.one_hot(y, output.shape[-1])
        return keras.losses.categorical_crossentropy(one_hot, output, from_logits=logits, label_smoothing=smoothing)

    kind = "probabilities" if activation == "softmax" else "logits"
    return Loss("sparse_categorical_crossentropy", "accuracy", kind, loss, _hits, reference, sparse=True)


def _categorical(activation: str, smoothing: float) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        return _cross_entropy(y, output, activation, smoothing)

    def metric(y: Tensor, output: Tensor) -> Tensor:
        return _hits(tf.argmax(y, axis=-1, output_type=tf.int32), output)

    def reference(y: Tensor, output: Tensor) -> Tensor:
        logits = activation != "softmax"
        return keras.losses.categorical_crossentropy(y, output, from_logits=logits, label_smoothing=smoothing)

    kind = "probabilities" if activation == "softmax" else "logits"
    return Loss("categorical_crossentropy", "accuracy", kind, loss, metric, reference, sparse=False)


def _binary(activation: str, smoothing: float) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        y = _smoothed(y, smoothing, 2)
        logits = _logits(output, activation)
        if logits is None:
            p = tf.minimum(tf.maximum(output, _EPSILON), 1.0 - _EPSILON)
            return tf.reduce_mean(-(y * tf.math.log(p) + (1.0 - y) * tf.math.log(1.0 - p)), axis=-1)
        # log(1 + exp(-|z|)) + max(z, 0) - z y: never overflows.
        small = tf.math.log(1.0 + tf.exp(-tf.abs(logits)))
        return tf.reduce_mean(small + tf.nn.relu(logits) - logits * y, axis=-1)

    def metric(y: Tensor, output: Tensor) -> Tensor:
        threshold = 0.5 if activation == "sigmoid" else 0.0
        return per_example_mean(tf.cast(tf.equal(output > threshold, y > 0.5), tf.float32))

    def reference(y: Tensor, output: Tensor) -> Tensor:
        logits = activation != "sigmoid"
        return keras.losses.binary_crossentropy(y, output, from_logits=logits, label_smoothing=smoothing)

    kind = "probabilities" if activation == "sigmoid" else "logits"
    return Loss("binary_crossentropy", "accuracy", kind, loss, metric, reference, sparse=False)


def _huber(y: Tensor, output: Tensor) -> Tensor:
    """Quadratic to distance 1, linear beyond: with c = min(|e|, 1), c (|e| - c / 2)."""
    distance = tf.abs(y - output)
    inside = tf.minimum(distance, 1.0)
    return inside * (distance - 0.5 * inside)


_SMOOTHED = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
_REGRESSION: dict[str, Elementwise] = {
    "mean_squared_error": lambda y, output: (y - output) * (y - output),
    "mean_absolute_error": lambda y, output: tf.abs(y - output),
    "huber": _huber,
}


def _absolute_error(y: Tensor, output: Tensor) -> Tensor:
    return per_example_mean(tf.abs(y - output))


def _regression(name: str, elementwise: Elementwise) -> Loss:
    reference = keras.losses.get(name)
    return Loss(name, "mean_absolute_error", "values", elementwise, _absolute_error, reference, sparse=False)


def _custom(name: str) -> Loss:
    function = load_object(name, "convert-loss")

    def checked(y: Tensor, output: Tensor) -> Tensor:
        losses = tf.convert_to_tensor(function(y, output))
        if losses.shape.rank == 0 or losses.shape[0] != output.shape[0]:
            raise BundleError(
                "convert-loss",
                f"{name} returns {losses.shape.as_list()} for {output.shape[0]} examples",
                "return one loss per example, f32[B] or f32[B, ...], and leave the mean over the batch out",
            )
        return losses

    return Loss(name, "mean_absolute_error", "values", checked, _absolute_error, checked, sparse=False)

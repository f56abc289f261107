"""Losses and metrics, written with operations that TFLite has, one value per example.

Labels of the sparse loss are int32 class numbers; all others have the output's shape in float32. Whether the
model's output is logits or probabilities follows from its last operation (softmax, sigmoid or anything else).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import BundleError
from tools.convert.source import load_object
from tools.convert.tf import Operation, Tensor, keras, tf

if TYPE_CHECKING:
    from collections.abc import Callable

_EPSILON = 1e-7  # Keras' own bound on probabilities


@dataclass(frozen=True)
class Loss:
    """``per_example`` and ``metric_per_example`` map (y, output) to f32[B]; ``reference`` is Keras' own."""

    name: str
    metric: str
    output: str  # "logits", "probabilities" or "values"
    per_example: Callable[[Tensor, Tensor], Tensor]
    metric_per_example: Callable[[Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    sparse: bool


def output_kind(output: Tensor) -> str:
    """Return "softmax", "sigmoid" or "linear" for a symbolic model output."""
    op: Operation = output.op
    while op.type in {"Identity", "Reshape", "Squeeze"}:
        op = op.inputs[0].op
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(op.type, "linear")


def choose_loss(name: str | None, activation: str, units: int) -> Loss:
    """Return the loss by Keras' name or package.module:callable; without a name the one that fits the output.

    Raises:
        BundleError: "convert-loss" for an unknown name.
    """
    if name is None:
        single = "binary_crossentropy" if activation == "sigmoid" else "mean_squared_error"
        name = single if units == 1 else "sparse_categorical_crossentropy"
    if ":" in name:
        return _custom(name)
    makers = {
        "sparse_categorical_crossentropy": _sparse_categorical,
        "categorical_crossentropy": _categorical,
        "binary_crossentropy": _binary,
    }
    canonical = _canonical(name)
    if canonical in makers:
        return makers[canonical](activation)
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


def _log_probabilities(output: Tensor, activation: str) -> Tensor:
    return tf.math.log(tf.maximum(output, _EPSILON)) if activation == "softmax" else tf.nn.log_softmax(output)


def _hits(y_class: Tensor, output: Tensor) -> Tensor:
    found = tf.argmax(output, axis=-1, output_type=tf.int32)
    return per_example_mean(tf.cast(tf.equal(found, y_class), tf.float32))


def _sparse_categorical(activation: str) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        chosen = tf.one_hot(y, output.shape[-1]) * _log_probabilities(output, activation)
        return per_example_mean(-tf.reduce_sum(chosen, axis=-1))

    def reference(y: Tensor, output: Tensor) -> Tensor:
        return keras.losses.sparse_categorical_crossentropy(y, output, from_logits=activation != "softmax")

    kind = "probabilities" if activation == "softmax" else "logits"
    return Loss("sparse_categorical_crossentropy", "accuracy", kind, loss, _hits, reference, sparse=True)


def _categorical(activation: str) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        return per_example_mean(-tf.reduce_sum(y * _log_probabilities(output, activation), axis=-1))

    def metric(y: Tensor, output: Tensor) -> Tensor:
        return _hits(tf.argmax(y, axis=-1, output_type=tf.int32), output)

    def reference(y: Tensor, output: Tensor) -> Tensor:
        return keras.losses.categorical_crossentropy(y, output, from_logits=activation != "softmax")

    kind = "probabilities" if activation == "softmax" else "logits"
    return Loss("categorical_crossentropy", "accuracy", kind, loss, metric, reference, sparse=False)


def _binary(activation: str) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        if activation == "sigmoid":
            p = tf.minimum(tf.maximum(output, _EPSILON), 1.0 - _EPSILON)
            return per_example_mean(-(y * tf.math.log(p) + (1.0 - y) * tf.math.log(1.0 - p)))
        # log(1 + exp(-|z|)) + max(z, 0) - z y: never overflows.
        small = tf.math.log(1.0 + tf.exp(-tf.abs(output)))
        return per_example_mean(small + tf.nn.relu(output) - output * y)

    def metric(y: Tensor, output: Tensor) -> Tensor:
        threshold = 0.5 if activation == "sigmoid" else 0.0
        return per_example_mean(tf.cast(tf.equal(output > threshold, y > 0.5), tf.float32))

    def reference(y: Tensor, output: Tensor) -> Tensor:
        return keras.losses.binary_crossentropy(y, output, from_logits=activation != "sigmoid")

    kind = "probabilities" if activation == "sigmoid" else "logits"
    return Loss("binary_crossentropy", "accuracy", kind, loss, metric, reference, sparse=False)


def _huber(y: Tensor, output: Tensor) -> Tensor:
    """Quadratic to distance 1, linear beyond: with c = min(|e|, 1), c (|e| - c / 2)."""
    distance = tf.abs(y - output)
    inside = tf.minimum(distance, 1.0)
    return inside * (distance - 0.5 * inside)


_REGRESSION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_squared_error": lambda y, output: (y - output) * (y - output),
    "mean_absolute_error": lambda y, output: tf.abs(y - output),
    "huber": _huber,
}


def _absolute_error(y: Tensor, output: Tensor) -> Tensor:
    return per_example_mean(tf.abs(y - output))


def _regression(name: str, elementwise: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(y: Tensor, output: Tensor) -> Tensor:
        return per_example_mean(elementwise(y, output))

    reference = keras.losses.get(name)
    return Loss(name, "mean_absolute_error", "values", loss, _absolute_error, reference, sparse=False)


def _custom(name: str) -> Loss:
    function = load_object(name, "convert-loss")

    def loss(y: Tensor, output: Tensor) -> Tensor:
        return per_example_mean(function(y, output))

    return Loss(name, "mean_absolute_error", "values", loss, _absolute_error, loss, sparse=False)

"""Find the model's batch norms in its inference graph: which weights each one has, and its epsilon.

Keras and TensorFlow write factor = rsqrt(variance + epsilon) * gamma and shift = beta - mean * factor
(``tf.nn.batch_normalization``); every part of it is a constant of the graph. Where a part is missing or something
else, it is no batch norm, and what the converter made of it will not be found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shared.full_integer import Fold
from tools.convert.tf import Graph, Operation, Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_PASSED_ON = ("Identity", "Reshape", "Squeeze", "ExpandDims")


def batch_norms(graph: Graph, marks: Mapping[str, NDArray[np.float32]]) -> list[Fold]:
    """Return each batch norm's factor, by the path of its weights; ``marks`` are the weights in the graph."""
    roots = [op for op in graph.get_operations() if op.type == "Rsqrt"]
    return [fold for op in roots if (fold := _batch_norm(op, marks))]


def _batch_norm(root: Operation, marks: Mapping[str, NDArray[np.float32]]) -> Fold | None:
    added = root.inputs[0].op
    if added.type not in {"Add", "AddV2"}:
        return None
    variance = next((path for value in added.inputs if (path := weight_of(value, marks))), None)
    epsilon = next((float(value) for each in added.inputs if (value := _constant(each)) is not None and value.size == 1
                    and weight_of(each, marks) is None), None)  # fmt: skip
    factor, gamma = root, None
    for user in _users(root, "Mul"):
        scales = not _users(user, "Sub")  # mean * factor is subtracted
        if scales and (path := _other_weight(user, root, marks)):
            factor, gamma = user, path
    mean, beta = None, None
    for user in _users(factor, "Mul"):
        if path := _mean(user, factor, marks):
            mean = path
            beta = next((path for last in _users(user, "Sub") if (path := weight_of(last.inputs[0], marks))), None)
    if variance is None or epsilon is None or mean is None:
        return None
    return Fold("factor", mean, variance, epsilon, gamma, beta)


def _users(op: Operation, kind: str) -> list[Operation]:
    return [user for user in op.outputs[0].consumers() if user.type == kind]


def _other_weight(op: Operation, one: Operation, marks: Mapping[str, NDArray[np.float32]]) -> str | None:
    others = [value for value in op.inputs if value.op is not one]
    return weight_of(others[0], marks) if len(others) == 1 else None


def _mean(op: Operation, factor: Operation, marks: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Return the mean in mean * factor, or, where there is no beta, in -mean * factor."""
    negated = [value.op.inputs[0] for value in op.inputs if value.op.type == "Neg"]
    return weight_of(negated[0], marks) if negated else _other_weight(op, factor, marks)


def weight_of(value: Tensor, marks: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Return the path of the weight that a tensor of the graph is."""
    found = _constant(value)
    if found is None:
        return None
    flat = found.reshape(-1)
    return next((path for path, mark in marks.items() if np.array_equal(mark.reshape(-1), flat)), None)


def _constant(value: Tensor) -> NDArray[np.float32] | None:
    op = value.op
    while op.type in _PASSED_ON:
        op = op.inputs[0].op
    return np.asarray(tf.make_ndarray(op.get_attr("value"))) if op.type == "Const" else None

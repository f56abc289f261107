"""Gradients written with operations that every TFLite runtime has.

TensorFlow differentiates some operations with kernels of their own (``ReluGrad``, ``Conv2DBackpropFilter``,
``MaxPoolGrad``, ...), which TFLite does not have. Here each of them is derived again from slices, paddings,
products and sums. ``LOWERINGS`` maps the type of a *forward* operation to its gradient; a new one needs a
function and a row.

Notation: ``x`` input, ``y`` output, ``dy`` gradient of the loss with respect to ``y``; images are [batch,
height, width, channels]. A window operation reads ``x`` at row ``i * stride + k * dilation - pad`` for output
row ``i`` and kernel row ``k``, and the same for columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import BundleError
from tools.convert.depthwise import depthwise_conv2d
from tools.convert.emit import layer_of
from tools.convert.tf import Graph, Operation, Tensor, tf
from tools.convert.windows import LOWEST, Axis, axes_of, spread_2d, windows_2d

Lowering: TypeAlias = Callable[[Operation, Tensor], list[Tensor | None]]


def relu(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """ReLU: y = max(x, 0), so dx = dy where y > 0: sign(y) is 0 or 1, and much faster than a select."""
    return [dy * tf.sign(op.outputs[0])]


def relu6(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """ReLU6: y = min(max(x, 0), 6): dx = dy strictly inside the interval, where both signs are 1."""
    y = op.outputs[0]
    return [dy * tf.sign(y) * tf.sign(6.0 - y)]


def leaky_relu(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Leaky ReLU: y = x where x > 0, else alpha x: the slope is alpha + (1 - alpha) [x > 0]."""
    alpha = op.get_attr("alpha")
    return [dy * (alpha + (1.0 - alpha) * tf.nn.relu(tf.sign(op.inputs[0])))]


def elu(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """ELU: y = exp(x) - 1 where x < 0, whose derivative is y + 1; elsewhere y >= 0 and the derivative is 1."""
    return [dy * (tf.minimum(op.outputs[0], 0.0) + 1.0)]


def max_pool(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Give dy to the one input that won its window; of equals the first in row-major order, as TensorFlow.

    y - x is 0 for a winner and positive otherwise. So dy * sign(y - x) is what is left for later inputs, and the last
    one gets what is left: padding never wins.
    """
    x, y = op.inputs[0], op.outputs[0]
    rows, columns = axes_of(op, x, y, op.get_attr("ksize")[1:3])
    parts = []
    for window in windows_2d(x, rows, columns, LOWEST)[:-1]:
        left = dy * tf.sign(y - window)
        parts.append(dy - left)
        dy = left
    return [spread_2d([*parts, dy], rows, columns)]


def largest(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Share dy equally among all equals of the maximum over some axes, as TensorFlow: 1 + sign(x - y) is 1 for these.

    TensorFlow compares with EQUAL, which XNNPACK leaves alone.
    """
    x, axes = op.inputs[0], tf.get_static_value(op.inputs[1])
    y = op.outputs[0]
    if not op.get_attr("keep_dims"):
        kept = x.shape.as_list()
        for axis in np.atleast_1d(axes):
            kept[int(axis)] = 1
        y, dy = tf.reshape(y, kept), tf.reshape(dy, kept)
    winners = 1.0 + tf.sign(x - y)
    return [winners * (dy / tf.reduce_sum(winners, axes, keepdims=True)), None]


def average_pool(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Share dy equally among the inputs of its window; padding is not counted."""
    x, y = op.inputs[0], op.outputs[0]
    rows, columns = axes_of(op, x, y, op.get_attr("ksize")[1:3])
    counts = np.outer(_counts(rows), _counts(columns))[None, :, :, None]
    share = dy / tf.constant(counts, tf.float32)
    return [spread_2d([share] * (rows.kernel * columns.kernel), rows, columns)]


def _counts(axis: Axis) -> NDArray[np.int64]:
    """Return how many elements of its input each window holds, i64[outputs]."""
    starts = np.arange(axis.outputs) * axis.stride - axis.pad
    places = starts[:, None] + np.arange(axis.kernel) * axis.dilation
    counts: NDArray[np.int64] = np.count_nonzero((places >= 0) & (places < axis.length), axis=1)
    return counts


def add_broadcast(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Pass dy on to both, summed where one was broadcast."""
    return [_summed_to(dy, x) for x in op.inputs]


def subtract_broadcast(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Pass dy on to one, and its opposite to the other."""
    x, y = op.inputs
    return [_summed_to(dy, x), -_summed_to(dy, y)]


def multiply_broadcast(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Each factor's derivative is the other."""
    x, y = op.inputs
    return [_summed_to(dy * y, x), _summed_to(dy * x, y)]


def bias_add(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Pass dy on, and its sum over all but the channels to the bias."""
    return [dy, _summed_to(dy, op.inputs[1])]


def _summed_to(gradient: Tensor, wanted: Tensor) -> Tensor:
    """Sum over the axes that broadcasting made, first inside each example and then over the batch.

    TFLite adds up one value after the other, so that the rounding error grows with their number.
    """
    shape, sizes = gradient.shape.as_list(), wanted.shape.as_list()
    aligned = [1] * (len(shape) - len(sizes)) + sizes
    axes = [axis for axis, (has, had) in enumerate(zip(shape, aligned, strict=True)) if had == 1 and has > 1]
    for part in (axes[1:], axes[:1]) if len(axes) > 1 else (axes,):
        gradient = tf.reduce_sum(gradient, part, keepdims=True) if part else gradient
    return gradient if shape == sizes else tf.reshape(gradient, sizes)


def strided_slice(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Put dy back where it was read, axis by axis, zeros elsewhere."""
    x = op.inputs[0]
    begin, end, strides = (tf.get_static_value(tensor) for tensor in op.inputs[1:4])
    if begin is None or end is None or strides is None:
        raise BundleError(
            "convert-unsupported-op",
            f"layer {layer_of(op.name)} slices at a place that depends on the data",
            "slice at fixed places",
        )
    reads = _reads(op, x.shape.as_list(), begin, end, strides)
    dx = tf.reshape(dy, [len(kept) for kept in reads])
    for axis, kept in enumerate(reads):
        dx = _put_back(dx, axis, kept, x.shape[axis])
    return [dx, None, None, None]


def tile(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Add up the copies; XNNPACK refuses the sum over many axes that TensorFlow writes."""
    multiples = tf.get_static_value(op.inputs[1])
    for axis, count in enumerate(multiples):
        dy = reduce(add, tf.split(dy, int(count), axis=axis)) if count > 1 else dy
    return [dy, None]


def _reads(op: Operation, shape: list[int], begin: Any, end: Any, strides: Any) -> list[range]:  # noqa: ANN401
    """Return which elements of each axis a StridedSlice reads."""

    def masked(name: str, place: int) -> bool:
        return bool(op.get_attr(f"{name}_mask") >> place & 1)

    places = [place for place in range(len(begin)) if not masked("new_axis", place)]
    chosen: list[range] = []
    for place in places:
        if masked("ellipsis", place):
            chosen += [range(length) for length in shape[len(chosen) : len(shape) - len(places) + len(chosen) + 1]]
            continue
        length = shape[len(chosen)]
        first = None if masked("begin", place) else int(begin[place])
        last = None if masked("end", place) else int(end[place])
        if masked("shrink_axis", place):
            chosen.append(range(length)[int(begin[place]) :][:1])
        else:
            chosen.append(range(length)[slice(first, last, int(strides[place]))])
    return chosen + [range(length) for length in shape[len(chosen) :]]


def _embed(part: Tensor, dimension: int, before: int, length: int) -> Tensor:
    paddings = [[0, 0] for _ in range(part.shape.rank)]
    paddings[dimension] = [before, length - before - part.shape[dimension]]
    return tf.pad(part, paddings)


def _put_back(part: Tensor, axis: int, kept: range, length: int) -> Tensor:
    """Spread ``part`` over an axis of ``length``, its elements at ``kept``."""
    if kept == range(length):
        return part
    if kept.step < 0:
        part, kept = tf.reverse(part, [axis]), kept[::-1]
    if kept.step > 1 and len(kept) > 1:
        shape = part.shape.as_list()
        wide = _embed(tf.expand_dims(part, axis + 1), axis + 1, 0, kept.step)
        shape[axis] *= kept.step
        covered = (len(kept) - 1) * kept.step + 1
        part = tf.slice(tf.reshape(wide, shape), [0] * len(shape), [*shape[:axis], covered, *shape[axis + 1 :]])
    return _embed(part, axis, kept.start, length)


LOWERINGS: dict[str, Lowering] = {
    "AddV2": add_broadcast,
    "AvgPool": average_pool,
    "BiasAdd": bias_add,
    "DepthwiseConv2dNative": depthwise_conv2d,
    "Elu": elu,
    "LeakyRelu": leaky_relu,
    "Max": largest,
    "MaxPool": max_pool,
    "Mul": multiply_broadcast,
    "Relu": relu,
    "Relu6": relu6,
    "StridedSlice": strided_slice,
    "Sub": subtract_broadcast,
    "Tile": tile,
}


CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput")  # whose gradients are in convolutions.py


def require_plain_layout(graph: Graph) -> None:
    """Refuse the layouts that the gradients above are not written for, in the traced forward pass.

    Raises:
        BundleError: "convert-layout", naming the layer.
    """
    for op in graph.get_operations():
        attributes = {attribute.name for attribute in op.op_def.attr}
        if (
            op.type in (*LOWERINGS, *CONVOLUTIONS)
            and "data_format" in attributes
            and op.get_attr("data_format") != b"NHWC"
        ):
            raise BundleError(
                "convert-layout",
                f"layer {layer_of(op.name)} has its channels first, which cannot be trained on devices",
                'build it with data_format="channels_last" and give it inputs whose channels come last',
            )


@cache
def override_map() -> dict[str, str]:
    """Register every lowering once; return the argument of ``Graph.gradient_override_map``."""
    for name, lowering in LOWERINGS.items():
        tf.RegisterGradient(f"Fedloom{name}")(lowering)
    return {name: f"Fedloom{name}" for name in LOWERINGS}

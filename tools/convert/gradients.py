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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import add
from typing import Any, TypeAlias

from shared.errors import BundleError
from tools.convert.emit import layer_of
from tools.convert.tf import Graph, Operation, Tensor, tf

Lowering: TypeAlias = Callable[[Operation, Tensor], list[Tensor | None]]

_LOWEST = -3.0e38  # padding that no maximum picks; -inf would make inf - inf = NaN


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


@dataclass(frozen=True)
class _Axis:
    """How one spatial axis of a window operation reads its input."""

    length: int  # of the input
    outputs: int
    kernel: int
    stride: int
    dilation: int
    pad: int  # before the first element

    @property
    def padded(self) -> int:
        """Length of the padded input that the windows cover, rounded up to whole strides."""
        last = (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        needed = max(last, self.pad + self.length)
        return -(-needed // self.stride) * self.stride


def _axes(op: Operation, x: Tensor, y: Tensor, kernel: Sequence[int]) -> tuple[_Axis, _Axis]:
    strides = op.get_attr("strides")
    names = {attribute.name for attribute in op.op_def.attr}
    dilations = op.get_attr("dilations") if "dilations" in names else [1, 1, 1, 1]
    padding = op.get_attr("padding").decode()
    explicit = op.get_attr("explicit_paddings") if padding == "EXPLICIT" else None
    axes = []
    for axis in (1, 2):
        length, outputs, k = x.shape[axis], y.shape[axis], kernel[axis - 1]
        total = (outputs - 1) * strides[axis] + (k - 1) * dilations[axis] + 1 - length
        before = {"SAME": max(total, 0) // 2, "VALID": 0, "EXPLICIT": explicit and explicit[2 * axis]}[padding]
        axes.append(_Axis(length, outputs, k, strides[axis], dilations[axis], int(before or 0)))
    return axes[0], axes[1]


def _pad(x: Tensor, rows: _Axis, columns: _Axis, value: float = 0.0) -> Tensor:
    after = [axis.padded - axis.pad - axis.length for axis in (rows, columns)]
    if not any((rows.pad, columns.pad, *after)):
        return x
    return tf.pad(x, [[0, 0], [rows.pad, after[0]], [columns.pad, after[1]], [0, 0]], constant_values=value)


def _windows(x: Tensor, rows: _Axis, columns: _Axis, value: float = 0.0) -> list[Tensor]:
    """Return the inputs that each kernel position (row-major) reads: [batch, out, out, channels]."""
    padded = _pad(x, rows, columns, value)

    def reads(axis: _Axis, k: int) -> slice:
        start = k * axis.dilation
        return slice(start, start + (axis.outputs - 1) * axis.stride + 1, axis.stride)

    return [padded[:, reads(rows, i), reads(columns, j), :] for i in range(rows.kernel) for j in range(columns.kernel)]


def _spread(parts: list[Tensor], axis: _Axis, dimension: int) -> Tensor:
    """Add up gradients where one axis's windows read them; the transpose of reading.

    Kernel position k with k * dilation = q * stride + r reads element (i + q) * stride + r. So parts with the
    same remainder r are shifted by q and added, and the ``stride`` sums are interleaved. No scatter is
    needed.
    """
    groups = axis.padded // axis.stride
    sums: list[Tensor | None] = [None] * axis.stride
    for k, part in enumerate(parts):
        shift, remainder = divmod(k * axis.dilation, axis.stride)
        moved = _embed(part, dimension, shift, groups)
        present = sums[remainder]
        sums[remainder] = moved if present is None else present + moved
    template = next(part for part in sums if part is not None)
    filled = [tf.zeros_like(template) if part is None else part for part in sums]
    shape = template.shape.as_list()
    shape[dimension] = axis.padded
    return tf.reshape(tf.stack(filled, axis=dimension + 1), shape) if axis.stride > 1 else filled[0]


def _embed(part: Tensor, dimension: int, before: int, length: int) -> Tensor:
    after = length - before - part.shape[dimension]
    if before == 0 and after == 0:
        return part
    paddings = [[0, 0] for _ in range(part.shape.rank)]
    paddings[dimension] = [before, after]
    return tf.pad(part, paddings)


def _gather_back(parts: list[Tensor], rows: _Axis, columns: _Axis) -> Tensor:
    """Return dx from one gradient per kernel position (row-major), each [batch, out, out, channels]."""
    k = columns.kernel
    lines = [_spread(parts[i * k : (i + 1) * k], columns, 2) for i in range(rows.kernel)]
    dx = _spread(lines, rows, 1)
    return dx[:, rows.pad : rows.pad + rows.length, columns.pad : columns.pad + columns.length, :]


def max_pool(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Give dy to the one input that won its window; of equals the first in row-major order, as TensorFlow.

    y - x is 0 for a winner and positive otherwise, so 1 - sign(y - x) marks the winners without a comparison.
    """
    x, y = op.inputs[0], op.outputs[0]
    rows, columns = _axes(op, x, y, op.get_attr("ksize")[1:3])
    free: Tensor | None = None  # 1 where no earlier input has won
    parts = []
    for window in _windows(x, rows, columns, _LOWEST):
        loses = tf.sign(y - window)
        wins = 1.0 - loses if free is None else free * (1.0 - loses)
        free = loses if free is None else free * loses
        parts.append(dy * wins)
    return [_gather_back(parts, rows, columns)]


def average_pool(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Share dy equally among the inputs of its window; padding is not counted."""
    x_shape, y = op.inputs[0], op.outputs[0]
    rows, columns = _axes(op, x_shape, y, op.get_attr("ksize")[1:3])
    ones = tf.ones([1, *op.inputs[0].shape[1:3], 1])
    share = dy / reduce(add, _windows(ones, rows, columns))
    return [_gather_back([share] * (rows.kernel * columns.kernel), rows, columns)]


def _filter_gradient(op: Operation, x: Tensor, dy: Tensor, shape: Sequence[int]) -> Tensor:
    """dw[k, c, o] = sum over batch and outputs i of x[read(i, k), c] dy[i, o], as one matrix product.

    The windows side by side form a matrix [batch * outputs, kernel * channels] (im2col). The product keeps a
    batch dimension of one: a plain MatMul becomes FULLY_CONNECTED, which XNNPACK leaves alone without
    constant weights.
    """
    rows, columns = _axes(op, x, dy, shape[:2])
    patches = tf.concat(_windows(x, rows, columns), axis=3)
    matrix = tf.reshape(patches, [1, -1, shape[0] * shape[1] * shape[2]])
    slopes = tf.reshape(dy, [1, -1, shape[3]])
    return tf.reshape(tf.matmul(matrix, slopes, transpose_a=True), shape)


def conv2d(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Gradients of a convolution: dx is the transposed convolution of dy (dilated: windows), dw as above."""
    x, w = op.inputs
    dw = _filter_gradient(op, x, dy, w.shape.as_list())
    strides, padding = op.get_attr("strides"), op.get_attr("padding").decode()
    if padding == "EXPLICIT" or max(op.get_attr("dilations")) > 1:
        return [_input_gradient(op, x, w, dy), dw]
    return [tf.nn.conv2d_transpose(dy, w, x.shape, strides, padding), dw]


def _input_gradient(op: Operation, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
    """dx[read(i, k), c] += sum over o of dy[i, o] w[k, c, o]: a 1x1 convolution per kernel position."""
    rows, columns = _axes(op, x, dy, w.shape[:2])
    parts = [
        tf.nn.conv2d(dy, tf.transpose(w[i : i + 1, j : j + 1], [0, 1, 3, 2]), 1, "VALID")
        for i in range(rows.kernel)
        for j in range(columns.kernel)
    ]
    return _gather_back(parts, rows, columns)


def conv2d_transpose(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Gradients of a transposed convolution: its input plays the part of dy in the plain one."""
    _, w, x = op.inputs
    strides, padding = op.get_attr("strides"), op.get_attr("padding").decode()
    dx = tf.nn.conv2d(dy, w, strides, padding)
    return [None, _filter_gradient(op, dy, x, w.shape.as_list()), dx]


def depthwise_conv2d(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Channels have their own kernels: dw[k, c] = sum of x[read(i, k), c] dy[i, c], dx[read(i, k), c] += dy w.

    With a depth multiplier m, channel c makes outputs c * m to c * m + m - 1.
    """
    x, w = op.inputs
    kernel_rows, kernel_columns, channels, multiplier = w.shape.as_list()
    rows, columns = _axes(op, x, dy, [kernel_rows, kernel_columns])
    slopes = tf.reshape(dy, [*dy.shape[:3], channels, multiplier])
    taps = tf.reshape(w, [-1, channels, multiplier])
    dw = [tf.reduce_sum(part[..., None] * slopes, axis=[0, 1, 2]) for part in _windows(x, rows, columns)]
    parts = [tf.reduce_sum(slopes * taps[k], axis=-1) for k in range(kernel_rows * kernel_columns)]
    return [_gather_back(parts, rows, columns), tf.reshape(tf.stack(dw), w.shape)]


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
    "AvgPool": average_pool,
    "Conv2D": conv2d,
    "Conv2DBackpropInput": conv2d_transpose,
    "DepthwiseConv2dNative": depthwise_conv2d,
    "Elu": elu,
    "LeakyRelu": leaky_relu,
    "MaxPool": max_pool,
    "Relu": relu,
    "Relu6": relu6,
    "StridedSlice": strided_slice,
    "Tile": tile,
}


def require_plain_layout(graph: Graph) -> None:
    """Refuse the layouts that the gradients above are not written for, in the traced forward pass.

    Raises:
        BundleError: "convert-layout", naming the layer.
    """
    for op in graph.get_operations():
        attributes = {attribute.name for attribute in op.op_def.attr}
        if op.type in LOWERINGS and "data_format" in attributes and op.get_attr("data_format") != b"NHWC":
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

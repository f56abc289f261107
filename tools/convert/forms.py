"""Other forms of forward operations, for those that TFLite lacks or whose parts have lowered gradients.

A replacement takes the traced operation and its new inputs and returns its output, or None to have the operation
copied. It is differentiated part by part, so a form needs no gradient of its own unless its parts lose accuracy.
With ``Forms``, weights are variables, and convolutions are written as ``convolutions`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.convert.convolutions import Convolution, Forms, builtin, convolve, geometry, transposed
from tools.convert.tf import Operation, Tensor, tf
from tools.convert.windows import LOWEST, Axis, axis_of, spread, windows

Replacement: TypeAlias = Callable[[Operation, Sequence[Tensor], Forms | None], Tensor | None]


def _gaussian_tail(distance: Tensor) -> Tensor:
    """Return erfc(distance >= 0) within 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26)."""
    t = 1.0 / (1.0 + 0.3275911 * distance)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return series * tf.exp(-distance * distance)


def _bell(x: Tensor) -> Tensor:
    return (2.0 / math.sqrt(math.pi)) * tf.exp(-x * x)


def erf(_op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor:
    """Error function, whose derivative is a bell curve and not that of the approximation."""

    def form(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return tf.sign(x) * (1.0 - _gaussian_tail(tf.abs(x))), lambda dy: dy * _bell(x)

    return tf.custom_gradient(form)(inputs[0])


def erfc(_op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor:
    """Complementary error function: left of 0 it is 2 less its mirror image."""

    def form(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        tail, right = _gaussian_tail(tf.abs(x)), tf.nn.relu(tf.sign(x))
        return right * tail + (1.0 - right) * (2.0 - tail), lambda dy: -dy * _bell(x)

    return tf.custom_gradient(form)(inputs[0])


def softsign(_op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor:
    """Divide by one more than the distance from 0."""
    return inputs[0] / (1.0 + tf.abs(inputs[0]))


def mean(op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor | None:
    """Average inside each example first, then over the batch: TFLite adds up one value after the other."""
    x, axes = inputs[0], tf.get_static_value(inputs[1])
    if axes is None or not x.shape.is_fully_defined():
        return None
    wanted = sorted({int(axis) % x.shape.rank for axis in axes.reshape(-1)})
    if len(wanted) < 2 or wanted[0] != 0:
        return None
    averaged = tf.reduce_mean(tf.reduce_mean(x, wanted[1:], keepdims=True), [0], keepdims=True)
    return tf.reshape(averaged, op.outputs[0].shape)


def conv2d(op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Write a grouped convolution as one convolution per group."""
    x, w = inputs
    groups = x.shape[3] // w.shape[2]
    if op.get_attr("data_format") != b"NHWC" or (groups == 1 and forms is None):
        return None
    if groups == 1:
        return _conv2d(op, x, w, forms)
    pairs = zip(tf.split(x, groups, axis=3), tf.split(w, groups, axis=3), strict=True)
    return tf.concat([_conv2d(op, part, kernel, forms) for part, kernel in pairs], axis=3)


def _conv2d(op: Operation, x: Tensor, w: Tensor, forms: Forms | None) -> Tensor:
    if forms is not None:
        return convolve(geometry(op, x, w, op.outputs[0]), x, w, forms)
    padding = op.get_attr("padding").decode()
    if padding == "EXPLICIT":
        places = op.get_attr("explicit_paddings")
        padding = [places[2 * axis : 2 * axis + 2] for axis in range(4)]
    return tf.nn.conv2d(x, w, op.get_attr("strides"), padding, dilations=op.get_attr("dilations"))


def conv2d_transpose(op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Write the transposed convolution, whose output is the input of the plain one."""
    _, w, dy = inputs
    if forms is None or op.get_attr("data_format") != b"NHWC":
        return None
    return transposed(geometry(op, op.outputs[0], w, dy), w, dy, forms)


def conv3d(op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Write a 3-D convolution as a sum over kernel depths of 2-D ones, with the depth of x in the batch."""
    if op.get_attr("data_format") != b"NDHWC":
        return None
    x, w = inputs
    strides, dilations, padding = op.get_attr("strides"), op.get_attr("dilations"), op.get_attr("padding").decode()
    depth = axis_of(x.shape[1], op.outputs[0].shape[1], w.shape[0], strides[1], dilations[1], padding)
    planes = [
        axis_of(x.shape[i], op.outputs[0].shape[i], w.shape[i - 1], strides[i], dilations[i], padding) for i in (2, 3)
    ]
    outputs = op.outputs[0].shape
    convolution = Convolution(x.shape[0] * outputs[1], x.shape[4], w.shape[4], *planes)
    parts = []
    for k, taken in enumerate(windows(x, 1, depth)):
        merged = tf.reshape(taken, convolution.x_shape)
        parts.append(convolve(convolution, merged, w[k], forms) if forms else builtin(convolution, merged, w[k]))
    return tf.reshape(reduce(add, parts), [x.shape[0], *outputs[1:]])


def average_pool3d(op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor | None:
    """Average each plane, then along the depth."""
    return None if op.get_attr("data_format") != b"NDHWC" else _pooled3d(op, inputs[0], tf.nn.avg_pool2d)


def max_pool3d(op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor | None:
    """Take the maximum of each plane, then along the depth; all equals of a maximum get its gradient, as TensorFlow.

    In two dimensions only the first of them gets it (``gradients.max_pool``).
    """
    if op.get_attr("data_format") != b"NDHWC":
        return None
    strides, kernel, padding = op.get_attr("strides"), op.get_attr("ksize"), op.get_attr("padding").decode()
    lengths, outputs = inputs[0].shape, op.outputs[0].shape
    axes = [axis_of(lengths[i], outputs[i], kernel[i], strides[i], 1, padding) for i in (1, 2, 3)]

    def form(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = _pooled3d(op, x, tf.nn.max_pool2d)
        return y, lambda dy: _to_equals(x, y, dy, axes)

    return tf.custom_gradient(form)(inputs[0])


def _pooled3d(op: Operation, x: Tensor, pool: Callable[..., Tensor]) -> Tensor:
    (_, depth, rows, columns, _), strides = op.get_attr("ksize"), op.get_attr("strides")
    padding = op.get_attr("padding").decode()
    planes = pool(tf.reshape(x, [-1, *x.shape[2:]]), [rows, columns], strides[2:4], padding)
    height, width, channels = planes.shape[1:]
    lines = tf.reshape(planes, [x.shape[0], x.shape[1], height * width, channels])
    pooled = pool(lines, [depth, 1], [strides[1], 1], padding)
    return tf.reshape(pooled, [x.shape[0], pooled.shape[1], height, width, channels])


def _to_equals(x: Tensor, y: Tensor, dy: Tensor, axes: Sequence[Axis], dimension: int = 1) -> Tensor:
    """Return dx: dy where x equals y, window by window, axis by axis; y - x is 0 or positive in a window."""
    if dimension > len(axes):
        return dy * (1.0 - tf.sign(y - x))
    axis = axes[dimension - 1]
    parts = [_to_equals(part, y, dy, axes, dimension + 1) for part in windows(x, dimension, axis, LOWEST)]
    return spread(parts, dimension, axis)


def resize_bilinear(op: Operation, inputs: Sequence[Tensor], _forms: Forms | None) -> Tensor:
    """Bilinear resizing is linear along each axis: two products with constant matrices."""
    x = inputs[0]
    height, width = op.outputs[0].shape[1:3]
    modes = op.get_attr("align_corners"), op.get_attr("half_pixel_centers")
    down = tf.constant(_interpolation(x.shape[1], height, *modes))
    across = tf.constant(_interpolation(x.shape[2], width, *modes))
    tall = tf.matmul(down[None], tf.reshape(x, [x.shape[0], x.shape[1], -1]))
    tall = tf.reshape(tall, [-1, x.shape[2], x.shape[3]])
    return tf.reshape(tf.matmul(across[None], tall), [x.shape[0], height, width, x.shape[3]])


def _interpolation(length: int, wanted: int, align_corners: bool, half_pixel_centers: bool) -> NDArray[np.float32]:  # noqa: FBT001
    """Return f32[wanted, length]: how much of each input is in each output."""
    places = np.arange(wanted, dtype=np.float64)
    if align_corners and wanted > 1:
        places *= (length - 1) / (wanted - 1)
    else:
        places = (places + 0.5) * length / wanted - 0.5 if half_pixel_centers else places * length / wanted
    places = np.clip(places, 0, length - 1)
    low = np.floor(places).astype(int)
    share, high = places - low, np.minimum(low + 1, length - 1)
    matrix = np.zeros((wanted, length), np.float32)
    rows = np.arange(wanted)
    np.add.at(matrix, (rows, low), 1.0 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


REPLACEMENTS: dict[str, Replacement] = {
    "AvgPool3D": average_pool3d,
    "Conv2D": conv2d,
    "Conv2DBackpropInput": conv2d_transpose,
    "Conv3D": conv3d,
    "Erf": erf,
    "Erfc": erfc,
    "MaxPool3D": max_pool3d,
    "Mean": mean,
    "ResizeBilinear": resize_bilinear,
    "Softsign": softsign,
}

"""The gradients of depthwise convolutions, as depthwise convolutions: DEPTHWISE_CONV_2D is fast for variables, too.

Notation as in ``gradients``: y[i] = sum over k of x[i * stride + k * dilation - pad] w[k], channel by channel.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Final

from tools.convert.tf import Operation, Tensor, tf
from tools.convert.windows import Axis, axes_of

_MOST_CHANNELS: Final = 4096  # TFLite's kernel adds up in a buffer of 4,832 numbers


def depthwise_conv2d(op: Operation, dy: Tensor) -> list[Tensor | None]:
    """Return dx and dw of a traced DepthwiseConv2dNative."""
    x, w = op.inputs
    axes = axes_of(op, x, dy, w.shape[:2].as_list())
    return [_input_gradient(x, w, dy, axes), _filter_gradient(x, w, dy, axes)]


def _input_gradient(x: Tensor, w: Tensor, dy: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Slide the reversed kernel over dy, between whose elements there are stride - 1 zeros.

    dx[j] = sum over k of dy[i] w[k] where j = i * stride + k * dilation - pad; outputs of one channel are added up.
    """
    height, width, channels, multiplier = w.shape.as_list()
    # Both axes as one: tflite-runtime 2.14 reverses but the first of several.
    turned = tf.reverse(tf.reshape(w, [height * width, channels * multiplier]), [0])
    reversed_w = tf.reshape(turned, [height, width, channels * multiplier, 1])
    for dimension, axis in enumerate(axes, start=1):
        dy = _apart(dy, dimension, axis.stride)
        before = (axis.kernel - 1) * axis.dilation - axis.pad
        # Elements of x beyond the last window get zeros, and those that padding added get nothing.
        dy = _framed(dy, dimension, before, axis.length + (axis.kernel - 1) * axis.dilation)
    dx = _depthwise(dy, reversed_w, [1, 1], [axis.dilation for axis in axes])
    if multiplier == 1:
        return dx
    return tf.reduce_sum(tf.reshape(dx, [*x.shape, multiplier]), axis=-1)


def _filter_gradient(x: Tensor, w: Tensor, dy: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Slide dy as a large kernel over x, each example's channels as channels of their own, and sum over the examples.

    dw[k] = sum over i of x[i * stride + k * dilation - pad] dy[i]: stride and dilation have changed places.
    """
    batch, channels = x.shape[0], x.shape[3]
    height, width, _, multiplier = w.shape.as_list()
    for dimension, axis in enumerate(axes, start=1):
        read = (axis.outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1
        x = _framed(x, dimension, axis.pad, read)
    x = tf.transpose(x, [1, 2, 0, 3])
    dy = tf.transpose(dy, [1, 2, 0, 3])
    step = max(_MOST_CHANNELS // (channels * multiplier), 1)
    parts = []
    for first in range(0, batch, step):
        some = min(step, batch - first)
        image = _part(x, first, some)
        kernel = _part(dy, first, some)
        moved = _depthwise(
            tf.reshape(image, [1, *image.shape[:2], some * channels]),
            tf.reshape(kernel, [*kernel.shape[:2], some * channels, multiplier]),
            [axis.dilation for axis in axes],
            [axis.stride for axis in axes],
        )
        parts.append(tf.reduce_sum(tf.reshape(moved, [height * width, some, channels * multiplier]), axis=1))
    return tf.reshape(reduce(add, parts), w.shape)


def _part(x: Tensor, first: int, count: int) -> Tensor:
    if count == x.shape[2]:
        return x
    return tf.slice(x, [0, 0, first, 0], [*x.shape[:2], count, x.shape[3]])


def _depthwise(x: Tensor, w: Tensor, strides: list[int], dilations: list[int]) -> Tensor:
    # tf.nn.depthwise_conv2d would write dilations with SpaceToBatch.
    return tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=w, strides=[1, *strides, 1], padding="VALID", dilations=[1, *dilations, 1]
    )


def _apart(x: Tensor, dimension: int, stride: int) -> Tensor:
    """Put stride - 1 zeros after every element along a dimension."""
    if stride == 1:
        return x
    shape = x.shape.as_list()
    merged = tf.reshape(x, [*shape[: dimension + 1], 1, -1])
    wide = tf.pad(merged, [[0, 0]] * (dimension + 1) + [[0, stride - 1], [0, 0]])
    return tf.reshape(wide, [*shape[:dimension], shape[dimension] * stride, *shape[dimension + 1 :]])


def _framed(x: Tensor, dimension: int, before: int, length: int) -> Tensor:
    """Return x with ``before`` zeros in front (negative: so many fewer elements), cut or filled to ``length``."""
    shape = x.shape.as_list()
    first = max(-before, 0)
    count = min(shape[dimension] - first, length - max(before, 0))
    if count != shape[dimension]:
        begin, size = [0] * len(shape), list(shape)
        begin[dimension], size[dimension] = first, count
        x = tf.slice(x, begin, size)
    paddings = [[0, 0] for _ in shape]
    paddings[dimension] = [max(before, 0), length - max(before, 0) - count]
    return tf.pad(x, paddings) if any(paddings[dimension]) else x

"""Operations of a training program in an order that costs less and gives the same numbers.

A device pays for every pass over a large tensor, and a reshape is one: TFLite copies. ``REORDERED`` maps the type of
an operation to its form, in the sense of ``forms.REPLACEMENTS``. Inference twins keep Keras' order, for which
quantizers are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tools.convert.tf import Operation, Tensor, tf

if TYPE_CHECKING:
    from tools.convert.convolutions import Forms

_SHAPE_ONLY = ("ExpandDims", "Reshape", "Squeeze")


def max_pool(op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Pool before the ReLU, whose pass forth and back is over fewer elements then.

    A ReLU never falls, so max(relu(x)) = relu(max(x)); where all of a window are negative, no gradient passes in either
    order, else it goes to the same first winner.
    """
    padding, strides, window = op.get_attr("padding"), op.get_attr("strides"), op.get_attr("ksize")
    if padding == b"EXPLICIT" or op.get_attr("data_format") != b"NHWC":
        return None
    return _before_relu(inputs[0], forms, lambda x: tf.nn.max_pool2d(x, window, strides, padding.decode()))


def largest(op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Take the maximum over some axes before the ReLU, as ``max_pool``: equals share a gradient only if above zero."""
    axes = tf.get_static_value(inputs[1])
    if axes is None:
        return None
    return _before_relu(inputs[0], forms, lambda x: tf.reduce_max(x, axes, keepdims=op.get_attr("keep_dims")))


def add_bias(_op: Operation, inputs: Sequence[Tensor], forms: Forms | None) -> Tensor | None:
    """Add a bias where the convolution of a sequence left it, as an image of one row, and drop the row after that."""
    x, bias = inputs
    if forms is None or x.op.type != "Squeeze" or not x.shape.is_fully_defined():
        return None
    image = x.op.inputs[0]
    channels = x.shape[-1]
    if bias.shape.as_list() != [1] * (bias.shape.rank - 1) + [channels] or image.shape[-1] != channels:
        return None
    return tf.reshape(image + tf.reshape(bias, [channels]), x.shape)


def _before_relu(x: Tensor, forms: Forms | None, pool: Callable[[Tensor], Tensor]) -> Tensor | None:
    relu = _unshaped(x).op
    if forms is None or relu.type != "Relu" or not x.shape.is_fully_defined():
        return None
    before = _unshaped(relu.inputs[0])
    return tf.nn.relu(pool(before if before.shape == x.shape else tf.reshape(before, x.shape)))


def _unshaped(x: Tensor) -> Tensor:
    """Return what was only given other shapes on the way to ``x``."""
    while x.op.type in _SHAPE_ONLY:
        x = x.op.inputs[0]
    return x


REORDERED = {"AddV2": add_bias, "BiasAdd": add_bias, "Max": largest, "MaxPool": max_pool}

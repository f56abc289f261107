"""Sliding windows along one axis, and back, with operations that every TFLite runtime does fast.

A window operation reads element ``i * stride + k * dilation - pad`` for output ``i`` and kernel position ``k``.
Strided slices and scatters are slow or missing; so the padded axis is cut into groups of ``stride`` elements, of which
kernel position k with ``k * dilation = q * stride + r`` reads number r of the groups from q on: a plain slice. Elements
of a group lie side by side in the next axis, so that what is cut out has its shape already: a reshape is a copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from tools.convert.tf import Operation, Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Sequence


LOWEST = -3.0e38  # padding that no maximum picks; -inf would make inf - inf = NaN
_MOST_DIMENSIONS = 4  # that every runtime pads and slices quickly


@dataclass(frozen=True)
class Axis:
    """How one spatial axis of a window operation reads its input."""

    length: int  # of the input
    outputs: int
    kernel: int
    stride: int
    dilation: int
    pad: int  # before the first element

    @property
    def groups(self) -> int:
        """How many groups of ``stride`` elements the padded input has that the windows cover."""
        last = (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        return -(-max(last, self.pad + self.length) // self.stride)

    @property
    def whole(self) -> bool:
        """Whether there is one window position, so that windows are the tensor itself."""
        return self.kernel == 1 and self.stride == 1 and not self.pad and self.length == self.outputs

    def place(self, k: int) -> tuple[int, int]:
        """Return the first group that kernel position k reads, and the number of the element in its group."""
        return divmod(k * self.dilation, self.stride)


def axis_of(length: int, outputs: int, kernel: int, stride: int, dilation: int, padding: str) -> Axis:
    """Return an axis with TensorFlow's padding "SAME" or "VALID"."""
    span = (outputs - 1) * stride + (kernel - 1) * dilation + 1
    return Axis(length, outputs, kernel, stride, dilation, max(span - length, 0) // 2 if padding == "SAME" else 0)


def axes_of(op: Operation, x: Tensor, y: Tensor, kernel: Sequence[int]) -> tuple[Axis, Axis]:
    """Return rows and columns of a traced 2-D convolution or pooling from x [b, h, w, c] to y [b, h', w', c']."""
    strides = op.get_attr("strides")
    names = {attribute.name for attribute in op.op_def.attr}
    dilations = op.get_attr("dilations") if "dilations" in names else [1, 1, 1, 1]
    padding = op.get_attr("padding").decode()
    axes = [axis_of(x.shape[i], y.shape[i], kernel[i - 1], strides[i], dilations[i], padding) for i in (1, 2)]
    if padding == "EXPLICIT":
        before = op.get_attr("explicit_paddings")[2::2]
        axes = [replace(axis, pad=pad) for axis, pad in zip(axes, before, strict=False)]
    return axes[0], axes[1]


def windows(x: Tensor, dimension: int, axis: Axis, value: float = 0.0) -> list[Tensor]:
    """Return what each kernel position reads along ``dimension`` of x; outside of x that is ``value``."""
    if axis.whole:
        return [x]
    shape = x.shape.as_list()
    wanted = [*shape[:dimension], axis.outputs, *shape[dimension + 1 :]]
    lines, at = _line(x, dimension, axis)
    lines = _padded(lines, at, axis.pad, axis.groups * axis.stride, value)
    phases = [lines]
    if axis.stride > 1:
        inner = lines.shape[at + 1]
        grouped = tf.reshape(lines, [*lines.shape[:at], axis.groups, axis.stride * inner, *lines.shape[at + 2 :]])
        # Not split: a part that nobody reads is not written either.
        phases = [_taken(grouped, at + 1, phase * inner, inner) for phase in range(axis.stride)]
    places = [axis.place(k) for k in range(axis.kernel)]
    return [_shaped(_taken(phases[phase], at, first, axis.outputs), wanted) for first, phase in places]


def padded(x: Tensor, dimension: int, axis: Axis) -> tuple[Tensor, Axis]:
    """Return x with the zeros that its windows read around it, and the axis of that."""
    covered = axis.groups * axis.stride
    return _padded(x, dimension, axis.pad, covered), replace(axis, length=covered, pad=0)


def spread(parts: Sequence[Tensor], dimension: int, axis: Axis) -> Tensor:
    """Add up gradients where the windows read them: the transpose of ``windows``, one part per kernel position."""
    if axis.whole:
        return parts[0]
    shape = parts[0].shape.as_list()
    sums: list[list[Tensor]] = [[] for _ in range(axis.stride)]
    for k, part in enumerate(parts):
        first, phase = axis.place(k)
        line, at = _line(part, dimension, axis)
        sums[phase].append(_padded(line, at, first, axis.groups))
    # Position 0 reads phase 0, so that one is never empty.
    filled = [reduce(add, phase) if phase else tf.zeros_like(sums[0][0]) for phase in sums]
    lines = filled[0]
    if axis.stride > 1:
        single = [*lines.shape[:at], axis.groups * axis.stride, *lines.shape[at + 1 :]]
        lines = tf.reshape(tf.concat(filled, axis=at + 1), single)
    lines = _taken(lines, at, axis.pad, axis.length)
    return _shaped(lines, [*shape[:dimension], axis.length, *shape[dimension + 1 :]])


def shifted(part: Tensor, dimension: int, by: int) -> Tensor:
    """Return a tensor of the same shape whose element i is ``part``'s element i + by, 0 where there is none."""
    length = part.shape[dimension]
    if abs(by) >= length:
        return tf.zeros(part.shape)
    return _padded(_taken(part, dimension, max(by, 0), length - abs(by)), dimension, max(-by, 0), length)


def windows_2d(x: Tensor, rows: Axis, columns: Axis, value: float = 0.0) -> list[Tensor]:
    """Return what each kernel position (row-major) reads of x [b, h, w, c]: [b, h', w', c]."""
    return [window for line in windows(x, 1, rows, value) for window in windows(line, 2, columns, value)]


def spread_2d(parts: Sequence[Tensor], rows: Axis, columns: Axis) -> Tensor:
    """Return the transpose of ``windows_2d``: [b, h, w, c] from one [b, h', w', c] per kernel position."""
    k = columns.kernel
    lines = [spread(parts[i * k : (i + 1) * k], 2, columns) for i in range(rows.kernel)]
    return spread(lines, 1, rows)


def _line(x: Tensor, dimension: int, axis: Axis) -> tuple[Tensor, int]:
    """Return x in a shape that can be cut along ``axis``, and at which dimension that is.

    Where x has too many dimensions, or none for groups, that is [outer, length, inner].
    """
    shape = x.shape.as_list()
    if len(shape) <= _MOST_DIMENSIONS and (axis.stride == 1 or dimension + 1 < len(shape)):
        return x, dimension
    return tf.reshape(x, [math.prod(shape[:dimension]), shape[dimension], math.prod(shape[dimension + 1 :])]), 1


def _padded(x: Tensor, dimension: int, before: int, length: int, value: float = 0.0) -> Tensor:
    after = length - before - x.shape[dimension]
    if not before and not after:
        return x
    paddings = [[0, 0] for _ in x.shape]
    paddings[dimension] = [before, after]
    return tf.pad(x, paddings, constant_values=value)


def _taken(x: Tensor, dimension: int, first: int, length: int) -> Tensor:
    if x.shape[dimension] == length:
        return x
    begin, size = [0] * x.shape.rank, x.shape.as_list()
    begin[dimension], size[dimension] = first, length
    return tf.slice(x, begin, size)


def _shaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if x.shape.as_list() == list(shape) else tf.reshape(x, shape)

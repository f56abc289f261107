"""Sliding windows along one axis, and back, with operations that every TFLite runtime does fast.

Tensors are seen as [outer, length, inner] with the axis in the middle. A window operation reads element
``i * stride + k * dilation - pad`` for output ``i`` and kernel position ``k``. Strided slices and scatters are slow
or missing; so the padded axis is cut into groups of ``stride`` elements, of which kernel position k with
``k * dilation = q * stride + r`` reads number r of the groups from q on: a plain slice.
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
    outer, inner = math.prod(shape[:dimension]), math.prod(shape[dimension + 1 :])
    covered = axis.groups * axis.stride
    lines = tf.reshape(x, [outer, axis.length, inner])
    after = covered - axis.pad - axis.length
    if axis.pad or after:
        lines = tf.pad(lines, [[0, 0], [axis.pad, after], [0, 0]], constant_values=value)
    phases = [lines]
    if axis.stride > 1:
        phases = tf.split(tf.reshape(lines, [outer, axis.groups, axis.stride * inner]), axis.stride, axis=2)
    wanted = [*shape[:dimension], axis.outputs, *shape[dimension + 1 :]]
    result = []
    for k in range(axis.kernel):
        first, phase = axis.place(k)
        taken = phases[phase]
        if axis.outputs != axis.groups:
            taken = tf.slice(taken, [0, first, 0], [outer, axis.outputs, inner])
        result.append(tf.reshape(taken, wanted))
    return result


def spread(parts: Sequence[Tensor], dimension: int, axis: Axis) -> Tensor:
    """Add up gradients where the windows read them: the transpose of ``windows``, one part per kernel position."""
    if axis.whole:
        return parts[0]
    shape = parts[0].shape.as_list()
    outer, inner = math.prod(shape[:dimension]), math.prod(shape[dimension + 1 :])
    sums: list[list[Tensor]] = [[] for _ in range(axis.stride)]
    for k, part in enumerate(parts):
        first, phase = axis.place(k)
        sums[phase].append(_embed(tf.reshape(part, [outer, axis.outputs, inner]), first, axis.groups))
    nothing = tf.zeros([outer, axis.groups, inner]) if not all(sums) else None
    filled = [reduce(add, phase) if phase else nothing for phase in sums]
    lines = tf.concat(filled, axis=2) if axis.stride > 1 else filled[0]
    lines = tf.reshape(lines, [outer, axis.groups * axis.stride, inner])
    if axis.groups * axis.stride != axis.length:
        lines = tf.slice(lines, [0, axis.pad, 0], [outer, axis.length, inner])
    return tf.reshape(lines, [*shape[:dimension], axis.length, *shape[dimension + 1 :]])


def shifted(part: Tensor, dimension: int, by: int) -> Tensor:
    """Return a tensor of the same shape whose element i is ``part``'s element i + by, 0 where there is none."""
    shape = part.shape.as_list()
    length, inner = shape[dimension], math.prod(shape[dimension + 1 :])
    outer = math.prod(shape[:dimension])
    if by == 0:
        return part
    if abs(by) >= length:
        return tf.zeros(shape)
    kept = tf.slice(tf.reshape(part, [outer, length, inner]), [0, max(by, 0), 0], [outer, length - abs(by), inner])
    return tf.reshape(_embed(kept, max(-by, 0), length), shape)


def windows_2d(x: Tensor, rows: Axis, columns: Axis, value: float = 0.0) -> list[Tensor]:
    """Return what each kernel position (row-major) reads of x [b, h, w, c]: [b, h', w', c]."""
    return [window for line in windows(x, 1, rows, value) for window in windows(line, 2, columns, value)]


def spread_2d(parts: Sequence[Tensor], rows: Axis, columns: Axis) -> Tensor:
    """Return the transpose of ``windows_2d``: [b, h, w, c] from one [b, h', w', c] per kernel position."""
    k = columns.kernel
    lines = [spread(parts[i * k : (i + 1) * k], 2, columns) for i in range(rows.kernel)]
    return spread(lines, 1, rows)


def _embed(part: Tensor, before: int, length: int) -> Tensor:
    after = length - before - part.shape[1]
    return tf.pad(part, [[0, 0], [before, after], [0, 0]]) if before or after else part

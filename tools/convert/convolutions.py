"""Convolutions whose weights are variables, in the forms that are fastest where they run.

TFLite's kernels are fast for constant weights only. Written with matrix products, all three passes of a training
step run several times faster: *forward* y = x * w, *input* dx from dy and w, *filter* dw from x and dy. Each has
these forms, of which ``choose`` picks by measuring:

- ``builtin``: CONV_2D or TRANSPOSE_CONV.
- ``patches``: the inputs of all windows side by side as a matrix (im2col; Chellapilla et al. 2006, High
  Performance Convolutional Neural Networks for Document Processing, section 2.1), then one product.
- ``rows``: side by side only along columns, so that the matrix is smaller by the kernel's height; one product
  per kernel row, and the sum of these, shifted by rows.
- ``turned``, of forward: the matrix of ``patches`` built transposed, where few channels would be copied at a time, and
  then turned; the filter's gradient needs it transposed, and both share it.

A product keeps a batch dimension of one: a plain MatMul becomes FULLY_CONNECTED, which XNNPACK leaves alone
without constant weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal, TypeAlias

from tools.convert.tf import Operation, Tensor, tf
from tools.convert.windows import Axis, axes_of, padded, shifted, spread, windows

Pass: TypeAlias = Literal["forward", "input", "filter"]
Form: TypeAlias = Literal["builtin", "patches", "rows", "turned"]

_FEW = 8  # channels: with so few, a row of patches is too short for a product of its own


@dataclass(frozen=True)
class Convolution:
    """A convolution of x [batch, h, w, channels] with w [kernel h, kernel w, channels, filters]."""

    batch: int
    channels: int
    filters: int
    rows: Axis
    columns: Axis

    @property
    def x_shape(self) -> list[int]:
        """Shape of the input."""
        return [self.batch, self.rows.length, self.columns.length, self.channels]

    @property
    def w_shape(self) -> list[int]:
        """Shape of the filters."""
        return [self.rows.kernel, self.columns.kernel, self.channels, self.filters]

    @property
    def y_shape(self) -> list[int]:
        """Shape of the output."""
        return [self.batch, self.rows.outputs, self.columns.outputs, self.filters]

    @property
    def products(self) -> int:
        """Number of multiplications of one pass."""
        return self.batch * self.rows.outputs * self.columns.outputs * self.filters * self._window

    @property
    def _window(self) -> int:
        return self.rows.kernel * self.columns.kernel * self.channels

    def describe(self) -> str:
        """Return a short name, such as 14x14x32 -> 14x14x64, 5x5."""
        x, w, y = ("x".join(map(str, shape)) for shape in (self.x_shape[1:], self.w_shape[:2], self.y_shape[1:]))
        steps = f", strides {self.rows.stride}x{self.columns.stride}" if self._strided else ""
        dilations = f", dilations {self.rows.dilation}x{self.columns.dilation}" if self._dilated else ""
        return f"{x} -> {y}, {w}{steps}{dilations}"

    @property
    def _strided(self) -> bool:
        return max(self.rows.stride, self.columns.stride) > 1

    @property
    def _dilated(self) -> bool:
        return max(self.rows.dilation, self.columns.dilation) > 1

    def forms(self, which: Pass) -> tuple[Form, ...]:
        """Return the forms that this pass can have."""
        if which == "forward":
            return ("builtin", "patches", "rows", "turned")
        if which == "filter":
            return ("patches", "rows")
        gathers = not self._strided and all(axis.pad < _span(axis) for axis in (self.rows, self.columns))
        products: tuple[Form, ...] = ("patches", "rows") if gathers else ("rows",)
        return products if self._dilated or self.padding is None else ("builtin", *products)

    @property
    def padding(self) -> str | None:
        """TensorFlow's name of the padding; None if it has none."""
        axes = (self.rows, self.columns)
        if all(axis.outputs == -(-axis.length // axis.stride) and axis.pad == _same(axis) for axis in axes):
            return "SAME"
        valid = all(axis.pad == 0 and axis.outputs == (axis.length - _span(axis)) // axis.stride + 1 for axis in axes)
        return "VALID" if valid else None

    def probable(self, which: Pass) -> Form:
        """Return the form that is fastest as a rule."""
        if which == "input":
            return "rows"
        return "patches" if self.channels < _FEW or self.rows.kernel == 1 else "rows"


def _span(axis: Axis) -> int:
    return (axis.kernel - 1) * axis.dilation + 1


def _same(axis: Axis) -> int:
    return max((axis.outputs - 1) * axis.stride + _span(axis) - axis.length, 0) // 2


@dataclass
class Forms:
    """The forms to use, and which convolutions asked for them."""

    chosen: Mapping[tuple[Convolution, Pass], Form] = field(default_factory=dict)
    asked: dict[Convolution, None] = field(default_factory=dict)  # in the order of the model

    def of(self, convolution: Convolution, which: Pass) -> Form:
        """Return the chosen form, or the one that is fastest as a rule."""
        self.asked[convolution] = None
        return self.chosen.get((convolution, which)) or convolution.probable(which)


def geometry(op: Operation, x: Tensor, w: Tensor, y: Tensor) -> Convolution:
    """Return the geometry of a traced Conv2D, or of the Conv2D that a Conv2DBackpropInput is the gradient of."""
    kernel_rows, kernel_columns, channels, filters = w.shape.as_list()
    rows, columns = axes_of(op, x, y, [kernel_rows, kernel_columns])
    return Convolution(x.shape[0], channels, filters, rows, columns)


def convolve(convolution: Convolution, x: Tensor, w: Tensor, forms: Forms) -> Tensor:
    """Return y; its gradients are in the chosen forms, too."""

    def form(x: Tensor, w: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx = input_gradient(convolution, forms.of(convolution, "input"), w, dy)
            return dx, filter_gradient(convolution, forms.of(convolution, "filter"), x, dy)

        return forward(convolution, forms.of(convolution, "forward"), x, w), gradient

    return tf.custom_gradient(form)(x, w)


def transposed(convolution: Convolution, w: Tensor, dy: Tensor, forms: Forms) -> Tensor:
    """Return the transposed convolution of dy, whose gradient is the convolution itself."""

    def form(w: Tensor, dy: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def gradient(dx: Tensor) -> tuple[Tensor, Tensor]:
            dw = filter_gradient(convolution, forms.of(convolution, "filter"), dx, dy)
            return dw, forward(convolution, forms.of(convolution, "forward"), dx, w)

        return input_gradient(convolution, forms.of(convolution, "input"), w, dy), gradient

    return tf.custom_gradient(form)(w, dy)


def forward(c: Convolution, form: Form, x: Tensor, w: Tensor) -> Tensor:
    """Return y[i] = sum over k of x[read(i, k)] w[k], f32[batch, h', w', filters]."""
    if form == "builtin":
        return builtin(c, x, w)
    if form == "turned":
        matrix = tf.transpose(_transposed_patches(c, x), [0, 2, 1])
        return tf.reshape(tf.matmul(matrix, tf.reshape(w, [1, -1, c.filters])), c.y_shape)
    beside = tf.concat(windows(x, 2, c.columns), axis=3)
    if form == "patches":
        beside = tf.concat(windows(beside, 1, c.rows), axis=3)
        return tf.reshape(_product(beside, tf.reshape(w, [1, -1, c.filters])), c.y_shape)
    taps = _cut(w, [c.rows.kernel, 1, -1, c.filters])
    if not _slides(c.rows):
        lines = windows(beside, 1, c.rows)
        return reduce(add, [tf.reshape(_product(line, taps[i]), c.y_shape) for i, line in enumerate(lines)])
    # A product per kernel row over all rows of x, then shifted: shifting y is cheaper than shifting windows.
    parts = [tf.reshape(_product(beside, taps[i]), c.y_shape) for i in range(c.rows.kernel)]
    shifts = [i * c.rows.dilation - c.rows.pad for i in range(c.rows.kernel)]
    return reduce(add, [shifted(part, 1, by) for part, by in zip(parts, shifts, strict=True)])


def filter_gradient(c: Convolution, form: Form, x: Tensor, dy: Tensor) -> Tensor:
    """Return dw[k] = sum over batch and outputs i of x[read(i, k)] dy[i], f32[kernel h, kernel w, channels, filters].

    The matrix of windows is built transposed, which costs less than transposing it: XNNPACK has no product with a
    transposed left side.
    """
    if form == "patches":
        return tf.reshape(tf.matmul(_transposed_patches(c, x), tf.reshape(dy, [1, -1, c.filters])), c.w_shape)
    beside = _beside_across(c, x)
    if _slides(c.rows):
        matrix = tf.reshape(beside, [1, beside.shape[0], -1])
        shifts = [c.rows.pad - i * c.rows.dilation for i in range(c.rows.kernel)]
        parts = [tf.matmul(matrix, tf.reshape(shifted(dy, 1, by), [1, -1, c.filters])) for by in shifts]
    else:
        slopes = tf.reshape(dy, [1, -1, c.filters])
        lines = windows(beside, 2, c.rows)
        parts = [tf.matmul(tf.reshape(line, [1, beside.shape[0], -1]), slopes) for line in lines]
    return tf.reshape(tf.concat(parts, axis=1), c.w_shape)


def _beside_across(c: Convolution, x: Tensor) -> Tensor:
    """Return the windows along columns side by side, [kernel w * channels, batch, h, w']."""
    # Padded before it is transposed: along the innermost dimension padding copies one number at a time.
    x, columns = padded(x, 2, c.columns)
    return tf.concat(windows(tf.transpose(x, [3, 0, 1, 2]), 3, columns), axis=0)


def _transposed_patches(c: Convolution, x: Tensor) -> Tensor:
    """Return the matrix of windows, [1, kernel h * kernel w * channels, batch * h' * w']."""
    beside = tf.concat(windows(_beside_across(c, x), 2, c.rows), axis=0)
    return tf.reshape(beside, [1, beside.shape[0], -1])


def input_gradient(c: Convolution, form: Form, w: Tensor, dy: Tensor) -> Tensor:
    """Return dx[read(i, k)] += dy[i] w[k]^T, f32[batch, h, w, channels].

    ``patches`` gathers instead: x[j] was read at position k by i = j + pad - k * dilation, a window of dy, backwards.
    """
    if form == "builtin":
        strides = [1, c.rows.stride, c.columns.stride, 1]
        return tf.nn.conv2d_transpose(dy, w, c.x_shape, strides, c.padding)
    if form == "patches":
        beside = tf.concat(windows(dy, 2, _mirrored(c.columns))[::-1], axis=3)
        beside = tf.concat(windows(beside, 1, _mirrored(c.rows))[::-1], axis=3)
        return tf.reshape(_product(beside, tf.reshape(tf.transpose(w, [0, 1, 3, 2]), [1, -1, c.channels])), c.x_shape)
    width = c.columns.kernel * c.channels
    taps = _cut(tf.transpose(w, [0, 3, 1, 2]), [c.rows.kernel, 1, c.filters, width])
    shape = [*c.y_shape[:3], width]
    parts = [tf.reshape(_product(dy, taps[i]), shape) for i in range(c.rows.kernel)]
    lines = spread(parts, 1, c.rows)
    parts = tf.split(lines, c.columns.kernel, axis=3) if c.columns.kernel > 1 else [lines]
    return spread(parts, 2, c.columns)


def _mirrored(axis: Axis) -> Axis:
    """Return how the inputs of a sliding window read its outputs."""
    return Axis(axis.outputs, axis.length, axis.kernel, 1, axis.dilation, _span(axis) - 1 - axis.pad)


def _slides(rows: Axis) -> bool:
    return rows.stride == 1 and rows.length == rows.outputs


def _cut(w: Tensor, shape: list[int]) -> list[Tensor]:
    """Return the matrices of w in the given shape, [count, 1, rows, columns]: not even one copy if there is one."""
    if shape[0] == 1:
        return [tf.reshape(w, shape[1:])]
    stacked = tf.reshape(w, shape)
    return [stacked[i] for i in range(shape[0])]


def _product(lines: Tensor, taps: Tensor) -> Tensor:
    return tf.matmul(tf.reshape(lines, [1, -1, lines.shape[-1]]), taps)


def builtin(c: Convolution, x: Tensor, w: Tensor) -> Tensor:
    """Return y by TensorFlow's own operation."""
    strides, dilations = [1, c.rows.stride, c.columns.stride, 1], [1, c.rows.dilation, c.columns.dilation, 1]
    padding = c.padding
    if padding is None:
        after = [
            (axis.outputs - 1) * axis.stride + _span(axis) - axis.length - axis.pad for axis in (c.rows, c.columns)
        ]
        pairs = zip((c.rows.pad, c.columns.pad), after, strict=True)
        x = tf.pad(x, [[0, 0], *([before, max(end, 0)] for before, end in pairs), [0, 0]])
        padding = "VALID"
    return tf.nn.conv2d(x, w, strides, padding, dilations=dilations)

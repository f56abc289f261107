"""Convolutions written anew: every form computes what TensorFlow computes, whatever the geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import BundleError
from tools.convert import choose as choosing
from tools.convert.convolutions import (
    Convolution,
    Forms,
    builtin,
    convolve,
    filter_gradient,
    forward,
    input_gradient,
    transposed,
)
from tools.convert.gradients import override_map
from tools.convert.tf import tf
from tools.convert.windows import Axis, axis_of, spread, windows


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)) if stride == 1 else 1
    span = (kernel - 1) * dilation + 1
    length, padding = draw(st.integers(span, 9)), draw(st.sampled_from(["SAME", "VALID"]))
    outputs = -(-length // stride) if padding == "SAME" else (length - span) // stride + 1
    return axis_of(length, outputs, kernel, stride, dilation, padding)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    batch, channels, filters = (draw(st.integers(1, 3)) for _ in range(3))
    return Convolution(batch, channels, filters, draw(axes()), draw(axes()))


def _close(got: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_every_form_is_the_convolution_and_its_gradients(convolution: Convolution, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shapes = (convolution.x_shape, convolution.w_shape, convolution.y_shape)
    x, w, dy = (tf.constant(generator.normal(size=shape), tf.float32) for shape in shapes)
    strides = (convolution.rows.stride, convolution.columns.stride)
    # TensorFlow's own kernels have no gradient for the others on a CPU; some have none for dilated kernels.
    assume(strides[0] == strides[1])
    around = [[0, 0], _around(convolution.rows), _around(convolution.columns), [0, 0]]
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        places = (_places(convolution.rows), _places(convolution.columns))
        wide = tf.einsum("abcd,ai,bj->ijcd", w, *places)
        y = tf.nn.conv2d(tf.pad(x, around), wide, [1, *strides, 1], "VALID")
    for form in convolution.forms("forward"):
        _close(forward(convolution, form, x, w), y)
    dx, dw = tape.gradient(y, [x, w], output_gradients=dy)
    for form in convolution.forms("input"):
        _close(input_gradient(convolution, form, w, dy), dx)
    for form in convolution.forms("filter"):
        _close(filter_gradient(convolution, form, x, dy), dw)


def _places(axis: Axis) -> NDArray[np.float32]:
    """Return which element of the window each kernel position reads, one-hot f32[kernel, span]."""
    span = (axis.kernel - 1) * axis.dilation + 1
    return np.eye(span, dtype=np.float32)[:: axis.dilation]


def _around(axis: Axis) -> list[int]:
    covered = (axis.outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1
    return [axis.pad, max(covered - axis.pad - axis.length, 0)]


@settings(max_examples=50, deadline=None)
@given(axes(), st.integers(0, 2**32 - 1))
def test_spreading_is_the_transpose_of_reading(axis: Axis, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = tf.constant(generator.normal(size=(2, axis.length, 3)), tf.float32)
    parts = [tf.constant(generator.normal(size=(2, axis.outputs, 3)), tf.float32) for _ in range(axis.kernel)]
    read = sum(float(tf.reduce_sum(a * b)) for a, b in zip(windows(x, 1, axis), parts, strict=True))
    assert read == pytest.approx(float(tf.reduce_sum(x * spread(parts, 1, axis))), rel=1e-4, abs=1e-4)


SMALL = Convolution(2, 3, 4, axis_of(8, 8, 3, 1, 1, "SAME"), axis_of(8, 8, 3, 1, 1, "SAME"))
LARGE = Convolution(4, 16, 16, axis_of(14, 14, 5, 1, 1, "SAME"), axis_of(14, 14, 5, 1, 1, "SAME"))


def test_the_form_that_is_differentiated_is_asked_for() -> None:
    forms = Forms()
    x, w = tf.ones(SMALL.x_shape), tf.ones(SMALL.w_shape)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = convolve(SMALL, x, w, forms)
    _close(tape.gradient(y, w), filter_gradient(SMALL, "patches", x, tf.ones(SMALL.y_shape)))
    assert list(forms.asked) == [SMALL]
    _close(transposed(SMALL, w, y, forms), input_gradient(SMALL, "builtin", w, y))
    _close(builtin(SMALL, x, w), y)


def test_the_winner_is_the_fastest_in_the_targets_runtime() -> None:
    _, choices = choosing.choose([SMALL, LARGE], "litert")
    by_rule = [choice for choice in choices if choice.convolution == SMALL]
    assert all(not choice.times_ms for choice in by_rule)  # too small to be worth measuring
    for choice in (choice for choice in choices if choice.convolution == LARGE):
        (taken,) = choice.times_ms.values()
        assert set(taken) == set(LARGE.forms(choice.which))
        assert taken[choice.form] == min(taken.values())


def test_a_form_that_is_a_little_slower_everywhere_beats_one_that_is_terrible_somewhere() -> None:
    times = {"a": {"patches": 1.0, "rows": 1.2}, "b": {"patches": 9.0, "rows": 3.0}}
    assert choosing._fastest(("patches", "rows"), times) == "rows"


def test_a_target_whose_runtime_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "installed_runtimes", lambda: ["ai-edge-litert"])
    with pytest.raises(BundleError, match="tflite-runtime, which is not installed") as caught:
        choosing.choose([LARGE], "tflite-runtime")
    assert caught.value.code == "convert-target"
    _, choices = choosing.choose([LARGE], "low-memory")
    assert {choice.form for choice in choices} == {"rows"}


def test_a_measurement_that_does_not_end_is_an_error_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_TIMEOUT_S", 0)
    with pytest.raises(BundleError, match="did not measure the candidates") as caught:
        choosing.choose([LARGE], "litert")
    assert caught.value.code == "convert-target"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([[1], [2], [1, 2]]), st.booleans())
def test_the_gradient_of_a_maximum_is_shared_among_equals(seed: int, axes: list[int], keep: bool) -> None:  # noqa: FBT001
    generator = np.random.default_rng(seed)
    x = tf.constant(generator.integers(0, 3, size=(2, 4, 3)), tf.float32)

    def gradient(x: object) -> object:
        y = tf.reduce_max(x, axes, keepdims=keep)
        return tf.gradients(y * y, x)[0]

    def lowered(x: object) -> object:
        with tf.compat.v1.get_default_graph().gradient_override_map(override_map()):
            return gradient(x)

    _close(tf.function(lowered)(x), tf.function(gradient)(x))

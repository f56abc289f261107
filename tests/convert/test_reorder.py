"""Maxima before ReLUs: the same values and the same gradients as in Keras' order, ties and dead units included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tools.convert.convolutions import Forms
from tools.convert.gradients import override_map
from tools.convert.replay import Manner, replay
from tools.convert.tf import tf

SHAPE = (2, 1, 8, 3)
# Few different values: most windows have a tie, and many have nothing above zero.
WHOLE = arrays(np.float32, SHAPE, elements=st.integers(-2, 2).map(float))


def _pooled(x: Any) -> Any:  # noqa: ANN401 - TensorFlow has no types
    return tf.nn.max_pool2d(tf.nn.relu(x), [1, 2], [1, 2], "VALID")


def _overlapping(x: Any) -> Any:  # noqa: ANN401
    return tf.nn.max_pool2d(tf.nn.relu(x), [1, 3], [1, 2], "SAME")


def _sequence(x: Any) -> Any:  # noqa: ANN401
    line = tf.nn.relu(tf.squeeze(x, [1]) + tf.constant([[[1.0, 0.0, -1.0]]]))
    return tf.squeeze(tf.nn.max_pool2d(tf.expand_dims(line, 1), [1, 2], [1, 2], "VALID"), [1])


def _strongest(x: Any) -> Any:  # noqa: ANN401
    return tf.reduce_max(tf.nn.relu(tf.nn.bias_add(tf.squeeze(x, [1]), tf.constant([0.0, 1.0, 2.0]))), 1)


def _types(graph: Any) -> list[str]:  # noqa: ANN401
    return [op.type for op in graph.get_operations()]


@pytest.mark.parametrize("body", [_pooled, _overlapping, _sequence, _strongest])
@settings(max_examples=30, deadline=None)
@given(x=WHOLE, seed=st.integers(0, 99))
def test_another_order_has_the_same_values_and_gradients(body: Callable[[Any], Any], x: Any, seed: int) -> None:  # noqa: ANN401
    traced = tf.function(body).get_concrete_function(tf.TensorSpec(SHAPE, tf.float32))
    slopes = np.random.default_rng(seed).normal(size=traced.outputs[0].shape).astype(np.float32)

    def anew(x: Any) -> tuple[Any, Any]:  # noqa: ANN401
        with tf.compat.v1.get_default_graph().gradient_override_map(override_map()):
            (y,) = replay(traced.graph, {traced.inputs[0].name: x}, traced.outputs, Manner(forms=Forms()))
            return y, tf.gradients(y, x, grad_ys=tf.constant(slopes))[0]

    with tf.GradientTape() as tape:
        given_x = tf.constant(x)
        tape.watch(given_x)
        expected = body(given_x)
    program = tf.function(anew).get_concrete_function(tf.TensorSpec(SHAPE, tf.float32))
    got, gradient = program(given_x)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(gradient, tape.gradient(expected, given_x, output_gradients=slopes), rtol=1e-6)
    order = [kind for kind in _types(program.graph) if kind in {"MaxPool", "Max", "Relu"}]
    assert order[-1] == "Relu"

"""The gradients of depthwise convolutions are TensorFlow's, whatever the geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.trainer.runtime import installed_runtimes, load_interpreter
from tools.convert.emit import emit_inference
from tools.convert.gradients import override_map
from tools.convert.tf import tf

BATCH = 4


@dataclass(frozen=True)
class Geometry:
    """Of one depthwise convolution."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: str
    channels: int
    multiplier: int
    dilation: int = 1

    def gradients(self, x: Any, w: Any) -> list[Any]:  # noqa: ANN401 - TensorFlow has no types
        # TensorFlow cannot differentiate a dilated kernel on a CPU, but one with zeros between its elements.
        wide = tf.einsum("abcd,ai,bj->ijcd", w, *(self._places(length) for length in self.kernel))
        y = tf.nn.depthwise_conv2d(x, wide, [1, self.stride, self.stride, 1], self.padding)
        return list(tf.gradients(y * y, [x, w]))

    def _places(self, length: int) -> NDArray[np.float32]:
        """Return where in the window each element of the kernel is, one-hot f32[length, span]."""
        return np.eye((length - 1) * self.dilation + 1, dtype=np.float32)[:: self.dilation]

    def function(self, body: Callable[[Any, Any], list[Any]]) -> Any:  # noqa: ANN401
        shapes = ([BATCH, *self.size, self.channels], [*self.kernel, self.channels, self.multiplier])
        specs = [tf.TensorSpec(shape, tf.float32, name=name) for shape, name in zip(shapes, "xw", strict=True)]
        return tf.function(lambda x, w: dict(zip(("dx", "dw"), body(x, w), strict=True)), input_signature=specs)

    def lowered(self, x: Any, w: Any) -> list[Any]:  # noqa: ANN401
        strides, dilations = [1, self.stride, self.stride, 1], [1, self.dilation, self.dilation, 1]
        with tf.compat.v1.get_default_graph().gradient_override_map(override_map()):
            y = tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=w, strides=strides, padding=self.padding, dilations=dilations
            )
            return list(tf.gradients(y * y, [x, w]))


GEOMETRIES = [
    Geometry(size, kernel, stride, padding, channels, multiplier)
    for (stride, padding), (size, kernel), (channels, multiplier) in itertools.product(
        [(1, "SAME"), (2, "SAME"), (2, "VALID"), (3, "SAME"), (1, "VALID")],
        [((5, 8), (3, 2)), ((7, 6), (1, 3)), ((9, 4), (4, 4))],
        [(3, 1), (1, 2)],
    )
]
GEOMETRIES += [
    Geometry((6, 6), (3, 3), 2, "SAME", 1500, 1),  # so many channels that the batch is cut into parts
    Geometry((7, 8), (3, 2), 1, "SAME", 3, 2, dilation=2),
    Geometry((9, 7), (3, 3), 1, "VALID", 2, 1, dilation=3),
]


@pytest.fixture(scope="module")
def program() -> bytes:
    return emit_inference({f"g{i}": g.function(g.lowered) for i, g in enumerate(GEOMETRIES)}, quantize=False)


@pytest.mark.parametrize("index", range(len(GEOMETRIES)))
def test_gradients_are_tensorflows(program: bytes, index: int) -> None:
    geometry, generator = GEOMETRIES[index], np.random.default_rng(index)
    x = generator.normal(size=(BATCH, *geometry.size, geometry.channels)).astype(np.float32)
    w = generator.normal(size=(*geometry.kernel, geometry.channels, geometry.multiplier)).astype(np.float32)
    # In this process one runtime only: TensorFlow is loaded, too.
    got = load_interpreter(program, 1, installed_runtimes()[0]).get_signature_runner(f"g{index}")(x=x, w=w)
    for name, expected in geometry.function(geometry.gradients)(x, w).items():
        scale = float(tf.reduce_max(tf.abs(expected)))
        np.testing.assert_allclose(got[name], np.asarray(expected), rtol=1e-4, atol=1e-5 * scale, err_msg=name)

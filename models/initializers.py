"""First weights for networks without normalisation."""

from __future__ import annotations

from typing import Any, Final

TAPS: Final = 9  # of a kernel of 3 x 3


def depthwise_initializer() -> Any:  # noqa: ANN401 - Keras has no types
    """Return a Keras initializer for depthwise kernels of 3 x 3 that keeps the spread of what passes through.

    Uniform within sqrt(6 / 9) (He et al., arXiv 1502.01852). Keras' default counts all channels as inputs, although a
    depthwise kernel sees one: signals then shrink by four at each layer, and the network does not learn.
    """
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    limit = (6 / TAPS) ** 0.5
    return keras.initializers.RandomUniform(-limit, limit)

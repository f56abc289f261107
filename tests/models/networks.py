"""A network that the tests of benchmarks train."""

from __future__ import annotations

from typing import Any

from tools.convert.tf import keras


def small() -> Any:  # noqa: ANN401 - Keras has no types
    """Tell four classes on a line apart; its first activations are far smaller than those after training."""
    start = keras.initializers.RandomNormal(stddev=0.02, seed=4)
    layers = [keras.layers.Dense(16, "relu", kernel_initializer=start), keras.layers.Dense(4, kernel_initializer=start)]
    return keras.Sequential([keras.layers.Input((1,)), *layers], name="network")

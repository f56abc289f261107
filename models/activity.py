"""A small 1-D convolutional network for windows of a wrist's accelerometer and gyroscope."""

from __future__ import annotations

from typing import Any

WINDOW, CHANNELS, CLASSES = 100, 6, 7


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model: f32[B, 100, 6] to logits f32[B, 7]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((WINDOW, CHANNELS), name="window"),
            layers.Conv1D(24, 7, activation="relu", name="conv1"),
            layers.MaxPooling1D(2, name="pool1"),
            layers.Conv1D(32, 5, activation="relu", name="conv2"),
            layers.MaxPooling1D(3, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="relu", name="dense1"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="activity",
    )

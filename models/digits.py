"""The convolutional network of McMahan et al. for 28 x 28 digits (arXiv 1602.05629, section 3)."""

from __future__ import annotations

from typing import Any

SIDE, CLASSES = 28, 10


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model with 1,663,370 parameters: f32[B, 28, 28, 1] to logits f32[B, 10]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="image"),
            layers.Conv2D(32, 5, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(64, 5, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(512, activation="relu", name="hidden"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="digits",
    )

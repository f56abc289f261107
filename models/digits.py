"""The convolutional network of McMahan et al. for 28 x 28 digits (arXiv 1602.05629, section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.examples import Examples

DATA_FILE = Path(__file__).parent / "data" / "mnist.npz"
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


def load() -> tuple[Examples, Examples]:
    """Read the subset of MNIST: 6,000 examples to train on and 2,000 to test on, as many of each class.

    Returns:
        ``x`` f32[n, 28, 28, 1] from 0 (background) to 1, ``y`` int32[n]; no writer is known.

    Raises:
        OSError: if the file is missing.
    """
    with np.load(DATA_FILE, allow_pickle=False) as stored:
        return _examples(stored["x_train"], stored["y_train"]), _examples(stored["x_test"], stored["y_test"])


def _examples(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> Examples:
    return Examples(x[..., None].astype(np.float32) / np.float32(255), y.astype(np.int32))

"""Models whose int8 twin is full-integer, and their examples; the same weights every time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.convert.tf import keras

layers = keras.layers
SHAPES = {
    "convolution": (8, 8, 3),
    "window": (20, 3),
    "depthwise": (8, 8, 3),
    "dense": (12,),
    "transposed": (6, 6, 2),
    "residual": (8, 8, 4),
    "without_bias": (12,),
}
REFUSED = {"words": (6,), "merged": (8,), "memory": (6, 3)}


def _trained(model: Any) -> Any:  # noqa: ANN401 - Keras has no types
    """Give every weight a value as after training: moments off 0 and 1, factors off 1, biases off 0."""
    generator = np.random.default_rng(31)
    for variable in model.variables:
        base = 1.0 if variable.path.endswith(("gamma", "variance")) else 0.0
        moved = base + generator.normal(0.0, 0.25, variable.shape)
        variable.assign(np.abs(moved) + 0.05 if variable.path.endswith("variance") else moved)
    return model


def _stack(name: str, *parts: Any) -> Any:  # noqa: ANN401 - Keras has no types
    return _trained(keras.Sequential([layers.Input(SHAPES[name], name="picture"), *parts], name="network"))


def _normalized(layer: Any) -> tuple[Any, ...]:  # noqa: ANN401 - Keras has no types
    return layer, layers.BatchNormalization(), layers.ReLU()


def convolution() -> Any:  # noqa: ANN401 - Keras has no types
    """Convolution, batch norm, ReLU, dense."""
    return _stack("convolution", *_normalized(layers.Conv2D(4, 3)), layers.Flatten(), layers.Dense(5))


def window() -> Any:  # noqa: ANN401 - Keras has no types
    """A convolution over time without a bias, batch norm without gamma and beta."""
    norm = layers.BatchNormalization(scale=False, center=False)
    return _stack("window", layers.Conv1D(8, 3, use_bias=False), norm, layers.ReLU(), layers.Flatten(), layers.Dense(3))


def depthwise() -> Any:  # noqa: ANN401 - Keras has no types
    """Depthwise convolution with two outputs per channel, batch norm."""
    first = layers.DepthwiseConv2D(3, depth_multiplier=2)
    return _stack("depthwise", *_normalized(first), layers.Flatten(), layers.Dense(5))


def dense() -> Any:  # noqa: ANN401 - Keras has no types
    """Dense layers, one of them with batch norm."""
    return _stack("dense", *_normalized(layers.Dense(40)), layers.Dense(30, activation="tanh"), layers.Dense(5))


def transposed() -> Any:  # noqa: ANN401 - Keras has no types
    """Transposed convolution, batch norm."""
    first = layers.Conv2DTranspose(3, 3, strides=2, padding="same")
    return _stack("transposed", *_normalized(first), layers.Flatten(), layers.Dense(5))


def without_bias() -> Any:  # noqa: ANN401 - Keras has no types
    """A dense layer without a bias at the end."""
    return _stack("without_bias", layers.Dense(16, activation="relu"), layers.Dense(5, use_bias=False))


def residual() -> Any:  # noqa: ANN401 - Keras has no types
    """A residual block with a batch norm behind the addition, which stays a product and a sum."""
    given = keras.Input(SHAPES["residual"], name="picture")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(given)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.BatchNormalization()(layers.Add()([x, given]))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return _trained(keras.Model(given, layers.Dense(3)(x), name="network"))


def words() -> Any:  # noqa: ANN401 - Keras has no types
    """An embedding, whose scale reappears further on."""
    picture = layers.Input(REFUSED["words"], dtype="int32", name="picture")
    network = [picture, layers.Embedding(60, 16, name="vocabulary"), layers.Flatten(), layers.Dense(5)]
    return keras.Sequential(network, name="network")


def merged() -> Any:  # noqa: ANN401 - Keras has no types
    """A batch norm before a dense layer, which becomes part of the dense layer's bias."""
    network = [layers.Input(REFUSED["merged"], name="picture"), layers.BatchNormalization()]
    return keras.Sequential([*network, layers.Dense(5, name="answer")], name="network")


def memory() -> Any:  # noqa: ANN401 - Keras has no types
    """A recurrent layer, whose bias is added apart from its kernel."""
    network = [layers.Input(REFUSED["memory"], name="picture"), layers.LSTM(8, name="memory")]
    return keras.Sequential([*network, layers.Dense(5)], name="network")

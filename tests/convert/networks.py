"""Small Keras models, each with operations whose gradients are lowered or layers that are refused."""

from __future__ import annotations

from typing import Any

import keras

layers = keras.layers
PERSONAL_INPUTS = 12


def _sequential(seed: int, *parts: Any) -> Any:  # noqa: ANN401 - Keras has no types
    keras.utils.set_random_seed(seed)
    return keras.Sequential(list(parts), name="network")


def window(seed: int = 1) -> Any:  # noqa: ANN401
    """1-D convolution, max pooling whose windows do not divide the input, dense layers."""
    return _sequential(
        seed,
        layers.Input((21, 3)),
        layers.Conv1D(16, 5, activation="relu"),
        layers.MaxPooling1D(2),
        layers.Conv1D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling1D(3),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
        layers.Dense(4),
    )


def window_of_other_weights() -> Any:  # noqa: ANN401
    """The same model as ``window`` with other first weights."""
    return window(2)


def image() -> Any:  # noqa: ANN401
    """Strided, dilated and padded 2-D convolutions, overlapping max pooling."""
    return _sequential(
        3,
        layers.Input((13, 11, 3)),
        layers.Conv2D(6, 3, strides=2, padding="same", activation="relu6"),
        layers.Conv2D(5, (3, 2), dilation_rate=2, activation="leaky_relu"),
        layers.MaxPooling2D(2, strides=1, padding="same"),
        layers.Flatten(),
        layers.Dense(4, activation="softmax"),
    )


def pools() -> Any:  # noqa: ANN401
    """Depthwise convolution, average pooling, a sigmoid."""
    return _sequential(
        4,
        layers.Input((12, 14, 2)),
        layers.Conv2D(4, 3, activation="elu"),
        layers.MaxPooling2D(3, strides=2),
        layers.AveragePooling2D(2, strides=1, padding="same"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(1, activation="sigmoid"),
    )


def upsampling() -> Any:  # noqa: ANN401
    """Transposed and separable convolution."""
    return _sequential(
        5,
        layers.Input((6, 6, 2)),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu"),
        layers.SeparableConv2D(4, 3),
        layers.Flatten(),
        layers.Dense(2),
    )


def two_inputs() -> Any:  # noqa: ANN401
    """Regression from two inputs."""
    keras.utils.set_random_seed(6)
    left, right = layers.Input((4,), name="left"), layers.Input((5,), name="right")
    joined = layers.Concatenate()([layers.Dense(3, activation="tanh")(left), right])
    return keras.Model([left, right], layers.Dense(1)(joined), name="network")


def normalized() -> Any:  # noqa: ANN401
    """Batch normalisation, which the converter would fold into the convolution."""
    return _sequential(
        7,
        layers.Input((20, 3)),
        layers.Conv1D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3),
    )


def personal() -> Any:  # noqa: ANN401
    """Moments that move fast, of inputs and in front of the head; the head is to stay on the device, FedBN's with it.

    Li et al., arXiv 2102.07623, keep batch normalisation local; here one is averaged and one is kept.
    """
    return _sequential(
        14,
        layers.Input((PERSONAL_INPUTS,)),
        layers.BatchNormalization(momentum=0.1, name="moments"),
        layers.Dense(8, activation="relu", name="body"),
        layers.BatchNormalization(momentum=0.5, name="head_moments"),
        layers.Dense(3, name="head"),
    )


def erf() -> Any:  # noqa: ANN401
    """Exact GELU: TFLite lacks the error function."""
    return _sequential(8, layers.Input((10,)), layers.Dense(6, activation="gelu", name="hidden"), layers.Dense(3))


def random() -> Any:  # noqa: ANN401
    """Dropout draws random numbers."""
    return _sequential(9, layers.Input((10,)), layers.Dropout(0.3, name="forget"), layers.Dense(3))


def untraceable() -> Any:  # noqa: ANN401
    """A layer that asks for values while it is traced."""
    branching = layers.Lambda(lambda x: x.numpy(), output_shape=(10,), name="peek")
    return _sequential(13, layers.Input((10,)), branching, layers.Dense(3))


def tokens(seed: int = 14) -> Any:  # noqa: ANN401
    """An embedding, whose rows keep its int8 scale."""
    return _sequential(
        seed, layers.Input((20,), dtype="int32"), layers.Embedding(73, 16), layers.Flatten(), layers.Dense(9)
    )


def tokens_of_other_weights() -> Any:  # noqa: ANN401
    """The same model as ``tokens`` with other first weights."""
    return tokens(15)


def open_length() -> Any:  # noqa: ANN401
    """A sequence of any length."""
    return _sequential(10, layers.Input((None, 3)), layers.Conv1D(2, 3), layers.GlobalMaxPooling1D(), layers.Dense(3))


def grouped() -> Any:  # noqa: ANN401
    """A convolution in two groups."""
    return _sequential(
        11, layers.Input((6, 6, 4)), layers.Conv2D(4, 3, groups=2, name="apart"), layers.Flatten(), layers.Dense(3)
    )


def channels_first() -> Any:  # noqa: ANN401
    """Channels before places."""
    first = layers.Conv1D(2, 3, data_format="channels_first", name="early")
    return _sequential(12, layers.Input((3, 9)), first, layers.Flatten(), layers.Dense(3))


def squared(y: Any, output: Any) -> Any:  # noqa: ANN401
    """A loss of one's own."""
    return (y - output) ** 2


def not_a_model() -> str:
    """A factory that returns something else."""
    return "model"

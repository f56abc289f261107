"""Layers, activations, losses and combinations that must train inside the stock runtimes, each as small as it can be.

``CASES`` maps a name to a factory and further options, and ``tests.convert.matrix:NAME`` gives the converter the
factory of that name.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import keras

if TYPE_CHECKING:
    from collections.abc import Callable

L = keras.layers
Model: TypeAlias = Any  # Keras has no types
VECTOR, SEQUENCE, IMAGE, VOLUME = (10,), (6, 3), (9, 8, 3), (5, 6, 4, 2)
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus",
    "softsign", "sparse_plus", "tanh", "tanh_shrink",
)  # fmt: skip
LOSSES = (
    "binary_crossentropy", "categorical_crossentropy", "huber", "mean_absolute_error", "mean_squared_error",
    "sparse_categorical_crossentropy",
)  # fmt: skip


def _network(shape: tuple[int, ...], *parts: Any, dtype: str = "float32", flat: bool = True) -> Model:  # noqa: ANN401
    keras.utils.set_random_seed(5)
    end = [L.Flatten(), L.Dense(3)] if flat else []
    return keras.Sequential([L.Input(shape, dtype=dtype), *parts, *end], name="network")


def _recurrent(layer: Callable[..., Any], **options: Any) -> Callable[[], Model]:  # noqa: ANN401
    return lambda: _network(SEQUENCE, layer(4, **options))


def _activation(name: str) -> Model:
    return _network(VECTOR, L.Dense(6), L.Activation(name))


def _loss() -> Model:
    return _network(VECTOR, L.Dense(4, activation="tanh"), L.Dense(3), flat=False)


def _single() -> Model:
    return _network(VECTOR, L.Dense(4, activation="tanh"), L.Dense(1), flat=False)


def _residual() -> Model:
    keras.utils.set_random_seed(5)
    x = start = L.Input(IMAGE)
    x = L.Conv2D(3, 3, padding="same", use_bias=False)(x)
    x = L.Add()([L.BatchNormalization()(x), start])
    return keras.Model(start, L.Dense(3)(L.GlobalAveragePooling2D()(L.ReLU()(x))), name="network")


def _transformer() -> Model:
    keras.utils.set_random_seed(5)
    tokens = L.Input((6,), dtype="int32")
    x = L.Embedding(9, 8)(tokens)
    for _ in range(2):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
        x = L.LayerNormalization()(x + L.Dense(8)(L.Dense(16, activation="gelu")(x)))
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)), name="network")


@keras.saving.register_keras_serializable("tests")
class Gated(keras.Model):  # type: ignore[misc] # Keras has no types
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__(name="network")
        self.left, self.right, self.out = L.Dense(5), L.Dense(5, activation="sigmoid"), L.Dense(3)

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Multiply a branch by a gate."""
        return self.out(self.left(x) * self.right(x))


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """A scale of one number for everything, and a penalty on it."""

    def build(self, _shape: Any) -> None:  # noqa: ANN401
        """Make the weight, which has no dimension."""
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Scale, and add to the loss."""
        self.add_loss(0.1 * self.scale * self.scale)
        return x * self.scale


def _frozen() -> Model:
    base = L.Dense(6, activation="tanh")
    base.trainable = False
    return _network(VECTOR, base, L.Dense(4, activation="tanh"))


def _subclassed() -> Model:
    start = L.Input(VECTOR)
    return keras.Model(start, Gated()(start), name="outer")


LAYERS: dict[str, Callable[[], Model]] = {
    "average_pool_1d": lambda: _network(SEQUENCE, L.Conv1D(4, 2), L.AveragePooling1D(2)),
    "average_pool_3d": lambda: _network(VOLUME, L.Conv3D(2, 1), L.AveragePooling3D(2)),
    "bidirectional": lambda: _network(SEQUENCE, L.Bidirectional(L.GRU(3))),
    "conv_1d_causal": lambda: _network(SEQUENCE, L.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "conv_1d_transposed": lambda: _network(SEQUENCE, L.Conv1DTranspose(4, 3, strides=2)),
    "conv_2d_grouped": lambda: _network((6, 6, 4), L.Conv2D(4, 3, groups=2)),
    "conv_2d_transposed_large": lambda: _network((4, 4, 32), L.Conv2DTranspose(16, 2, strides=2)),
    "conv_2d_transposed": lambda: _network(IMAGE, L.Conv2DTranspose(2, 3, strides=2, padding="same")),
    "conv_3d": lambda: _network(VOLUME, L.Conv3D(3, 3, strides=2, padding="same", activation="relu")),
    "crop_and_pad": lambda: _network(IMAGE, L.Conv2D(2, 2), L.ZeroPadding2D(1), L.Cropping2D(((1, 2), (0, 1)))),
    "depthwise_1d": lambda: _network(SEQUENCE, L.DepthwiseConv1D(3, padding="same")),
    "depthwise_2d": lambda: _network(IMAGE, L.DepthwiseConv2D(3, strides=2, padding="same")),
    "bag_of_words": lambda: _network(
        (6,), L.Embedding(9, 4, mask_zero=True), L.GlobalAveragePooling1D(), dtype="int32"
    ),
    "dropout": lambda: _network(VECTOR, L.Dense(6), L.Dropout(0.4)),
    "dropout_alpha": lambda: _network(VECTOR, L.Dense(6), L.AlphaDropout(0.4)),
    "dropout_spatial": lambda: _network(SEQUENCE, L.Conv1D(4, 2), L.SpatialDropout1D(0.4)),
    "embedding": lambda: _network((6,), L.Embedding(9, 4), dtype="int32"),
    "global_max_pool": lambda: _network(IMAGE, L.Conv2D(4, 3), L.GlobalMaxPooling2D()),
    "group_norm": lambda: _network((6, 6, 4), L.Conv2D(4, 3), L.GroupNormalization(2)),
    "gru_stacked": lambda: _network(SEQUENCE, L.GRU(4, return_sequences=True), L.GRU(3)),
    "layer_norm": lambda: _network(SEQUENCE, L.Dense(4), L.LayerNormalization()),
    "lstm": _recurrent(L.LSTM),
    "lstm_backwards": _recurrent(L.LSTM, go_backwards=True, return_sequences=True),
    "max_pool_3d": lambda: _network(VOLUME, L.Conv3D(2, 1), L.MaxPooling3D(2, strides=1)),
    "max_pool_of_relu_1d": lambda: _network(
        (13, 3),
        L.Conv1D(4, 2, activation="relu"),
        L.MaxPooling1D(2),
        L.Conv1D(4, 3, activation="relu"),
        L.GlobalMaxPooling1D(),
    ),
    "max_pool_of_relu_2d": lambda: _network(
        IMAGE, L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(3, strides=2, padding="same")
    ),
    "max_pool_overlapping": lambda: _network(IMAGE, L.Conv2D(4, 3), L.MaxPooling2D(3, strides=2, padding="same")),
    "noise": lambda: _network(VECTOR, L.Dense(4), L.GaussianNoise(0.3)),
    "noise_dropout": lambda: _network(VECTOR, L.Dense(4), L.GaussianDropout(0.3)),
    "prelu": lambda: _network(VECTOR, L.Dense(4), L.PReLU()),
    "repeat_vector": lambda: _network(VECTOR, L.Dense(4), L.RepeatVector(3), L.SimpleRNN(3)),
    "residual": _residual,
    "rms_norm": lambda: _network(SEQUENCE, L.Dense(4), L.RMSNormalization()),
    "separable_1d": lambda: _network(SEQUENCE, L.SeparableConv1D(4, 3, depth_multiplier=2)),
    "simple_rnn": _recurrent(L.SimpleRNN),
    "scalar": lambda: _network(VECTOR, L.Dense(4), Scaled()),
    "regularized": lambda: _network(VECTOR, L.Dense(4, "tanh", kernel_regularizer="l2", activity_regularizer="l1")),
    "frozen": _frozen,
    "permuted": lambda: _network(SEQUENCE, L.Permute((2, 1)), L.Reshape((6, 3)), L.Dense(2)),
    "subclassed": _subclassed,
    "time_distributed": lambda: _network((4, 8, 8, 1), L.TimeDistributed(L.Conv2D(2, 3)), L.Flatten()),
    "transformer": _transformer,
    "unit_norm": lambda: _network(VECTOR, L.Dense(4), L.UnitNormalization()),
    "upsample_bilinear": lambda: _network((4, 4, 2), L.Conv2D(2, 1), L.UpSampling2D(2, interpolation="bilinear")),
    "upsample_nearest": lambda: _network((4, 4, 2), L.Conv2D(2, 1), L.UpSampling2D((2, 3))),
}
LEARNING: dict[str, tuple[Callable[[], Model], tuple[str, ...]]] = {
    "adam": (_loss, ("--optimizer", "adam")),
    "adam_clipped": (LAYERS["residual"], ("--optimizer", "adam", "--max-gradient-norm", "1")),
    "class_weights": (_loss, ("--class-weights", "1,0.5,3")),
    "class_weights_binary": (_single, ("--class-weights", "1,4", "--loss", "binary_crossentropy")),
    "class_weights_one_hot": (_loss, ("--class-weights", "2,0,1", "--loss", "categorical_crossentropy")),
    "adam_scalar": (LAYERS["scalar"], ("--optimizer", "adam")),
    "low_memory": (LAYERS["residual"], ("--target", "low-memory", "--optimizer", "momentum")),
    "probabilities": (lambda: _network(VECTOR, L.Dense(8, "relu"), L.Dense(5, "softmax"), flat=False), ()),
    "independent_labels": (lambda: _network(VECTOR, L.Dense(8, "relu"), L.Dense(5, "sigmoid"), flat=False), ()),
    "momentum": (LAYERS["dropout"], ("--optimizer", "momentum")),
    "sgd_clipped": (_loss, ("--max-gradient-norm", "0.5")),
    "smoothing": (_loss, ("--label-smoothing", "0.1")),
    "smoothing_binary": (_single, ("--label-smoothing", "0.2", "--loss", "binary_crossentropy")),
    "smoothing_one_hot": (_loss, ("--label-smoothing", "0.1", "--loss", "categorical_crossentropy")),
}
CASES: dict[str, tuple[Callable[[], Model], tuple[str, ...]]] = {
    **{f"layer_{name}": (factory, ()) for name, factory in LAYERS.items()},
    **{f"activation_{name}": (functools.partial(_activation, name), ()) for name in ACTIVATIONS},
    **{f"loss_{name}": (_loss, ("--loss", name)) for name in LOSSES},
    **{f"learning_{name}": case for name, case in LEARNING.items()},
}


def __getattr__(name: str) -> Callable[[], Model]:
    """Give the converter ``tests.convert.matrix:NAME`` for every case."""
    if name not in CASES:
        raise AttributeError(name)
    return CASES[name][0]

"""Networks that people train, whole: what the small cases of the matrix do not show together."""

from __future__ import annotations

from typing import Any, TypeAlias

import keras

L = keras.layers
Model: TypeAlias = Any  # Keras has no types


def _block(x: Any, filters: int, stride: int) -> Any:  # noqa: ANN401
    y = L.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(filters, 3, 1, "same", use_bias=False)(y))
    if stride > 1:
        x = L.Conv2D(filters, 1, stride)(x)
    return L.ReLU()(L.Add()([x, y]))


def resnet_8() -> Model:
    """A residual network of 8 layers for 32 x 32 images (He et al., arXiv 1512.03385, section 4.2, n = 1)."""
    keras.utils.set_random_seed(5)
    start = L.Input((32, 32, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, 1, "same", use_bias=False)(start)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        x = _block(x, filters, stride)
    return keras.Model(start, L.Dense(10)(L.GlobalAveragePooling2D()(x)), name="network")


def mobile_net_v2() -> Model:
    """Inverted residuals, a third as wide as the original, for 96 x 96 images (Sandler et al., arXiv 1801.04381)."""
    keras.utils.set_random_seed(5)
    return keras.applications.MobileNetV2(
        (96, 96, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None, name="network"
    )


def ds_cnn() -> Model:
    """Depthwise separable convolutions for keywords in log-mel spectrograms (Zhang et al., arXiv 1711.07128)."""
    keras.utils.set_random_seed(5)
    x = start = L.Input((49, 40, 1))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, (10, 4), 2, "same", use_bias=False)(x)))
    for _ in range(4):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, 1, "same", use_bias=False)(x)))
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, 1, use_bias=False)(x)))
    return keras.Model(start, L.Dense(12)(L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))), name="network")


def gru_2() -> Model:
    """The next of 73 characters by two gated recurrent layers."""
    keras.utils.set_random_seed(5)
    x = start = L.Input((20,), dtype="int32")
    x = L.GRU(48, return_sequences=True)(L.Embedding(73, 16)(x))
    return keras.Model(start, L.Dense(73)(L.GRU(48)(x)), name="network")


def transformer_2() -> Model:
    """Two blocks of a causal transformer with learned places (Vaswani et al., arXiv 1706.03762)."""
    keras.utils.set_random_seed(5)
    start = L.Input((24,), dtype="int32")
    x = L.Embedding(73, 32)(start) + L.Embedding(24, 32)(keras.ops.arange(24))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 8)(y, y, use_causal_mask=True)
        x = x + L.Dense(32)(L.Dense(64, activation="gelu")(L.LayerNormalization()(x)))
    return keras.Model(start, L.Dense(73)(L.LayerNormalization()(x)), name="network")

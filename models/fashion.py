"""Task ``fashion``: ten kinds of clothes in images of 28 x 28 pixels (Fashion-MNIST, Xiao et al., arXiv 1708.07747).

The network is a small MobileNetV2: inverted residual blocks with depthwise convolutions (Sandler et al.,
arXiv 1801.04381), without batch normalisation, whose moments differ between devices that hold different classes.
The images have no owner: every class is divided among the devices by shares drawn from Dirichlet(0.5).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from models.initializers import depthwise_initializer
from models.partitions import dirichlet, divide, iid
from models.task import DATA_FOLDER, TaskData, scaled_images
from shared.examples import Examples

DATA_FILE: Final = "fashion_mnist.npz"
CLASSES: Final = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
SIDE: Final = 28
DEVICES: Final = 10
ALPHA: Final = 0.5
SEED: Final = 1
_HELD_OUT_SHARE: Final = 0.15


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model: f32[B, 28, 28, 1] to logits f32[B, 10]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers

    def block(x: Any, number: int, filters: int, stride: int) -> Any:  # noqa: ANN401
        wide = layers.Conv2D(3 * x.shape[-1], 1, activation="relu", name=f"expand{number}")(x)
        y = layers.DepthwiseConv2D(
            3,
            stride,
            "same",
            activation="relu",
            depthwise_initializer=depthwise_initializer(),
            name=f"depthwise{number}",
        )(wide)
        y = layers.Conv2D(filters, 1, name=f"project{number}")(y)
        return layers.Add(name=f"add{number}")([x, y]) if y.shape == x.shape else y

    start = keras.Input((SIDE, SIDE, 1), name="image")
    x = layers.Conv2D(16, 3, 2, "same", activation="relu", name="conv")(start)
    for number, (filters, stride) in enumerate(((16, 1), (32, 2), (32, 1)), 1):
        x = block(x, number, filters, stride)
    x = layers.Conv2D(64, 1, activation="relu", name="head")(x)
    x = layers.Flatten(name="places")(layers.MaxPooling2D(2, name="pool")(x))
    return keras.Model(start, layers.Dense(len(CLASSES), name="logits")(x), name="fashion")


def load(test_owners: tuple[int, ...] = ()) -> TaskData:
    """Divide by Dirichlet(0.5): x f32[n, 28, 28, 1] from 0 to 1, y int32[n]; raises OSError if the file is missing.

    The test images are nobody's; a device in ``test_owners`` takes no part.
    """
    train, test = read_images()
    devices = divide(train, dirichlet(train.y, DEVICES, ALPHA, SEED), _HELD_OUT_SHARE, SEED)
    return TaskData({owner: parts for owner, parts in devices.items() if owner not in test_owners}, test)


def load_iid(_folder: str | None = None) -> TaskData:
    """Divide at random, so that devices are alike."""
    train, test = read_images()
    return TaskData(divide(train, iid(train.y, DEVICES, SEED), _HELD_OUT_SHARE, SEED), test)


def read_images() -> tuple[Examples, Examples]:
    """Return 10,000 examples to train on and 2,000 to test on, as many of each class."""
    with np.load(DATA_FOLDER / DATA_FILE, allow_pickle=False) as stored:
        train, test = (
            Examples(scaled_images(stored[f"x_{part}"]), stored[f"y_{part}"].astype(np.int32))
            for part in ("train", "test")
        )
    return train, test

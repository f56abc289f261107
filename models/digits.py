"""Task ``digits``: handwritten digits of 28 x 28 pixels, divided as McMahan et al. do (arXiv 1602.05629, section 3).

``build`` is their convolutional network; ``build_small``, the task's own, has 80 times fewer parameters. The images
that ship have no writer, so devices get two of 2 n shards sorted by label, or random parts; with the full-size file
each device holds one writer's digits.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.full_size import read_full_size
from models.partitions import divide, iid, two_shard
from models.task import DATA_FOLDER, TaskData, scaled_images
from shared.examples import Examples

DATA_FILE: Final = "mnist.npz"
SIDE, CLASSES = 28, 10
DEVICES: Final = 10
SEED: Final = 1
_HELD_OUT_SHARE: Final = 0.15
_TEST_WRITERS: Final = 20


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


def build_small() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model with 20,746 parameters: f32[B, 28, 28, 1] to logits f32[B, 10]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="image"),
            layers.Conv2D(16, 5, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="digits_small",
    )


def load() -> tuple[Examples, Examples]:
    """Read the subset of MNIST: 6,000 examples to train on and 2,000 to test on, as many of each class.

    Returns:
        ``x`` f32[n, 28, 28, 1] from 0 (background) to 1, ``y`` int32[n]; no writer is known.

    Raises:
        OSError: if the file is missing.
    """
    with np.load(DATA_FOLDER / DATA_FILE, allow_pickle=False) as stored:
        return _examples(stored["x_train"], stored["y_train"]), _examples(stored["x_test"], stored["y_test"])


def load_two_shard(test_owners: tuple[int, ...] = ()) -> TaskData:
    """Divide by ``two_shard``; the test images are nobody's, and a device in ``test_owners`` takes no part."""
    train, test = load()
    devices = divide(train, two_shard(train.y, DEVICES, SEED), _HELD_OUT_SHARE, SEED)
    return TaskData({owner: parts for owner, parts in devices.items() if owner not in test_owners}, test)


def load_iid(_folder: str | None = None) -> TaskData:
    """Divide at random, so that devices are alike."""
    train, test = load()
    return TaskData(divide(train, iid(train.y, DEVICES, SEED), _HELD_OUT_SHARE, SEED), test)


def load_by_writer(folder: str | None) -> TaskData:
    """Give each device one writer of the full MNIST, those with the most digits; test on 20 writers of its test set.

    Raises UsageError as ``read_full_size``; nobody wrote digits of both sets.
    """
    (train, writers), (test, strangers) = _read_full(folder)
    devices = divide(train, _by_writer(writers, DEVICES), _HELD_OUT_SHARE, SEED)
    tested = np.isin(strangers, _busiest(strangers, _TEST_WRITERS))
    return TaskData(devices, Examples(np.asarray(test.x)[tested], test.y[tested]))


def load_every_writer(folder: str | None, held_out_share: float = 0.0) -> TaskData:
    """Give each device one writer of the full MNIST, all of them; test on its whole test set.

    Raises UsageError as ``read_full_size``.
    """
    (train, writers), (test, _) = _read_full(folder)
    return TaskData(divide(train, _by_writer(writers), held_out_share, SEED), test)


def _read_full(folder: str | None) -> list[tuple[Examples, NDArray[np.uint16]]]:
    """Return the examples and writers of the training set and of the test set."""
    names = [f"{array}_{part}" for part in ("train", "test") for array in ("x", "y", "user")]
    stored = read_full_size(DATA_FILE, folder, names)
    return [(_examples(stored[f"x_{part}"], stored[f"y_{part}"]), stored[f"user_{part}"]) for part in ("train", "test")]


def _by_writer(writers: NDArray[np.uint16], count: int | None = None) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(writers == one) for one in _busiest(writers, count)]


def _busiest(writer: NDArray[np.uint16], count: int | None) -> list[int]:
    """Return the writers with the most images, or all; the lower number first among equals."""
    numbers, images = np.unique(writer, return_counts=True)
    return [int(number) for number in numbers[np.argsort(-images, kind="stable")][:count]]


def _examples(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> Examples:
    return Examples(scaled_images(x), y.astype(np.int32))

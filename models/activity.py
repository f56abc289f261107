"""Task ``activity``: seven shoulder exercises recognised from a wrist's accelerometer and gyroscope.

Two seconds of six channels at 50 Hz go through a small 1-D convolutional network. Data, licence and limits
are described in ``cards/activity.md``. Each device holds the windows of one person; the people in
``test_owners`` take no part, because the question is how well the model does for someone it has never seen.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.task import DATA_FOLDER, TaskData
from shared.examples import Examples

WINDOW, CHANNELS, CLASSES = 100, 6, 7
OWNERS = tuple(range(1, 11))
DATA_FILE = DATA_FOLDER / "watch_exercise.npz"
# Pendulum, abduction, forward elevation, internal and external rotation, trapezius extension, row.
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")

# Rounded spread of each channel (gyroscope y, z, x, accelerometer z, x, y): constants, because statistics over all
# people would have to be shared between them.
_SPREAD = np.array([1.0, 0.5, 0.5, 1.0, 2.5, 1.0], np.float32)
_LARGEST = np.float32(4.0)  # a knock against the watch reaches 29 and can spoil a whole round of training
_TRAIN_SHARE = 0.8


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model: f32[B, 100, 6] to logits f32[B, 7]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((WINDOW, CHANNELS), name="window"),
            layers.Conv1D(32, 9, activation="relu", name="conv1"),
            layers.MaxPooling1D(2, name="pool1"),
            layers.Conv1D(48, 5, activation="relu", name="conv2"),
            layers.MaxPooling1D(2, name="pool2"),
            layers.Conv1D(80, 3, activation="relu", name="conv3"),
            # The strongest response wherever it is: averages over devices much better than a dense layer over places.
            layers.GlobalMaxPooling1D(name="strongest"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="activity",
    )


def load(test_owners: tuple[int, ...] = (9, 10)) -> TaskData:
    """Read the data set: x f32[n, 100, 6], y int32[n]; raises OSError if the file is missing."""
    with np.load(DATA_FILE, allow_pickle=False) as stored:
        x = np.clip(stored["x"].astype(np.float32) * (stored["scale"] / _SPREAD), -_LARGEST, _LARGEST)
        y, user, side = stored["y"].astype(np.int32), stored["user"], stored["side"]
    trains, held = _split(y, user, side)

    def of(owner: int, rows: NDArray[np.bool_]) -> Examples:
        chosen = rows & (user == owner)
        return Examples(x[chosen], y[chosen])

    devices = {owner: (of(owner, trains), of(owner, held)) for owner in OWNERS if owner not in test_owners}
    strangers = np.isin(user, test_owners)
    return TaskData(devices, Examples(x[strangers], y[strangers]))


def _split(
    y: NDArray[np.int32], user: NDArray[np.uint8], side: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which windows train and which are held out: the first 80 % of each recording, and the rest.

    Neighbouring windows overlap by half, so the one between the two parts is dropped.
    """
    changes = (np.diff(values.astype(np.int64)) != 0 for values in (y, user, side))
    starts = [0, *(np.flatnonzero(np.logical_or.reduce(list(changes))) + 1), len(y)]
    trains, held = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for start, end in itertools.pairwise(starts):
        cut = start + int((end - start) * _TRAIN_SHARE)
        trains[start:cut] = True
        held[cut + 1 : end] = True
    return trains, held

"""Task ``spoken_digits``: the ten digits, spoken, from one second of sound.

The network takes the wave itself: its first layer, which has no weights, makes the log-mel spectrogram that
keyword spotting works on, so that a device needs nothing but the model. Depthwise separable convolutions follow
(DS-CNN, Zhang et al., arXiv 1711.07128), without batch normalisation, which learned more slowly here. Each
device holds one speaker's recordings; one speaker takes no part.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.initializers import depthwise_initializer
from models.log_mel import SAMPLES, log_mel_layer
from models.task import DATA_FOLDER, TaskData
from shared.examples import Examples

DATA_FILE: Final = "fsdd.npz"
CLASSES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS: Final = {1: "george", 2: "jackson", 3: "lucas", 4: "nicolas", 5: "theo", 6: "yweweler"}
HELD_OUT_BELOW: Final = 5  # takes of each digit, from 0 on, as the data set's authors divide it
_MU: Final = 255.0


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model: wave f32[B, 8000] in -1 to 1, to logits f32[B, 10]."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    start = keras.Input((SAMPLES,), name="wave")
    x = log_mel_layer()(start)
    x = layers.Conv2D(32, (10, 4), 2, "same", activation="relu", name="conv")(x)
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        spread = depthwise_initializer()
        x = layers.DepthwiseConv2D(3, stride, "same", depthwise_initializer=spread, name=f"depthwise{number}")(x)
        x = layers.Conv2D(48, 1, activation="relu", name=f"pointwise{number}")(x)
    # Where in the second and in the spectrum matters: averages over all of it learn many times more slowly.
    x = layers.Flatten(name="places")(layers.MaxPooling2D(2, name="pool")(x))
    return keras.Model(start, layers.Dense(len(CLASSES), name="logits")(x), name="spoken_digits")


def load(test_owners: tuple[int, ...] = (6,)) -> TaskData:
    """Read the data set: x f32[n, 8000] in -1 to 1, y int32[n].

    Of each digit, a device trains on takes 5 to 49 and holds out takes 0 to 4. Raises OSError if the file is missing.
    """
    with np.load(DATA_FOLDER / DATA_FILE, allow_pickle=False) as stored:
        wave, length = stored["wave"], stored["length"].astype(np.int64)
        y, speaker, take = stored["y"].astype(np.int32), stored["user"], stored["rec_index"]
    x = np.zeros((len(length), SAMPLES), np.float32)
    for row, end, count in zip(x, np.cumsum(length), length, strict=True):
        row[:count] = decode(wave[end - count : end])

    def of(rows: NDArray[np.bool_]) -> Examples:
        return Examples(x[rows], y[rows])

    held = take < HELD_OUT_BELOW
    numbered = speaker.astype(np.int64) + 1
    devices = {
        owner: (of((numbered == owner) & ~held), of((numbered == owner) & held))
        for owner in SPEAKERS
        if owner not in test_owners
    }
    return TaskData(devices, of(np.isin(numbered, test_owners)))


def decode(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the samples in -1 to 1 of continuous mu-law with 128 as silence (ITU-T G.711 has its segments)."""
    level = np.clip((octets.astype(np.float32) - 128) / np.float32(127.5), -1, 1)
    expanded: NDArray[np.float32] = np.sign(level) * np.expm1(np.abs(level) * np.float32(np.log1p(_MU)))
    return expanded / np.float32(_MU)

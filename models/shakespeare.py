"""Task ``shakespeare``: the next character of a role in a play (McMahan et al., arXiv 1602.05629, section 3).

A gated recurrent unit (Cho et al., arXiv 1406.1078) reads 24 characters and says after each what comes next. Each
device holds the lines of one role; some roles take no part and are the test of the model. Losses are nats per
character.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.task import DATA_FOLDER, TaskData
from shared.examples import Examples, concatenate

DATA_FILE: Final = "shakespeare.npz"
SYMBOLS: Final = "\n !\"&'(),-./01:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ]_abcdefghijklmnopqrstuvwxyz{"
LENGTH: Final = 24
CHARACTERS: Final = 8_000  # of a role, at most: the first ones, about as many as most roles have
_TRAIN_SHARE: Final = 0.85
# The twelve roles with the most lines, by their place in the file.
ROLES: Final = {
    66: "Hamlet",
    287: "Iago",
    115: "Henry V",
    237: "the Duke (Measure for Measure)",
    290: "Othello",
    371: "Timon",
    310: "Richard II",
    211: "Lear",
    30: "Rosalind",
    11: "Antony",
    381: "Titus",
    75: "Falstaff",
}


def build() -> Any:  # noqa: ANN401 - Keras has no types
    """Return the uncompiled keras.Model: symbols i32[B, 24] to logits f32[B, 24, 73] of the symbol after each."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32", name="text"),
            layers.Embedding(len(SYMBOLS), 32, name="embedding"),
            layers.GRU(64, return_sequences=True, name="gru"),
            layers.Dense(len(SYMBOLS), name="logits"),
        ],
        name="shakespeare",
    )


def load(test_owners: tuple[int, ...] = (30, 11, 381, 75)) -> TaskData:
    """Read the plays: x int32[n, 24], y int32[n, 24], the same text one character later.

    Of each role the first 85 % are trained on and the rest is held out. Raises OSError if the file is missing.
    """
    with np.load(DATA_FOLDER / DATA_FILE, allow_pickle=False) as stored:
        text, offsets = stored["text"], stored["offsets"].astype(np.int64)
    lines = {owner: text[offsets[owner] : offsets[owner + 1]][:CHARACTERS] for owner in ROLES}
    devices = {owner: _split(lines[owner]) for owner in ROLES if owner not in test_owners}
    return TaskData(devices, concatenate([_sequences(lines[owner]) for owner in test_owners]))


def to_symbols(octets: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the numbers of ASCII characters in SYMBOLS."""
    table = np.full(256, -1, np.int32)
    table[np.frombuffer(SYMBOLS.encode(), np.uint8)] = np.arange(len(SYMBOLS))
    return table[octets]


def _split(octets: NDArray[np.uint8]) -> tuple[Examples, Examples]:
    cut = int(len(octets) * _TRAIN_SHARE)
    return _sequences(octets[:cut]), _sequences(octets[cut:])


def _sequences(octets: NDArray[np.uint8]) -> Examples:
    numbers = to_symbols(octets)
    count = (len(numbers) - 1) // LENGTH
    x, y = (numbers[first : first + count * LENGTH].reshape(count, LENGTH) for first in (0, 1))
    return Examples(x, y)

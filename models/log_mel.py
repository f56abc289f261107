"""A log-mel spectrogram as a layer without weights, of operations that every TFLite runtime has.

Frames of 30 ms every 20 ms, Hann window, discrete Fourier transform of 256 points, power, 40 triangular mel bands,
log10. The transform is done in two steps of 16 points (Cooley and Tukey 1965) and the mel matrix in slices: constants
of fewer than 1,024 elements are left in float by the int8 twin, whose 8 bits cannot hold a power spectrum's range.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RATE_HZ: Final = 8000
SAMPLES: Final = 8000
FRAME, STEP, POINTS = 240, 160, 256
FRAMES: Final = (SAMPLES - FRAME) // STEP + 1
MELS: Final = 40
FLOOR: Final = 1e-5  # of a band's power; quieter than any recording's noise
CENTRE, SPREAD = -1.5, 1.5  # roughly the recordings' own
_SIDE: Final = 16  # POINTS = 16 * 16
_UPPER: Final = _SIDE // 2 + 1
_SLICE: Final = 7  # mel bands in one product: 144 * 7 < 1024
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 4000.0

F32 = NDArray[np.float32]


def hann() -> F32:
    """Return the window f32[240]."""
    window: F32 = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    return window


def mel_matrix() -> F32:
    """Return f32[129, 40]: triangles of equal width in mel, 2595 log10(1 + f / 700), from 20 to 4000 Hz."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    hz = np.arange(POINTS // 2 + 1)[:, None] * (RATE_HZ / POINTS)
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    triangles: F32 = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return triangles


def log_mel_layer() -> Any:  # noqa: ANN401 - Keras has no types
    """Return a Keras layer: wave f32[B, 8000] to f32[B, 49, 40, 1], of spread about 1."""
    import keras  # noqa: PLC0415 - devices and the aggregator import this package without TensorFlow

    return keras.layers.Lambda(_log_mel, output_shape=(FRAMES, MELS, 1), name="log_mel")


def _log_mel(wave: Any) -> Any:  # noqa: ANN401
    from keras import ops  # noqa: PLC0415 - as above

    steps = ops.reshape(wave, (-1, SAMPLES // STEP, STEP))
    frames = ops.concatenate([steps[:, :-1], steps[:, 1:, : FRAME - STEP]], axis=2) * hann()
    power = _power(ops.pad(frames, ((0, 0), (0, 0), (0, POINTS - FRAME))))
    mels = _mel_matrix_by_halves()
    bands = [ops.matmul(power, mels[:, first : first + _SLICE]) for first in range(0, MELS, _SLICE)]
    logarithm = ops.log(ops.concatenate(bands, axis=2) + FLOOR) * (1 / np.log(10))
    return ops.expand_dims((logarithm - CENTRE) / SPREAD, 3)


def _power(frames: Any) -> Any:  # noqa: ANN401
    """Return the power at frequency k = k1 + 16 k2 in place 9 k1 + k2: f32[B, 49, 256] to f32[B, 49, 144].

    With sample n = 16 n1 + n2: a sum over n1, a turn by n2 k1 / 256, and a sum over n2.
    """
    from keras import ops  # noqa: PLC0415 - as above

    grid = ops.transpose(ops.reshape(frames, (-1, FRAMES, _SIDE, _SIDE)), (0, 1, 3, 2))  # n2, n1
    first = _turns(np.outer(range(_SIDE), range(_SIDE)) / _SIDE)  # n1, k1
    real, imaginary = (ops.matmul(grid, part) for part in first)  # n2, k1
    cos, sin = _turns(np.outer(range(_SIDE), range(_SIDE)) / POINTS)
    turned = ops.concatenate([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=2)
    cos, sin = _turns(np.outer(range(_SIDE), range(_UPPER)) / _SIDE)  # n2, k2
    turned = ops.transpose(turned, (0, 1, 3, 2))  # k1, real n2 before imaginary n2
    real = ops.matmul(turned, np.concatenate([cos, -sin]))
    imaginary = ops.matmul(turned, np.concatenate([sin, cos]))
    return ops.reshape(real * real + imaginary * imaginary, (-1, FRAMES, _SIDE * _UPPER))


def _turns(cycles: NDArray[np.float64]) -> tuple[F32, F32]:
    """Return cos and sin of exp(-2 pi i cycles)."""
    angle = -2 * np.pi * cycles
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _mel_matrix_by_halves() -> F32:
    """Return the mel matrix f32[144, 40] in the order of ``_power``; places above 128 count for nothing."""
    frequency = (np.arange(_SIDE)[:, None] + _SIDE * np.arange(_UPPER)).reshape(-1)
    mels = np.zeros((len(frequency), MELS), np.float32)
    mels[frequency <= POINTS // 2] = mel_matrix()[frequency[frequency <= POINTS // 2]]
    return mels

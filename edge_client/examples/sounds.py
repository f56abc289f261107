"""Sounds: a WAV file of 8, 16, 24 or 32 bit whole numbers is one example, f32[samples] from -1 to 1."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from edge_client.examples.declaration import Declaration
from edge_client.examples.rows import Row

_WIDTHS: Final = (1, 2, 3, 4)


def sound_rows(path: Path, name: str, declared: Declaration) -> Iterator[Row]:
    """Return the one example of a file, whose folder is named like its label.

    Raises:
        ValueError: in words, if it is no such sound.
    """
    shape = declared.wav
    if shape is None:
        raise TypeError("a declaration of sounds has no rate")
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels, rate_hz = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            if rate_hz != shape.rate_hz:
                raise ValueError(f"it has {rate_hz} samples a second, not {shape.rate_hz}")
            if width not in _WIDTHS:
                raise ValueError(f"its samples have {width} octets")
            wanted = round(shape.seconds * rate_hz)
            octets = sound.readframes(wanted)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"it is no WAV file of whole numbers ({error or 'it is cut off'})") from error
    samples = _samples(octets, width)
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1, dtype=np.float32)
    if not len(frames):
        raise ValueError("it is empty")
    x = np.zeros(wanted, np.float32)
    x[: len(frames)] = frames
    y = np.int32(declared.label(path.parent.name))
    yield Row({"x": x, "y": np.asarray(y)}, name, path.stat().st_mtime)


def _samples(octets: bytes, width: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    whole = octets[: len(octets) // width * width]
    if width == 1:  # alone has no sign
        return ((np.frombuffer(whole, np.uint8).astype(np.float32) - 128) / 128).astype(np.float32)
    # The octets as the high ones of 32 bits.
    high = np.zeros((len(whole) // width, 4), np.uint8)
    high[:, 4 - width :] = np.frombuffer(whole, np.uint8).reshape(-1, width)
    return (high.view("<i4")[:, 0] / 2**31).astype(np.float32)

"""The front end inside the model against a log-mel spectrogram by NumPy's own Fourier transform."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from models import log_mel, spoken_digits


def by_numpy(
    wave: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    starts = np.arange(49) * 160
    frames = np.stack([wave[:, start : start + 240] for start in starts], axis=1) * np.hanning(241)[:-1]
    power = np.abs(np.fft.rfft(frames.astype(np.float64), 256)) ** 2
    logarithm: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.log10(
        power @ log_mel.mel_matrix() + log_mel.FLOOR
    )
    return (logarithm - log_mel.CENTRE) / log_mel.SPREAD


def test_the_layer_agrees_with_numpy_on_real_recordings(tmp_path: Path) -> None:
    wave = np.concatenate([np.asarray(held_out.x)[::10] for _, held_out in spoken_digits.load().devices.values()])
    np.save(tmp_path / "in.npy", wave)
    command = [sys.executable, "-m", "tests.models.front_end", str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run(command, check=True, capture_output=True)  # TensorFlow stays in a process of its own
    found = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert found.shape == (len(wave), 49, 40, 1)
    np.testing.assert_allclose(found[..., 0], by_numpy(wave), atol=1e-4)


def test_a_tone_is_loudest_in_the_band_that_has_its_frequency() -> None:
    hz = 1000.0
    wave = np.sin(2 * np.pi * hz * np.arange(8000) / 8000)[None].astype(np.float32)
    band = int(by_numpy(wave)[0].mean(axis=0).argmax())
    weights = log_mel.mel_matrix()[round(hz * 256 / 8000)]
    assert weights[band] == weights.max()


def test_every_band_has_a_frequency() -> None:
    assert (log_mel.mel_matrix().max(axis=0) > 0.2).all()

"""A bundle without TensorFlow or TFLite: the textbook model of the NumPy engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from shared.bundle import MANIFEST_FILE, WEIGHTS_FILE, ArraySpec, BundleManifest, TensorSpec


def write_quadratic_bundle(folder: Path, dimension: int) -> None:
    """Write a bundle whose loss of one example x is ``||theta - x||^2``, theta f32[dimension] starting at 0."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({"theta": np.zeros(dimension, np.float32)})
    manifest = BundleManifest(
        name="quadratic",
        engine="quadratic",
        batch_size=16,
        inputs=(ArraySpec("x", (16, dimension), "float32"),),
        labels=ArraySpec("y", (16,), "int32"),
        loss="squared_distance",
        metric="none",
        train_inputs=(),
        tensors=(TensorSpec("theta", (dimension,), 0, dimension, "shared"),),
        patches=(),
        files={WEIGHTS_FILE: hashlib.sha256(weights).hexdigest()},
        tools={},
    )
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())

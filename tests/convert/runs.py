"""Many conversions in one process of their own, because TensorFlow takes seconds to start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle, patch_model


def run_apart(module: str, *words: str) -> dict[str, Any]:
    """Return the JSON object that ``python -m tests.convert.MODULE WORDS`` prints."""
    command = [sys.executable, "-m", f"tests.convert.{module}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def convert_apart(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``fedloom convert WORDS``, whatever it says."""
    command = [sys.executable, "-m", "tools.convert", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def patched(bundle: Bundle, file: str, weights: NDArray[np.float32]) -> bytes:
    """Return an inference file of the bundle with other weights f32[d]."""
    patches = tuple(patch for patch in bundle.manifest.patches if patch.file == file)
    return patch_model(bundle.files[file], patches, weights, bundle.manifest.tensors)

"""The names that ``--target`` takes; apart from what they do, because that needs TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# What each target is measured on; nothing: by rule, where memory matters more than time.
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "portable": ("ai-edge-litert", "tflite-runtime"),
    "litert": ("ai-edge-litert",),
    "tflite-runtime": ("tflite-runtime",),
    "low-memory": (),
}

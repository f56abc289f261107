"""Draw random numbers as a training program does: in a process of its own, because of TensorFlow. JSON on stdout."""

from __future__ import annotations

import json
import sys

import numpy as np
from numpy.typing import NDArray

from tools.convert.random_numbers import Randomness
from tools.convert.tf import tf

SHAPE = (200, 100)


def draw(kind: str, seed: int, step: int, *, skip: int = 0) -> NDArray[np.float32]:
    """Return the draw number ``skip`` of one step, f32[200, 100]."""
    source = Randomness(tf.constant([float(seed)]), tf.constant([float(step)]))
    draws = [source.draw(kind, SHAPE) for _ in range(skip + 1)]
    return np.asarray(draws[-1])


def main() -> None:
    """Print what the tests judge."""
    uniform, normal = draw("uniform", 1, 0), draw("normal", 1, 0)
    others = {
        "step": draw("uniform", 1, 1),
        "seed": draw("uniform", 2, 0),
        "far_seed": draw("uniform", 1 + (1 << 12), 0),
        "draw": draw("uniform", 1, 0, skip=1),
        "rows": np.roll(uniform, 1, axis=0),
        "columns": np.roll(uniform, 1, axis=1),
    }
    pairs = {name: float(np.corrcoef(uniform.ravel(), other.ravel())[0, 1]) for name, other in others.items()}
    found = {
        "lowest": float(uniform.min()),
        "highest": float(uniform.max()),
        "tenths": np.histogram(uniform, 10, (0, 1))[0].tolist(),
        "row_means": float(uniform.mean(axis=1).std()),
        "column_means": float(uniform.mean(axis=0).std()),
        "normal": [float(normal.mean()), float(normal.std()), float(np.abs(normal).max())],
        "correlations": pairs,
        "repeats": bool((uniform == draw("uniform", 1, 0)).all()),
        "last": float(draw("uniform", (1 << 24) - 1, (1 << 24) - 1).mean()),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

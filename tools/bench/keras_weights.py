"""Save a factory's model with other weights: ``python -m tools.bench.keras_weights FACTORY WEIGHTS.npy OUT.keras``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tools.convert.source import load_object
from tools.convert.tf import KerasModel


def save(factory: str, weights: Path, out: Path) -> None:
    """Write the model with the flat weights f32[d], in the order of its variables."""
    model: KerasModel = load_object(factory, "bench-factory")()
    flat, place = np.load(weights, allow_pickle=False), 0
    for variable in model.variables:
        size = int(np.prod(variable.shape))
        variable.assign(flat[place : place + size].reshape(variable.shape))
        place += size
    model.save(out)


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

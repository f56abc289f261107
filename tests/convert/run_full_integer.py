"""Convert networks to full-integer twins and let TensorFlow quantize other weights: in a process with TensorFlow.

``python -m tests.convert.run_full_integer FOLDER`` prints {name: error or null}; FOLDER/NAME is the bundle, beside
it ``other.npy`` (other weights), ``fresh.tflite`` (TensorFlow's twin of them) and ``x.npy``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BundleError
from tests.convert.full_integer_networks import REFUSED, SHAPES
from tools.convert.convert import Options, convert
from tools.convert.full_integer import calibrate
from tools.convert.losses import LossOptions
from tools.convert.source import load_source


def _examples(name: str) -> NDArray[Any]:
    generator = np.random.default_rng(12)
    shape = (40, *(SHAPES | REFUSED)[name])
    if name == "words":
        return generator.integers(0, 50, shape).astype(np.int32)
    return generator.normal(size=shape).astype(np.float32)


def _run(folder: Path, name: str) -> dict[str, str] | None:
    examples = folder / f"{name}.npz"
    x = _examples(name)
    np.savez(examples, x=x)
    factory = f"tests.convert.full_integer_networks:{name}"
    options = Options(loss=LossOptions("mean_squared_error"), representative=examples)
    try:
        made = convert(factory, folder / name, options)
    except BundleError as error:
        return error.to_json()
    source = load_source(factory)
    generator = np.random.default_rng(13)
    # Smaller activations: they stay within the ranges that the twin was calibrated for.
    bounds = {True: (0.75, 0.95), False: (1.0, 1.2)}
    other = [
        np.asarray(w.value * generator.uniform(*bounds[w.trainable], w.value.shape), np.float32) for w in source.weights
    ]
    fresh = calibrate(source, made.manifest.tensors, {"x": x}).quantize(other)
    (folder / name / "fresh.tflite").write_bytes(fresh)
    np.save(folder / name / "other.npy", np.concatenate([value.reshape(-1) for value in other]))
    np.save(folder / name / "x.npy", x)
    return None


def main() -> None:
    """Run every network."""
    folder = Path(sys.argv[1])
    sys.stdout.write(json.dumps({name: _run(folder, name) for name in (*SHAPES, *REFUSED)}))


main()

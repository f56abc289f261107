"""How well the int8 twins do: dynamic range and full integer beside float, on both runtimes, and a patch's time.

A full-integer twin keeps the ranges of the weights that it was calibrated with. *Stale* ones come from the
untrained model, as ``fedloom convert`` has it before the first round; *own* ones from the trained weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.protocol import TrainingRecipe
from edge_client.trainer.runtime import InferenceModel, installed_runtimes
from edge_client.trainer.tflite import TfliteTrainer
from models import activity, digits
from shared.bundle import INFER_FILE, INFER_INT8_FILE, Bundle, initial_weights, patch_model, read_bundle
from shared.examples import Examples, concatenate
from tools.bench.child import child
from tools.bench.report import Result

PATCHES: Final = 5  # the fastest counts


@dataclass(frozen=True)
class Case:
    """A model to train and compare: its name in the results, its factory, and how many examples calibrate it."""

    name: str
    factory: str
    recipe: TrainingRecipe
    calibrated_on: int = 200


CASES: Final = (
    Case("activity", "models.activity:build", TrainingRecipe("fedavg", 20, 0.05)),
    Case("digits", "models.digits:build", TrainingRecipe("fedavg", 2, 0.05)),
)


def measure() -> list[Result]:
    """Train both models in one place, then compare their twins."""
    people = activity.load()
    pooled = concatenate([train for train, _ in people.devices.values()])
    data = {"activity": (pooled, people.test), "digits": digits.load()}
    return [result for case in CASES for result in compare(case, *data[case.name])]


def compare(case: Case, train: Examples, test: Examples) -> list[Result]:
    """Train a model, and return the accuracy of its twins on the test examples and how long a patch takes.

    Raises:
        FedloomError: "bench-failed" if the model cannot be converted or run.
    """
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as text:
        folder = Path(text)
        chosen = np.random.default_rng(1).choice(len(train), case.calibrated_on, replace=False)
        np.savez(folder / "examples.npz", x=np.asarray(train.x)[chosen])
        np.savez(folder / "test.npz", x=np.asarray(test.x), y=test.y)
        dynamic = _convert(folder, case.factory)
        stale = _convert(folder, case.factory, "--representative", str(folder / "examples.npz"))
        weights = TfliteTrainer(dynamic).train(initial_weights(dynamic), train, case.recipe, 1).weights
        np.save(folder / "weights.npy", weights)
        model = str(folder / "trained.keras")
        child("tools.bench.keras_weights", case.factory, str(folder / "weights.npy"), model)
        own = _convert(folder, model, "--representative", str(folder / "examples.npz"))
        twins = {
            "dynamic range": patched(dynamic, INFER_INT8_FILE, weights),
            "full integer, stale ranges": patched(stale, INFER_INT8_FILE, weights),
            "full integer, own ranges": patched(own, INFER_INT8_FILE, weights),
        }
        results = []
        for runtime in installed_runtimes():
            exact = _accuracy(folder, patched(dynamic, INFER_FILE, weights), runtime)
            for title, twin in twins.items():
                value = _accuracy(folder, twin, runtime)
                results.append(Result(f"int8/{case.name}/{title} on {runtime}", value, "share", "float", exact))
        times = [_patch_ms(bundle, weights) for bundle in (stale, dynamic)]
    return [*results, Result(f"int8/{case.name}/patch, d = {len(weights)}", times[0], "ms", "dynamic range", times[1])]


def patched(bundle: Bundle, file: str, weights: NDArray[np.float32]) -> bytes:
    """Return a twin of the bundle with other weights f32[d]."""
    patches = tuple(patch for patch in bundle.manifest.patches if patch.file == file)
    return patch_model(bundle.files[file], patches, weights, bundle.manifest.tensors)


def _patch_ms(bundle: Bundle, weights: NDArray[np.float32]) -> float:
    times = []
    for _ in range(PATCHES):
        began = time.perf_counter()
        patched(bundle, INFER_INT8_FILE, weights)
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def _convert(folder: Path, source: str, *options: str) -> Bundle:
    out = folder / "bundle"
    child("tools.convert", source, "--out", str(out), "--loss", "sparse_categorical_crossentropy", *options)
    return read_bundle(out)


def _accuracy(folder: Path, model: bytes, runtime: str) -> float:
    """Return the share of the test examples that a twin gets right, in a process of its own."""
    (folder / "twin.tflite").write_bytes(model)
    return float(json.loads(child("tools.bench.int8", str(folder), runtime)))


def main() -> None:
    """Print the accuracy of FOLDER's twin on one runtime."""
    folder, runtime = Path(sys.argv[1]), sys.argv[2]
    with np.load(folder / "test.npz", allow_pickle=False) as stored:
        found = InferenceModel((folder / "twin.tflite").read_bytes(), 1, runtime).predict(stored["x"])
        print(float(np.mean(found.argmax(axis=-1) == stored["y"])))


if __name__ == "__main__":
    main()

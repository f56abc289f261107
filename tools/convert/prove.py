"""Run a bundle's programs on one runtime and compare them with what TensorFlow computed.

Runs as a program of its own, ``python -m tools.convert.prove RUNTIME FOLDER``, because TensorFlow and
tflite-runtime cannot share a process. FOLDER holds the bundle's programs and ``case.npz``; the result is one
JSON object on stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.runtime import InferenceModel, Signature, load_interpreter
from shared.bundle import INFER_FILE, INFER_INT8_FILE, TRAIN_FILE, BundleManifest
from shared.training_inputs import GRADIENT_RATE, Inputs, gradient_inputs, step_inputs
from tools.inspection.memory import peak_bytes

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-4  # of the largest reference value of a tensor
FLOOR = 1e-2  # but never relative to less than this, or this part of the batch's largest gradient: 1e-6 absolute
INT8_TOLERANCE = 0.5  # a check for nonsense; how good int8 is depends on the model
STEADY = 3e-5  # change of a gradient under rounding errors, relative to a tensor's largest element
_LOOSEST = 1e-2  # however much TensorFlow's own gradient may change
_NOTHING = 1e-5  # of a batch's largest gradient
_STEPS = 3  # batches of the several steps, the first ones of the case
_JUMP = 4.0  # how much more several steps may change than TensorFlow's own do under rounding errors
_TIMED_STEPS = 12


def relative_error(got: NDArray[Any], expected: NDArray[Any], scale: float = 1.0) -> float:
    """Return max|got - expected| / max(max|expected|, FLOOR * scale); infinite where got is not finite."""
    difference = np.abs(got.astype(np.float64) - expected)
    error = float(difference.max() / max(np.abs(expected).max(), FLOOR * scale))
    return error if np.isfinite(error) else float("inf")


class _Runs:
    """One training program on one runtime, and the recorded case."""

    def __init__(self, model: bytes, runtime: str, case: Arrays, manifest: BundleManifest) -> None:
        self._manifest = manifest
        self._interpreter = load_interpreter(model, 1, runtime)
        self._case = case
        self._values = {
            name.removeprefix("values/"): float(value) for name, value in case.items() if name.startswith("values/")
        }

    @property
    def _batches(self) -> range:
        return range(len(self._case["gradients"]))

    def _signature(self, name: str) -> Signature:
        return self._interpreter.get_signature_runner(name)

    def start(self) -> None:
        self._signature("set_weights")(weights=self._case["weights"])

    def weights(self) -> NDArray[np.float32]:
        return self._signature("get_weights")()["weights"]

    def batch(self, index: int, *, labels: bool = True) -> dict[str, NDArray[Any]]:
        kept = ("x", "y", "mask") if labels else ("x",)
        prefix = f"batch{index}/"
        named = {name.removeprefix(prefix): value for name, value in self._case.items() if name.startswith(prefix)}
        return {name: value for name, value in named.items() if name.startswith(kept)}

    def _step(self, index: int, inputs: Inputs) -> float:
        return float(self._signature("train")(**self.batch(index), **inputs)["loss"][0])

    def gradients(self) -> NDArray[np.float64]:
        """Return one gradient per batch, each from the case's weights."""
        result = []
        for index in self._batches:
            self.start()
            self._step(index, gradient_inputs(self._manifest))
            result.append((self._case["weights"].astype(np.float64) - self.weights()) / GRADIENT_RATE)
        return np.stack(result)

    def several_steps(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the losses and the weights after one step of the optimizer for each of the first batches."""
        self.start()
        further = {name: value for name, value in self._values.items() if name not in {"lr", "mu"}}
        rate, mu = self._values["lr"], self._values["mu"]
        inputs = step_inputs(self._manifest, rate=rate, mu=mu, seed=0, values=further)
        losses = [self._step(index, inputs) for index in range(_STEPS)]
        return np.array(losses), self.weights()

    def evaluations(self) -> NDArray[np.float32]:
        """Return loss sum, metric sum and count of every batch, with the case's weights."""
        self.start()
        run = self._signature("evaluate")
        batches = (run(**self.batch(index)) for index in self._batches)
        return np.array([[got[name][0] for name in ("loss_sum", "metric_sum", "count")] for got in batches])

    def predictions(self) -> NDArray[np.float32]:
        """Return the outputs for the first batch."""
        return self._signature("infer")(**self.batch(0, labels=False))["y"]

    def step_ms(self) -> float:
        """Return the time of the fastest of some training steps, in milliseconds."""
        self.start()
        inputs = step_inputs(self._manifest, rate=1e-3, mu=0.0, seed=0, values={})
        times = []
        for _ in range(_TIMED_STEPS):
            began = time.perf_counter()
            self._step(0, inputs)
            times.append(time.perf_counter() - began)
        return round(min(times) * 1e3, 3)


def prove(runtime: str, folder: Path) -> dict[str, Any]:
    """Return this runtime's entry of ``proof.json``."""
    manifest = BundleManifest.from_bytes((folder / "manifest.json").read_bytes())
    with np.load(folder / "case.npz", allow_pickle=False) as stored:
        case = dict(stored)
    runs = _Runs((folder / TRAIN_FILE).read_bytes(), runtime, case, manifest)
    gradients = _gradient_errors(runs.gradients(), case, manifest)
    losses, weights = runs.several_steps()
    allowed = _allowed(case, manifest)
    tensors = [
        {"path": path, "max_relative_error": max(errors), "allowed": max(allowed[path])}
        for path, errors in gradients.items()
    ]
    worst = max(
        TOLERANCE * error / limit
        for path in gradients
        for error, limit in zip(gradients[path], allowed[path], strict=True)
    )
    checks = {
        "steps": _steps_error(weights, case, manifest),
        "loss": _allowing(relative_error(losses, case["losses"]), case["losses_jump"]),
        "evaluate": _sums_error(runs.evaluations(), case["evaluations"]),
        "infer": relative_error(runs.predictions(), case["outputs"]),
        "infer_file": relative_error(_twin(folder / INFER_FILE, runtime, runs), case["outputs_initial"]),
    }
    int8 = _int8_error(folder / INFER_INT8_FILE, runtime, runs, case)
    worst = max(worst, *checks.values())
    return {
        "name": runtime,
        "version": importlib.metadata.version(runtime),
        "tensors": tensors,
        "batches": _by_batch(gradients, case),
        "checks": checks,
        "int8_max_relative_error": int8,
        "passed": worst <= TOLERANCE and int8 <= INT8_TOLERANCE,
        "step_ms": runs.step_ms(),
        "ram_bytes": peak_bytes(),
    }


def _gradient_errors(got: NDArray[np.float64], case: Arrays, manifest: BundleManifest) -> dict[str, list[float]]:
    """Return each tensor's error per batch; 0 for tensors that are not trained."""
    errors = {}
    floors = [max(1.0, float(np.abs(expected).max())) for expected in case["gradients"]]
    for spec in manifest.tensors:
        part = slice(spec.offset, spec.offset + spec.size)
        errors[spec.path] = [
            _gradient_error(one[part], expected[part], floor) if case["trained"][part.start] else 0.0
            for one, expected, floor in zip(got, case["gradients"], floors, strict=True)
        ]
    return errors


def _allowed(case: Arrays, manifest: BundleManifest) -> dict[str, list[float]]:
    """Return each tensor's largest error per batch.

    That is ``TOLERANCE``, or some times what TensorFlow's own gradient changes under rounding errors of the weights,
    where that is not small: some deep networks have gradients that no two ways of computing them agree upon.
    """
    jumps = case["gradients_jump"]
    limits = np.where(jumps <= STEADY, TOLERANCE, np.clip(_JUMP * jumps, TOLERANCE, _LOOSEST))
    return {spec.path: limits[:, place].tolist() for place, spec in enumerate(manifest.tensors)}


def _gradient_error(got: NDArray[np.float64], expected: NDArray[np.float32], largest: float) -> float:
    """Return the error of one tensor's gradient.

    A bias in front of batch normalisation has no gradient: what there is are rounding errors of a sum whose terms
    cancel, and they may be as large as ten times the floor.
    """
    cancels = float(np.abs(expected).max()) <= _NOTHING * largest
    return relative_error(got, expected, largest * (10.0 if cancels else 1.0))


def _by_batch(gradients: Mapping[str, list[float]], case: Arrays) -> dict[str, float]:
    worst = np.max(list(gradients.values()), axis=0)
    return {str(name): float(error) for name, error in zip(case["names"], worst, strict=True)}


def _sums_error(got: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    """Return the largest error of any sum of any batch: no batch may hide behind another one's larger numbers."""
    pairs = zip(got.reshape(-1, 1), expected.reshape(-1, 1), strict=True)
    return max(relative_error(one, wanted) for one, wanted in pairs)


def _steps_error(weights: NDArray[np.float32], case: Arrays, manifest: BundleManifest) -> float:
    """Return the error of the weights after several steps."""
    worst = 0.0
    for spec, jump in zip(manifest.tensors, case["steps_jump"], strict=True):
        part = slice(spec.offset, spec.offset + spec.size)
        worst = max(worst, _allowing(relative_error(weights[part], case["weights_after"][part]), jump))
    return worst


def _allowing(error: float, jump: float) -> float:
    """Return an error in units such that ``TOLERANCE`` is allowed.

    Later steps may come near kinks. So they may be off by some times what TensorFlow's own steps are when rounding
    errors are added to the weights, where that is more than ``TOLERANCE``.
    """
    return error * min(1.0, TOLERANCE / max(_JUMP * float(jump), 1e-12))


def _twin(path: Path, runtime: str, runs: _Runs) -> NDArray[np.float32]:
    return InferenceModel(path.read_bytes(), 1, runtime).predict(runs.batch(0, labels=False))


def _int8_error(path: Path, runtime: str, runs: _Runs, case: Arrays) -> float:
    """Compare the int8 twin with TensorFlow, a full-integer one on examples like those it was calibrated on."""
    if "int8/outputs" not in case:
        return relative_error(_twin(path, runtime, runs), case["outputs_initial"])
    inputs = {name.removeprefix("int8/"): array for name, array in case.items() if name.startswith("int8/x")}
    return relative_error(InferenceModel(path.read_bytes(), 1, runtime).predict(inputs), case["int8/outputs"])


def main() -> int:
    """Prove one runtime; the exit code is 0 even where the proof fails, as the result says so."""
    runtime, folder = sys.argv[1:3]
    print(json.dumps(prove(runtime, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

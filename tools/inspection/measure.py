"""What one training step of a bundle costs on this machine, on one runtime.

Runs as a program of its own, ``python -m tools.inspection.measure RUNTIME FOLDER``: two runtimes cannot share a
process, and a peak of memory belongs to the whole process. The result is one JSON object on stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.runtime import Interpreter, load_interpreter
from shared.bundle import (
    INFER_FILE,
    INFER_INT8_FILE,
    TRAIN_FILE,
    ArraySpec,
    Bundle,
    BundleManifest,
    initial_weights,
    read_bundle,
)
from shared.errors import FedloomError
from tools.inspection.memory import peak_bytes

PROGRAMS = (TRAIN_FILE, INFER_FILE, INFER_INT8_FILE)
_TIMED_STEPS = 12
_TIMEOUT_S = 600


def measure_apart(runtime: str, folder: Path) -> dict[str, Any]:
    """Measure in a process of its own; a runtime that cannot run the bundle is a finding, not an end.

    The keys are always the same: name, version, step_ms, ram_bytes, signatures, error.
    """
    nothing: dict[str, Any] = {"step_ms": None, "ram_bytes": None, "signatures": {}, "error": None}
    entry = {"name": runtime, "version": importlib.metadata.version(runtime), **nothing}
    command = [sys.executable, "-m", "tools.inspection.measure", runtime, str(folder.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return entry | {"error": f"no result within {_TIMEOUT_S} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return entry | {"error": reason}
    return entry | dict(json.loads(done.stdout))


def measure(runtime: str, folder: Path) -> dict[str, Any]:
    """Return the time of a step, the peak of memory, and the signatures of every program."""
    training, manifest = _ready_to_train(runtime, folder)
    step_ms = _fastest_ms(_step(training, manifest))
    # Before the other programs are loaded: a device does not need them in order to train.
    ram_bytes = peak_bytes()
    return {"step_ms": step_ms, "ram_bytes": ram_bytes, "signatures": _signatures(read_bundle(folder), runtime)}


def _ready_to_train(runtime: str, folder: Path) -> tuple[Interpreter, BundleManifest]:
    """Load as an agent does, which keeps nothing of the bundle but the training program."""
    bundle = read_bundle(folder)
    weights, model, manifest = initial_weights(bundle), bundle.files[TRAIN_FILE], bundle.manifest
    del bundle
    training = load_interpreter(model, 1, runtime)
    training.get_signature_runner("set_weights")(weights=weights)
    return training, manifest


def _step(training: Interpreter, manifest: BundleManifest) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    arguments = {spec.name: _made_up(spec, generator) for spec in (*manifest.inputs, manifest.labels)}
    arguments["mask"] = np.ones(manifest.batch_size, np.float32)
    for spec in manifest.train_inputs:
        arguments[spec.name] = np.full(spec.shape, spec.default, spec.dtype)
    train = training.get_signature_runner("train")
    return lambda: train(**arguments)


def _made_up(spec: ArraySpec, generator: np.random.Generator) -> NDArray[Any]:
    """Return small numbers for floats and 0 for integers, which may be classes or places in a table."""
    if spec.dtype == "float32":
        return generator.normal(size=spec.shape).astype(np.float32)
    return np.zeros(spec.shape, spec.dtype)


def _fastest_ms(step: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMED_STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return round(min(times) * 1e3, 3)


def _signatures(bundle: Bundle, runtime: str) -> dict[str, dict[str, dict[str, list[str]]]]:
    result = {}
    for file in (name for name in PROGRAMS if name in bundle.files):
        listed = load_interpreter(bundle.files[file], 1, runtime).get_signature_list()
        result[file] = {
            name: {side: sorted(names[side]) for side in ("inputs", "outputs")}
            for name, names in sorted(listed.items())
        }
    return result


def main() -> int:
    """Measure on one runtime; the last line on stderr says why it failed."""
    runtime, folder = sys.argv[1:3]
    try:
        print(json.dumps(measure(runtime, Path(folder))))
    except (FedloomError, ValueError, RuntimeError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

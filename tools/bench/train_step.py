"""How long a training step takes in each TFLite runtime, and its memory, beside TensorFlow with one thread.

Every measurement is a process of its own; they take turns, and the fastest of each counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from edge_client.trainer.runtime import installed_runtimes
from shared.errors import FedloomError
from tools.bench.report import Result
from tools.inspection.measure import measure_apart

MODELS: Final = {"digits": "models.digits:build", "activity": "models.activity:build"}
BATCH_SIZE: Final = 16
TURNS: Final = 3


def measure() -> list[Result]:
    """Convert each model and measure it; raises FedloomError ("bench-failed")."""
    results = [result for name, factory in MODELS.items() for result in _of_model(name, factory, "portable")]
    return results + _of_model("digits", MODELS["digits"], "low-memory")


def _of_model(name: str, factory: str, target: str) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        bundle = Path(folder) / name
        options = ("--out", str(bundle), "--batch-size", str(BATCH_SIZE), "--target", target, "--json")
        _child("tools.convert", factory, *options)
        turns = [_turn(factory, bundle) for _ in range(TURNS)]
    results = []
    for runtime in installed_runtimes():
        for key, unit, scale in (("step_ms", "ms", 1.0), ("ram_bytes", "MiB", 2.0**-20)):
            value, reference = (min(turn[which][key] for turn in turns) * scale for which in (runtime, "tensorflow"))
            title = (
                f"{name}: {'a step' if unit == 'ms' else 'memory'} on {runtime}, batch {BATCH_SIZE}, target {target}"
            )
            results.append(Result(title, value, unit, "TensorFlow, one thread", reference))
    return results


def _turn(factory: str, bundle: Path) -> dict[str, dict[str, Any]]:
    measured: dict[str, dict[str, Any]] = {"tensorflow": _child("tools.bench.keras_step", factory, str(BATCH_SIZE))}
    for runtime in installed_runtimes():
        measured[runtime] = measure_apart(runtime, bundle)
        if measured[runtime]["error"]:
            raise FedloomError("bench-failed", f"{runtime} cannot run {bundle.name}: {measured[runtime]['error']}")
    return measured


def _child(module: str, *words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise FedloomError("bench-failed", f"{module} {' '.join(words)}: {reason}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result

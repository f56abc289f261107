"""How long a training step takes in each TFLite runtime, and its memory, beside TensorFlow with one thread.

Every measurement is a process of its own; they take turns, and the fastest of each counts.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from edge_client.trainer.runtime import TFLITE_RUNTIME, installed_runtimes
from models.registry import TASKS
from shared.errors import FedloomError
from tools.bench.child import child
from tools.bench.report import Result
from tools.convert.targets import TARGETS
from tools.inspection.measure import measure_apart

LARGE: Final = "models.digits:build"  # the network of McMahan et al., arXiv 1602.05629
BATCH_SIZE: Final = 16
TURNS: Final = 3


def measure() -> list[Result]:
    """Convert every task's model, and a large one, and measure them; raises FedloomError ("bench-failed")."""
    models = {"digits": (LARGE, "sgd")} | {
        "digits, small" if task.name == "digits" else task.name: (task.factory, task.optimizer)
        for task in TASKS.values()
    }
    results = [result for name, model in models.items() for result in _of_model(name, *model, "portable")]
    results += _of_model("digits", LARGE, "sgd", "low-memory")
    # Where all devices have the same runtime, the forms are chosen for it alone.
    task = TASKS["activity"]
    return results + _of_model(task.name, task.factory, task.optimizer, TFLITE_RUNTIME)


def _of_model(name: str, factory: str, optimizer: str, target: str) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        bundle = Path(folder) / "bundle"
        options = ("--out", str(bundle), "--batch-size", str(BATCH_SIZE), "--target", target, "--json")
        child("tools.convert", factory, "--optimizer", optimizer, *options)
        turns = [_turn(factory, optimizer, bundle) for _ in range(TURNS)]
    results = []
    for runtime in (each for each in installed_runtimes() if each in (TARGETS[target] or installed_runtimes())):
        for key, unit, scale in (("step_ms", "ms", 1.0), ("ram_bytes", "MiB", 2.0**-20)):
            value, reference = (min(turn[which][key] for turn in turns) * scale for which in (runtime, "tensorflow"))
            title = (
                f"{name}: {'a step' if unit == 'ms' else 'memory'} on {runtime}, batch {BATCH_SIZE}, target {target}"
            )
            results.append(Result(title, value, unit, "TensorFlow, one thread", reference))
    return results


def _turn(factory: str, optimizer: str, bundle: Path) -> dict[str, dict[str, Any]]:
    reference = json.loads(child("tools.bench.keras_step", factory, str(BATCH_SIZE), optimizer))
    measured: dict[str, dict[str, Any]] = {"tensorflow": reference}
    for runtime in installed_runtimes():
        measured[runtime] = measure_apart(runtime, bundle)
        if measured[runtime]["error"]:
            raise FedloomError("bench-failed", f"{runtime} cannot run {bundle.name}: {measured[runtime]['error']}")
    return measured

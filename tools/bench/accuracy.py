"""Accuracy of task ``activity`` on people who took no part: federated, local only, centralised, and int8."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np

from edge_client.trainer.runtime import InferenceModel
from edge_client.trainer.tflite import TfliteTrainer
from models.activity import TaskData
from models.registry import Task, get_task
from shared.bundle import INFER_INT8_FILE, Bundle, patch_model, read_bundle
from tools.baselines import (
    BOUNDS,
    CENTRALISED,
    F32,
    FEDERATED,
    LOCAL_ONLY,
    random_weights,
    train_centralised,
    train_federated,
    train_local_only,
)
from tools.bench.report import Result

_SEEDS = (1, 2, 3)


def measure() -> list[Result]:
    """Train with every seed, all methods from the same weights; return means over the seeds."""
    task = get_task("activity")
    bundle = _convert(task)
    data = task.load(task.test_owners)
    runs = [_accuracies(bundle, data, seed) for seed in _SEEDS]
    figures = {name: mean(run[name] for run in runs) for name in runs[0]}

    def result(name: str, reference: str) -> Result:
        return Result(f"accuracy/{name}", figures[name], "share", reference, figures[reference])

    return [result("federated", "local only"), result("federated", "centralised"), result("int8", "federated")]


def _accuracies(bundle: Bundle, data: TaskData, seed: int) -> dict[str, float]:
    trainer = TfliteTrainer(bundle)
    start = random_weights(bundle.manifest, seed)
    tensors, devices, test = bundle.manifest.tensors, data.devices, data.test
    federated = train_federated(trainer, tensors, start, devices, test, FEDERATED, BOUNDS, seed)
    return {
        "federated": federated.accuracy[-1],
        "int8": int8_accuracy(bundle, federated.weights[0], data),
        "local only": train_local_only(trainer, start, devices, test, LOCAL_ONLY, seed).accuracy[-1],
        "centralised": train_centralised(trainer, start, devices, test, CENTRALISED, seed).accuracy[-1],
    }


def int8_accuracy(bundle: Bundle, weights: F32, data: TaskData) -> float:
    """Return the share of the test people's windows that the int8 twin with these weights gets right."""
    patches = tuple(patch for patch in bundle.manifest.patches if patch.file == INFER_INT8_FILE)
    twin = patch_model(bundle.files[INFER_INT8_FILE], patches, weights, bundle.manifest.tensors)
    found = InferenceModel(twin).predict(data.test.x).argmax(axis=-1)
    return float(np.mean(found == data.test.y))


def _convert(task: Task) -> Bundle:
    """Convert in a process of its own: this one loads a TFLite runtime."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        out = Path(folder) / "bundle"
        options = ["--out", str(out), "--batch-size", str(task.batch_size), "--loss", task.loss]
        command = [sys.executable, "-m", "tools.convert", task.factory, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_bundle(out)

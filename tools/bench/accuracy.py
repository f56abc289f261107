"""Accuracy of task ``activity`` on people who took no part: federated, local only, centralised, and int8."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from edge_client.trainer.protocol import Trainer
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
    Bounds,
    Budget,
    random_weights,
    train_centralised,
    train_federated,
    train_local_only,
)
from tools.bench.report import Result

# Whom the models are tested on: the choices of ``models/data/README.md``.
TEST_PEOPLE = ((9, 10), (1, 2), (4, 5))
SEEDS = (1, 2, 3)
_COMPARISONS = (("federated", "local only"), ("federated", "centralised"), ("int8", "float"))
_FIGURES = ("federated", "local only", "centralised", "int8", "float")


@dataclass(frozen=True)
class Budgets:
    """How much each method trains, and federated averaging's bounds."""

    federated: Budget = FEDERATED
    local_only: Budget = LOCAL_ONLY
    centralised: Budget = CENTRALISED
    bounds: Bounds = BOUNDS


_BUDGETS = Budgets()


def measure() -> list[Result]:
    """Train with every choice of test people and every seed, all methods from the same weights."""
    task = get_task("activity")
    bundle = convert_task(task)
    trainer = TfliteTrainer(bundle)
    results: list[Result] = []
    for people in TEST_PEOPLE:
        data = task.load(people)
        runs = {seed: accuracies(bundle, trainer, data, seed) for seed in SEEDS}
        results += compare("+".join(map(str, people)), runs)
    return results


def compare(people: str, runs: Mapping[int, Mapping[str, float]]) -> list[Result]:
    """Return the means over the seeds, then every seed's figures; ``people`` names who is tested."""
    means = {figure: mean(run[figure] for run in runs.values()) for figure in _FIGURES}
    named = {people: means} | {f"{people}/seed {seed}": run for seed, run in runs.items()}
    return [
        Result(f"accuracy/{name}/{value} vs {other}", run[value], "share", other, run[other])
        for name, run in named.items()
        for value, other in _COMPARISONS
    ]


def accuracies(
    bundle: Bundle, trainer: Trainer, data: TaskData, seed: int, budgets: Budgets = _BUDGETS
) -> dict[str, float]:
    """Train all methods from one start; return their accuracies on the people who take no part."""
    start = random_weights(bundle, seed)
    devices, test = data.devices, data.test
    federated = train_federated(
        trainer, bundle.manifest.tensors, start, devices, test, budgets.federated, budgets.bounds, seed
    )
    return {
        "federated": federated.accuracy[-1],
        "float": federated.accuracy[-1],
        "int8": int8_accuracy(bundle, federated.weights[0], data),
        "local only": train_local_only(trainer, start, devices, test, budgets.local_only, seed).accuracy[-1],
        "centralised": train_centralised(trainer, start, devices, test, budgets.centralised, seed).accuracy[-1],
    }


def int8_accuracy(bundle: Bundle, weights: F32, data: TaskData) -> float:
    """Return the share of the test people's windows that the int8 twin with these weights gets right."""
    patches = tuple(patch for patch in bundle.manifest.patches if patch.file == INFER_INT8_FILE)
    twin = patch_model(bundle.files[INFER_INT8_FILE], patches, weights, bundle.manifest.tensors)
    found = InferenceModel(twin).predict(data.test.x).argmax(axis=-1)
    return float(np.mean(found == data.test.y))


def convert_task(task: Task) -> Bundle:
    """Convert in a process of its own: this one loads a TFLite runtime."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        out = Path(folder) / "bundle"
        options = ["--out", str(out), "--batch-size", str(task.batch_size), "--loss", task.loss]
        command = [sys.executable, "-m", "tools.convert", task.factory, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_bundle(out)

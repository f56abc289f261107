"""Accuracy of a task on owners who took no part: federated, local only, centralised, and int8."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import numpy as np

from edge_client.trainer.protocol import Trainer
from edge_client.trainer.runtime import InferenceModel
from edge_client.trainer.tflite import TfliteTrainer
from models.task import Budgets, Task, TaskData
from shared.bundle import INFER_INT8_FILE, Bundle, read_bundle
from tools.baselines import (
    F32,
    random_weights,
    simulated_plan,
    train_centralised,
    train_federated,
    train_local_only,
)
from tools.bench.int8 import patched
from tools.bench.report import Result

# Whom the models are tested on, where it is not the task's own choice only: see ``models/data/README.md``.
TEST_PEOPLE = {
    "activity": ((9, 10), (1, 2), (4, 5)),
    "spoken_digits": ((6,), (5,), (4,)),
}
SEEDS = (1, 2, 3)
_COMPARISONS = (("federated", "local only"), ("federated", "centralised"), ("int8", "float"))
_FIGURES = ("federated", "local only", "centralised", "int8", "float")


def measure(task: Task) -> list[Result]:
    """Train with every choice of test people and every seed, all methods from the same weights."""
    bundle = convert_task(task)
    trainer = TfliteTrainer(bundle)
    results: list[Result] = []
    for people in TEST_PEOPLE.get(task.name, (task.test_owners,)):
        data = task.load(people)
        runs = {seed: accuracies(bundle, trainer, data, seed, task.budgets) for seed in SEEDS}
        results += compare("+".join(map(str, people)) or "test", runs)
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


def accuracies(bundle: Bundle, trainer: Trainer, data: TaskData, seed: int, budgets: Budgets) -> dict[str, float]:
    """Train all methods from one start; return their accuracies on the people who take no part."""
    start = random_weights(bundle, seed)
    devices, test = data.devices, data.test
    plan = simulated_plan(budgets.federated, budgets.bounds)
    rounds = budgets.federated.rounds
    federated = train_federated(trainer, bundle.manifest.tensors, start, devices, test, plan, rounds, seed)
    return {
        "federated": federated.accuracy[-1],
        "float": federated.accuracy[-1],
        "int8": int8_accuracy(bundle, federated.weights[0], data),
        "local only": train_local_only(trainer, start, devices, test, budgets.local_only, seed).accuracy[-1],
        "centralised": train_centralised(trainer, start, devices, test, budgets.centralised, seed).accuracy[-1],
    }


def int8_accuracy(bundle: Bundle, weights: F32, data: TaskData) -> float:
    """Return the share of the test examples that the int8 twin with these weights gets right."""
    found = InferenceModel(patched(bundle, INFER_INT8_FILE, weights)).predict(data.test.x).argmax(axis=-1)
    return float(np.mean(found == data.test.y))


def convert_task(task: Task) -> Bundle:
    """Convert in a process of its own: this one loads a TFLite runtime."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        out = Path(folder) / "bundle"
        command = [sys.executable, "-m", "tools.convert", task.factory, "--out", str(out), *task.convert_options()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_bundle(out)

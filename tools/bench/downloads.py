"""What a compressed difference to the version before would save of the weights that go down, over a task's rounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edge_client.trainer.tflite import TfliteTrainer
from models.task import Task
from shared.numeric.differences import make_difference
from shared.numeric.starting_weights import write_start
from tools.baselines import random_weights, simulated_plan, train_federated
from tools.bench.accuracy import convert_task
from tools.bench.report import Result

_SEED = 1


def measure(task: Task) -> list[Result]:
    """Train as the task's plan says, in every round from the weights of the one before, and compare the files."""
    bundle = convert_task(task)
    trainer, tensors = TfliteTrainer(bundle), bundle.manifest.tensors
    data, weights = task.load(task.test_owners), random_weights(bundle, _SEED)
    plan = simulated_plan(task.budgets.federated, task.budgets.bounds)
    files = [write_start(weights, tensors)[0]]
    for number in range(task.budgets.federated.rounds):
        curve = train_federated(trainer, tensors, weights, data.devices, data.test, plan, 1, number)
        weights = curve.weights[0]
        files.append(write_start(weights, tensors)[0])
    return compare(task.name, files)


def compare(name: str, files: Sequence[bytes]) -> list[Result]:
    """Return the bytes that come to a device which follows every version: differences beside whole files."""
    pairs = list(pairwise(files))
    parts = {"all rounds": pairs, "last third of the rounds": pairs[-max(1, len(pairs) // 3) :]}
    return [
        Result(
            f"downloads/{name}/{which}",
            sum(len(make_difference(before, after) or after) for before, after in chosen),
            "B",
            "whole files",
            sum(len(after) for _, after in chosen),
        )
        for which, chosen in parts.items()
    ]

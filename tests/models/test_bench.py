"""What benchmarks report, which other programs read, and the accuracy benchmarks on few examples."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_client.trainer.protocol import Examples
from edge_client.trainer.tflite import TfliteTrainer
from models.activity import load
from models.registry import TASKS, get_task
from models.task import Bounds, Budget, Budgets, Task, TaskData
from shared.bundle import Bundle
from tools.baselines import random_weights
from tools.bench.accuracy import accuracies, compare
from tools.bench.command import ALL, BENCHES
from tools.bench.report import Result, to_json, to_text
from tools.bench.tuning import Job, Point, best, grid, results, scores

FIGURES = {"federated": 0.8, "float": 0.8, "int8": 0.79, "local only": 0.6, "centralised": 0.9}
METHODS = ("federated", "local only", "centralised")
BOUNDS = Bounds(max_l2_norm=3.0, max_weight=400, server_learning_rate=1.5)


def test_results_carry_value_reference_and_ratio() -> None:
    results = [Result("accuracy/federated", 0.8, "share", "local only", 0.4), Result("x", 1.0, "ms", "none", 0.0)]
    document = json.loads(to_json(results))
    assert document["cpu"]
    assert document["results"][0] == {
        "name": "accuracy/federated",
        "value": 0.8,
        "unit": "share",
        "reference": "local only",
        "reference_value": 0.4,
        "ratio": 2.0,
    }
    assert document["results"][1]["ratio"] == 0.0
    assert "local only" in to_text(results)


def few(examples: Examples, count: int) -> Examples:
    return Examples(np.asarray(examples.x)[:count], examples.y[:count])


@pytest.fixture(scope="module")
def small() -> TaskData:
    data = load((9, 10))
    devices = {owner: (few(train, 32), few(held, 16)) for owner, (train, held) in list(data.devices.items())[:2]}
    return TaskData(devices, few(data.test, 32))


def test_accuracies_of_all_methods_start_from_one_model(activity_bundle: Bundle, small: TaskData) -> None:
    trainer = TfliteTrainer(activity_bundle)
    still = Budget(rounds=1, epochs=1, learning_rate=1e-9)
    run = accuracies(activity_bundle, trainer, small, 1, Budgets(still, still, still, BOUNDS))
    assert set(run) == set(FIGURES)
    assert run["local only"] == run["centralised"]  # nothing has moved
    again = accuracies(activity_bundle, trainer, small, 1, Budgets(still, still, still, BOUNDS))
    assert again == run
    assert all(0 <= value <= 1 for value in run.values())


def test_comparisons_are_reported_by_people_and_by_seed() -> None:
    found = {result.name: result for result in compare("9+10", {1: FIGURES, 2: FIGURES | {"federated": 0.6}})}
    assert found["accuracy/9+10/federated vs local only"].value == pytest.approx(0.7)
    assert found["accuracy/9+10/seed 2/federated vs local only"].value == 0.6
    assert found["accuracy/9+10/federated vs centralised"].reference_value == pytest.approx(0.9)
    int8 = found["accuracy/9+10/int8 vs float"]
    assert [int8.value, int8.reference_value] == pytest.approx([0.79, 0.8])
    assert len(found) == 9


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_tuning_gives_every_method_as_many_points(task: Task) -> None:
    points = grid(task)
    counts = {sum(point.method == method for point in points) for method in METHODS}
    assert len(counts) == 1
    assert len({point.name for point in points}) == len(points) == 3 * counts.pop()


def test_tuning_is_asked_for_by_name() -> None:
    assert "tuning" in BENCHES
    assert "tuning" not in ALL
    assert len(grid(get_task("activity"))) == 24


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_budgets_are_points_of_the_grid(task: Task) -> None:
    points, budgets = grid(task), task.budgets
    for method, budget in zip(METHODS, (budgets.federated, budgets.local_only, budgets.centralised), strict=True):
        assert Point(method, budget, budgets.bounds) in points


def test_a_learning_rate_at_which_a_run_diverged_is_rejected() -> None:
    calm, wild = (Point("federated", Budget(15, 4, rate), BOUNDS) for rate in (0.05, 0.1))
    diverged = replace(wild, bounds=replace(BOUNDS, server_learning_rate=1.0))
    found = {calm: 0.8, wild: 0.9, diverged: None}
    assert best(found) == {"federated": calm}
    reported = results(found)
    assert [result.value for result in reported] == [0.8, 0.9, 0.0]
    assert all(result.reference_value == 0.8 for result in reported)
    assert reported[2].name.endswith("diverged")


def test_points_are_scored_on_the_participants(activity_bundle: Bundle, small: TaskData) -> None:
    start = random_weights(activity_bundle, 1)
    job = Job(TfliteTrainer(activity_bundle), activity_bundle.manifest.tensors, start, small.devices)
    found = dict(scores(job, [Point(method, Budget(1, 1, 0.05), BOUNDS) for method in METHODS]))
    assert len(found) == 3
    assert all(score is not None and 0 <= score <= 1 for score in found.values())


def test_a_diverged_run_has_no_score(activity_bundle: Bundle, small: TaskData) -> None:
    start = random_weights(activity_bundle, 1)
    job = Job(TfliteTrainer(activity_bundle), activity_bundle.manifest.tensors, start, small.devices)
    point = Point("centralised", Budget(2, 1, 1e30), BOUNDS)
    assert dict(scores(job, [point])) == {point: None}

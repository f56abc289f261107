"""How a task's three methods were tuned: grids of equal size, judged on the participants only.

Every point is one model, trained with one seed and scored after its last round on the participants' held-out
examples (local only: each model on its own owner's): by accuracy, or by loss where an example is a text. The people
who take no part are not looked at. A run that diverges scores 0 and says so in its name. This trains 12 to 24 models,
so it is not part of ``fedloom bench all``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from edge_client.trainer.protocol import Trainer, TrainingDiverged
from edge_client.trainer.tflite import TfliteTrainer
from models.task import Bounds, Budget, Task, load_data
from shared.bundle import TensorSpec
from tools.baselines import (
    F32,
    Curve,
    Devices,
    random_weights,
    simulated_plan,
    train_centralised,
    train_federated,
    train_local_only,
)
from tools.bench.accuracy import convert_task
from tools.bench.report import Result

_SEED = 1


@dataclass(frozen=True)
class Point:
    """One choice of settings for a method; ``bounds`` are federated averaging's."""

    method: str
    budget: Budget
    bounds: Bounds

    @property
    def name(self) -> str:
        """Name of its result."""
        server = f", server rate {self.bounds.server_learning_rate:g}" if self.method == "federated" else ""
        return f"tuning/{self.method}/rate {self.budget.learning_rate:g}, {self.budget.epochs} epochs{server}"


@dataclass(frozen=True)
class Job:
    """What every point is trained from and with."""

    trainer: Trainer
    tensors: tuple[TensorSpec, ...]
    start: F32
    devices: Devices
    by_loss: bool = False


def grid(task: Task) -> list[Point]:
    """Return as many points for each method."""
    choices, bounds, rounds = task.grid, task.budgets.bounds, task.rounds
    federated = (
        Point("federated", Budget(rounds, epochs, rate), replace(bounds, server_learning_rate=server))
        for rate, epochs, server in product(choices.federated_rates, choices.epochs, choices.server_rates)
    )
    others = (
        Point(method, Budget(rounds, epochs, rate), bounds)
        for method, rate, epochs in product(("local only", "centralised"), choices.rates, choices.epochs)
    )
    return [*federated, *others]


def measure(task: Task) -> list[Result]:
    """Train every point of the grid."""
    bundle = convert_task(task)
    start, devices = random_weights(bundle, _SEED), load_data(task).devices
    job = Job(TfliteTrainer(bundle), bundle.manifest.tensors, start, devices, bool(task.label_shape))
    return results(dict(scores(job, grid(task))), "nats per character" if job.by_loss else "share")


def scores(job: Job, points: Sequence[Point]) -> Iterator[tuple[Point, float | None]]:
    """Train one point after the other; higher is better, and None stands for a run that diverged."""
    for point in points:
        try:
            curve = _train(job, point)
            yield point, -curve.loss_participants[-1] if job.by_loss else curve.accuracy_participants[-1]
        except TrainingDiverged:
            yield point, None


def best(found: Mapping[Point, float | None]) -> dict[str, Point]:
    """Return each method's best stable point: a learning rate at which any of its points diverged is rejected."""
    unstable = {(point.method, point.budget.learning_rate) for point, score in found.items() if score is None}
    stable = [point for point in found if (point.method, point.budget.learning_rate) not in unstable]

    def of(method: str) -> Point:
        return max((point for point in stable if point.method == method), key=lambda point: _known(found[point]))

    return {method: of(method) for method in dict.fromkeys(point.method for point in stable)}


def results(found: Mapping[Point, float | None], unit: str = "share") -> list[Result]:
    """Return every point beside the best stable one of its method; losses without their sign."""
    chosen = {method: abs(_known(found[point])) for method, point in best(found).items()}
    return [
        Result(
            point.name if score is not None else f"{point.name}, diverged",
            abs(score or 0.0),
            unit,
            f"best stable {point.method}",
            chosen.get(point.method, 0.0),
        )
        for point, score in found.items()
    ]


def _known(score: float | None) -> float:
    return -math.inf if score is None else score


def _train(job: Job, point: Point) -> Curve:
    # The functions want people to test on; a participant's held-out windows stand in for them and are not scored.
    _, unscored = next(iter(job.devices.values()))
    if point.method == "federated":
        plan, rounds = simulated_plan(point.budget, point.bounds), point.budget.rounds
        return train_federated(job.trainer, job.tensors, job.start, job.devices, unscored, plan, rounds, _SEED)
    train = train_local_only if point.method == "local only" else train_centralised
    return train(job.trainer, job.start, job.devices, unscored, point.budget, _SEED)

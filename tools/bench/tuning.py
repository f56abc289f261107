"""How the three methods of task ``activity`` were tuned: grids of equal size, judged on the participants only.

Every point is one model, trained with one seed and scored after its last round on the participants' held-out
windows (local only: each model on its own owner's). The people who take no part are not looked at. A run that
diverges scores 0 and says so in its name. This trains 24 models, so it is not part of ``fedloom bench all``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from edge_client.trainer.protocol import Trainer, TrainingDiverged
from edge_client.trainer.tflite import TfliteTrainer
from models.registry import get_task
from shared.bundle import TensorSpec
from tools.baselines import (
    BOUNDS,
    F32,
    Bounds,
    Budget,
    Curve,
    Devices,
    random_weights,
    train_centralised,
    train_federated,
    train_local_only,
)
from tools.bench.accuracy import convert_task
from tools.bench.report import Result

_SEED = 1
_ROUNDS = 15
_EPOCHS = (2, 4)
_FEDERATED_RATES = (0.05, 0.1)
_SERVER_RATES = (1.0, 1.5)
_RATES = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Point:
    """One choice of settings for a method; ``bounds`` are federated averaging's."""

    method: str
    budget: Budget
    bounds: Bounds = BOUNDS

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


def grid(rounds: int = _ROUNDS) -> list[Point]:
    """Return eight points per method."""
    federated = (
        Point("federated", Budget(rounds, epochs, rate), replace(BOUNDS, server_learning_rate=server))
        for rate, epochs, server in product(_FEDERATED_RATES, _EPOCHS, _SERVER_RATES)
    )
    others = (
        Point(method, Budget(rounds, epochs, rate))
        for method, rate, epochs in product(("local only", "centralised"), _RATES, _EPOCHS)
    )
    return [*federated, *others]


def measure() -> list[Result]:
    """Train every point of the grid."""
    task = get_task("activity")
    bundle = convert_task(task)
    start = random_weights(bundle, _SEED)
    job = Job(TfliteTrainer(bundle), bundle.manifest.tensors, start, task.load(task.test_owners).devices)
    return results(dict(scores(job, grid())))


def scores(job: Job, points: Sequence[Point]) -> Iterator[tuple[Point, float | None]]:
    """Train one point after the other; None stands for a run that diverged."""
    for point in points:
        try:
            yield point, _train(job, point).accuracy_participants[-1]
        except TrainingDiverged:
            yield point, None


def best(found: Mapping[Point, float | None]) -> dict[str, Point]:
    """Return each method's best stable point: a learning rate at which any of its points diverged is rejected."""
    unstable = {(point.method, point.budget.learning_rate) for point, score in found.items() if score is None}
    stable = [point for point in found if (point.method, point.budget.learning_rate) not in unstable]

    def of(method: str) -> Point:
        return max((point for point in stable if point.method == method), key=lambda point: found[point] or 0.0)

    return {method: of(method) for method in dict.fromkeys(point.method for point in stable)}


def results(found: Mapping[Point, float | None]) -> list[Result]:
    """Return every point beside the best stable one of its method."""
    chosen = {method: found[point] or 0.0 for method, point in best(found).items()}
    return [
        Result(
            point.name if score is not None else f"{point.name}, diverged",
            score or 0.0,
            "share",
            f"best stable {point.method}",
            chosen.get(point.method, 0.0),
        )
        for point, score in found.items()
    ]


def _train(job: Job, point: Point) -> Curve:
    # The functions want people to test on; a participant's held-out windows stand in for them and are not scored.
    _, unscored = next(iter(job.devices.values()))
    if point.method == "federated":
        return train_federated(
            job.trainer, job.tensors, job.start, job.devices, unscored, point.budget, point.bounds, _SEED
        )
    train = train_local_only if point.method == "local only" else train_centralised
    return train(job.trainer, job.start, job.devices, unscored, point.budget, _SEED)

"""Accuracy that differential privacy costs, and that narrow lanes and int8 weights cost, on writers of the full MNIST.

Every device is one writer, takes part in every round, and goes through the encoding of a real cohort: clip, rotation,
rounding, its share of the noise, lanes. The words are added modulo 2^64 without masks, which cancel exactly, so the sum
is the one that secure aggregation reveals. Epsilon is what a device's own accounting charges for these rounds; that of
a run in which nobody drops out is lower, as more noise arrives than is counted on. Rates, clip norms and rounds were
chosen on digits of the same writers that were held out for it, which this epsilon does not cover.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Final

import numpy as np

from cloud_server.aggregation.closing import step_weights
from cloud_server.privacy import require_possible
from edge_client import contribution
from edge_client.contribution import TrainedUpdate
from edge_client.trainer.protocol import Examples, Trainer
from edge_client.trainer.tflite import TfliteTrainer
from models.digits import load_every_writer
from models.full_size import FOLDER_VARIABLE
from models.registry import get_task
from shared.bundle import Bundle, TensorSpec
from shared.layout import Layout
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.numeric.starting_weights import read_start, write_start
from shared.plan import Cohort, Plan, Privacy, Server, Training, Update
from shared.privacy.charges import epsilon_of, loss_of
from tools.baselines import F32, Devices, mixed_seed, random_weights
from tools.bench.accuracy import convert_task
from tools.bench.report import Result

ROUNDS: Final = 12
MAX_EPSILON: Final = 8.0
DELTA: Final = 1e-5  # below n^-1.1 of n writers
MEMBERS: Final = 539  # all who wrote for the training set
_SEED: Final = 1


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        plan: bounds, lanes and noise.
        plain: 32-bit floats go both ways instead, not encoded.
    """

    plan: Plan
    plain: bool = False


_COHORT: Final = Cohort(min_survivors=400, largest=MEMBERS)
_WEIGHED: Final = Plan(
    "digits",
    training=Training("fedavg", epochs=1, learning_rate=0.3),
    update=Update(max_l2_norm=3.0, max_weight=120, lane_bits=16),
    cohort=_COHORT,
)
_FLOAT: Final = replace(_WEIGHED, update=Update(max_l2_norm=1e12, max_weight=2**20))
# Few steps point the same way on all devices, which the noise must not hide; the server makes up for their length.
_QUIET: Final = Plan(
    "digits",
    training=Training("fedavg", epochs=1, learning_rate=0.3, max_steps=2),
    update=Update(max_l2_norm=0.2, max_weight=1, lane_bits=21),
    cohort=_COHORT,
    server=Server(learning_rate=4.0),
)
NOISY: Final = replace(_QUIET, privacy=Privacy("skellam", 2.22, DELTA, ROUNDS, MAX_EPSILON))
SETTINGS: Final = {
    "with noise": Setting(NOISY),
    "without noise": Setting(_QUIET),
    "clip, 16-bit lanes, int8 weights": Setting(_WEIGHED),
    "float FedAvg": Setting(_FLOAT, plain=True),
}


def measure() -> list[Result]:
    """Train in every setting from the same weights.

    Raises:
        UsageError: as ``read_full_size``, without the full MNIST.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    members = len(load_every_writer(folder).devices)
    bundle = convert_task(get_task("digits"))
    layout = Layout.of(bundle.manifest.tensors)
    require_possible(NOISY, layout)
    workers = min(len(SETTINGS), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        found = pool.map(partial(_accuracy, bundle, folder), SETTINGS.values())
        accuracies = dict(zip(SETTINGS, found, strict=True))
    return results(accuracies, epsilon_after(NOISY, layout, members, ROUNDS), members)


def epsilon_after(plan: Plan, layout: Layout, members: int, rounds: int) -> float:
    """Return the epsilon, at the plan's delta, of a device that took part in every round."""
    loss = loss_of(plan, plan.encoding(members, layout.shared.size, layout.statistics.size))
    return epsilon_of([loss] * rounds, plan.privacy.delta)


def results(accuracies: Mapping[str, float], epsilon: float, members: int) -> list[Result]:
    """Return epsilon beside its limit, and every comparison of accuracies, which are by the names of ``SETTINGS``."""
    what = f"privacy/digits, {members} writers, {ROUNDS} rounds"
    noisy, quiet, encoded, plain = SETTINGS
    comparisons = ((noisy, quiet), (noisy, plain), (quiet, plain), (encoded, plain))
    return [
        Result(f"{what}/epsilon at delta {DELTA:g}", epsilon, "epsilon", "limit", MAX_EPSILON),
        *(
            Result(f"{what}/accuracy {one} vs {other}", accuracies[one], "share", other, accuracies[other])
            for one, other in comparisons
        ),
    ]


def _accuracy(bundle: Bundle, folder: str | None, setting: Setting) -> float:
    """Train in one process of its own, and return the share of the test images that are recognised."""
    trainer, data = TfliteTrainer(bundle), load_every_writer(folder)
    start = random_weights(bundle, _SEED)
    weights = train(trainer, bundle.manifest.tensors, start, data.devices, setting, ROUNDS, _SEED, os.urandom)
    return trainer.evaluate(weights, data.test).accuracy or 0.0


def train(
    trainer: Trainer,
    tensors: tuple[TensorSpec, ...],
    start: F32,
    devices: Devices,
    setting: Setting,
    rounds: int,
    seed: int,
    random_bytes: Callable[[int], bytes],
) -> F32:
    """Return the weights, f32[d], after rounds in which every device takes part.

    Args:
        trainer: of the devices.
        tensors: of the model.
        start: f32[d].
        devices: examples by owner; those held out are not used.
        setting: how they train and what they send.
        rounds: how many.
        seed: of the order of examples.
        random_bytes: of sessions, of rounding and of the noise.
    """
    plan, layout, weights = setting.plan, Layout.of(tensors), start
    for number in range(rounds):
        down = weights if setting.plain else read_start(*write_start(weights, tensors), tensors)
        trained = (
            contribution.train(trainer, down, examples, _no(examples), plan, layout, mixed_seed(seed, number, owner))
            for owner, (examples, _) in devices.items()
        )
        total = (
            _plain_sum(trained, layout)
            if setting.plain
            else _encoded_sum(trained, plan, layout, len(devices), random_bytes)
        )
        weights = step_weights(weights, total, plan, layout)
    return weights


def _no(examples: Examples) -> Examples:
    return Examples(np.asarray(examples.x)[:0], examples.y[:0])


def _encoded_sum(
    trained: Iterable[TrainedUpdate],
    plan: Plan,
    layout: Layout,
    members: int,
    random_bytes: Callable[[int], bytes],
) -> AggregateSum:
    encoding = plan.encoding(members, layout.shared.size, layout.statistics.size)
    sid, total = random_bytes(32), np.zeros(encoding.words, np.uint64)
    for one in trained:
        total += encoding.encode(one.update, one.statistics, one.evaluation, sid=sid, random_bytes=random_bytes)
    return encoding.decode(total, survivors=members, sid=sid)


def _plain_sum(trained: Iterable[TrainedUpdate], layout: Layout) -> AggregateSum:
    updates, moved, weight, members = np.zeros(layout.shared.size), np.zeros(layout.statistics.size), 0, 0
    for one in trained:
        updates += one.update.values
        moved += one.statistics.values
        weight, members = weight + one.update.weight, members + 1
    return AggregateSum(updates, weight, 0, Evaluation(0.0, 0, 0), members, moved)

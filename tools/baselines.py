"""Federated averaging in one process, and the two things it is measured against.

*Local only*: every device trains alone; *centralised*: all devices' examples in one place, which federated
learning exists to avoid. All three start from the same weights and use the same trainer; each has a
``Budget`` of its own, so that each can be tuned with equal care. Accuracies are shares of examples, 0 to 1 (of
characters, where an example is a text), losses nats per example or character.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloud_server.aggregation.closing import step_weights
from edge_client import contribution
from edge_client.trainer.protocol import Evaluation, Examples, Trainer, TrainingRecipe
from models.task import Bounds, Budget
from shared.bundle import Bundle, TensorSpec, initial_weights
from shared.examples import concatenate
from shared.layout import Layout
from shared.numeric.contribution_vector import AggregateSum
from shared.numeric.starting_weights import read_start, write_start
from shared.plan import Plan, Server, Training, Update

F32: TypeAlias = NDArray[np.float32]
Devices: TypeAlias = Mapping[int, tuple[Examples, Examples]]


@dataclass(frozen=True)
class Curve:
    """One value per round, on owners who take no part and on the participants' held-out examples.

    For local-only training there is a model per owner: strangers' values are means over the models, participants' are
    over all held-out examples, each judged by its owner's model; ``weights`` are the last ones f32[d], by owner there,
    and ``own`` is the last accuracy and loss of each on its owner's held-out examples.
    """

    accuracy: tuple[float, ...]
    accuracy_participants: tuple[float, ...]
    loss: tuple[float, ...]
    loss_participants: tuple[float, ...]
    weights: Mapping[int, F32]
    own: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def random_weights(bundle: Bundle, seed: int) -> F32:
    """Return fresh weights f32[d]: kernels uniform with the spread of the bundle's own, which for the rest are kept.

    The rest is what a seed does not decide: biases of 0, scales of 1, statistics.
    """
    generator = np.random.default_rng(seed)
    weights = initial_weights(bundle).copy()
    for spec in bundle.manifest.tensors:
        if len(spec.shape) > 1 and spec.role != "statistic":
            place = slice(spec.offset, spec.offset + spec.size)
            limit = np.sqrt(3.0) * weights[place].std()
            weights[place] = generator.uniform(-limit, limit, spec.size)
    return weights


def recipe(budget: Budget) -> TrainingRecipe:
    """Return one round's work."""
    return TrainingRecipe("fedavg", budget.epochs, budget.learning_rate)


def train_federated(
    trainer: Trainer,
    tensors: tuple[TensorSpec, ...],
    start: F32,
    devices: Devices,
    test: Examples,
    plan: Plan,
    rounds: int,
    seed: int,
) -> Curve:
    """Run federated averaging (McMahan et al., arXiv 1602.05629) as the system does, without network and masks.

    Every round starts from the int8 weights that go down; updates are clipped and weighed by the devices' own code,
    and added to the server's f32 master by the server's. Local tensors stay with their owner, who is judged with them.
    """
    layout = Layout.of(tensors)
    own: dict[int, F32] = {}

    def with_own(weights: F32, owner: int) -> F32:
        return layout.local.replace(weights, own.get(owner, layout.local.take(weights)))

    def one_round(master: F32, number: int) -> F32:
        down = read_start(*write_start(master, tensors), tensors)
        updates, moved, weight = np.zeros(layout.shared.size), np.zeros(layout.statistics.size), 0
        for owner, (train, _) in devices.items():
            nobody = Examples(train.x, train.y[:0])
            trained = contribution.train(
                trainer, with_own(down, owner), train, nobody, plan, layout, mixed_seed(seed, number, owner)
            )
            if trained.failure is not None:  # devices take part with zeros; a benchmark has nothing to say of them
                raise trained.failure
            own[owner] = trained.local
            updates += trained.update.values
            moved += trained.statistics.values
            weight += trained.update.weight
        total = AggregateSum(updates, weight, 0, Evaluation(0.0, 0, 0), len(devices), moved)
        return step_weights(master, total, plan, layout)

    return _curve(trainer, start, devices, test, rounds, one_round, with_own)


def simulated_plan(budget: Budget, bounds: Bounds) -> Plan:
    """Return a plan of federated averaging with these settings."""
    return Plan(
        "simulation",
        training=Training("fedavg", budget.epochs, budget.learning_rate),
        update=Update(max_l2_norm=bounds.max_l2_norm, max_weight=bounds.max_weight),
        server=Server(learning_rate=bounds.server_learning_rate),
    )


def train_centralised(
    trainer: Trainer, start: F32, devices: Devices, test: Examples, budget: Budget, seed: int
) -> Curve:
    """Train one model on all devices' examples together."""
    pooled = concatenate([train for train, _ in devices.values()])

    def one_round(weights: F32, number: int) -> F32:
        return trainer.train(weights, pooled, recipe(budget), mixed_seed(seed, number, 0)).weights

    return _curve(trainer, start, devices, test, budget.rounds, one_round)


def train_local_only(
    trainer: Trainer, start: F32, devices: Devices, test: Examples, budget: Budget, seed: int
) -> Curve:
    """Train one model per device on its own examples alone; each is tested on its own held-out windows."""
    curves = {}
    for owner, (train, held_out) in devices.items():

        def one_round(weights: F32, number: int, train: Examples = train, owner: int = owner) -> F32:
            return trainer.train(weights, train, recipe(budget), mixed_seed(seed, number, owner)).weights

        curves[owner] = _curve(trainer, start, {owner: (train, held_out)}, test, budget.rounds, one_round)
    judged = {owner: curve for owner, curve in curves.items() if len(devices[owner][1])}
    shares = [len(devices[owner][1]) for owner in judged]
    return Curve(
        _mean([curve.accuracy for curve in curves.values()]),
        _mean([curve.accuracy_participants for curve in judged.values()], shares),
        _mean([curve.loss for curve in curves.values()]),
        _mean([curve.loss_participants for curve in judged.values()], shares),
        {owner: curve.weights[0] for owner, curve in curves.items()},
        {owner: (curve.accuracy_participants[-1], curve.loss_participants[-1]) for owner, curve in judged.items()},
    )


def _curve(
    trainer: Trainer,
    start: F32,
    devices: Devices,
    test: Examples,
    rounds: int,
    one_round: Callable[[F32, int], F32],
    with_own: Callable[[F32, int], F32] = lambda weights, _owner: weights,
) -> Curve:
    weights = start
    strangers, participants = [], []
    for number in range(rounds):
        weights = one_round(weights, number)
        strangers.append(trainer.evaluate(weights, test))
        judged = [trainer.evaluate(with_own(weights, owner), held) for owner, (_, held) in devices.items() if len(held)]
        participants.append(_total(judged))
    return Curve(
        tuple(_share(found.correct, found.count) for found in strangers),
        tuple(_share(found.correct, found.count) for found in participants),
        tuple(_share(found.loss_sum, found.count) for found in strangers),
        tuple(_share(found.loss_sum, found.count) for found in participants),
        {0: weights},
    )


def _total(parts: Sequence[Evaluation]) -> Evaluation:
    return Evaluation(
        sum(part.loss_sum for part in parts), sum(part.correct for part in parts), sum(part.count for part in parts)
    )


def _share(part: float, count: int) -> float:
    return part / count if count else float("nan")  # nobody has held-out examples


def _mean(curves: list[tuple[float, ...]], shares: list[int] | None = None) -> tuple[float, ...]:
    return tuple(float(value) for value in np.average(curves, axis=0, weights=shares)) if curves else ()


def mixed_seed(seed: int, number: int, owner: int) -> int:
    """Mix seed, round and owner into one seed; neighbouring seeds must not share orders."""
    return int(np.random.SeedSequence([seed, number, owner]).generate_state(1)[0])

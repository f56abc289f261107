"""The simulation against what it must equal where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_client.trainer.protocol import Evaluation, Examples, FullGradient, Trained, TrainingRecipe
from models.task import Bounds, Budget
from shared.bundle import Bundle, TensorSpec, initial_weights
from tools.baselines import random_weights, simulated_plan, train_centralised, train_federated, train_local_only

F32 = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
TENSORS = (TensorSpec("w", (2,), 0, 2, "shared"),)
START = np.zeros(2, np.float32)


class MeanSeeker:
    """A model whose best weights are the mean of the examples, and whose training goes there at once."""

    parameters = 2

    def train(self, weights: F32, examples: Examples, recipe: TrainingRecipe, shuffle_seed: int) -> Trained:
        del shuffle_seed
        goal = np.asarray(examples.x).mean(axis=0)
        return Trained(weights + np.float32(recipe.learning_rate) * (goal - weights), len(examples), 1, 0.0)

    def gradient_sum(self, weights: F32, examples: Examples, seed: int = 0) -> FullGradient:
        del seed
        return FullGradient(weights, len(examples), weights)

    def evaluate(self, weights: F32, examples: Examples) -> Evaluation:
        near = np.abs(np.asarray(examples.x) - weights).max(axis=1) < 0.6
        return Evaluation(0.0, int(near.sum()), len(examples))


def owner(value: float, count: int) -> tuple[Examples, Examples]:
    part = Examples(np.full((count, 2), value, np.float32), np.zeros(count, np.int32))
    return part, part


DEVICES = {1: owner(0.0, 10), 2: owner(1.0, 30)}
TEST = owner(0.75, 4)[0]
BUDGET = Budget(rounds=3, epochs=1, learning_rate=1.0)


def test_federated_averaging_is_the_example_weighted_mean() -> None:
    bounds = Bounds(max_l2_norm=100.0, max_weight=100)
    curve = train_federated(MeanSeeker(), TENSORS, START, DEVICES, TEST, simulated_plan(BUDGET, bounds), 3, seed=1)
    np.testing.assert_allclose(curve.weights[0], [0.75, 0.75], rtol=1e-6)
    assert curve.accuracy == (1.0, 1.0, 1.0)


def test_max_weight_makes_devices_equal_and_the_norm_is_bounded() -> None:
    equal = Bounds(max_l2_norm=100.0, max_weight=1)
    curve = train_federated(MeanSeeker(), TENSORS, START, DEVICES, TEST, simulated_plan(BUDGET, equal), 3, seed=1)
    np.testing.assert_allclose(curve.weights[0], [0.5, 0.5], rtol=1e-6)
    tight = Bounds(max_l2_norm=0.01, max_weight=1)
    curve = train_federated(MeanSeeker(), TENSORS, START, DEVICES, TEST, simulated_plan(BUDGET, tight), 3, seed=1)
    assert np.linalg.norm(curve.weights[0]) <= 3 * 0.01


def test_centralised_pools_and_local_only_stays_apart() -> None:
    pooled = train_centralised(MeanSeeker(), START, DEVICES, TEST, BUDGET, seed=1)
    np.testing.assert_allclose(pooled.weights[0], [0.75, 0.75], rtol=1e-6)
    alone = train_local_only(MeanSeeker(), START, DEVICES, TEST, BUDGET, seed=1)
    np.testing.assert_allclose(alone.weights[2], [1.0, 1.0])
    assert alone.accuracy == (0.5, 0.5, 0.5)
    assert alone.accuracy_participants == (1.0, 1.0, 1.0)


def test_participants_count_by_their_examples_whoever_trained() -> None:
    # The same model for both owners, right for the one with 3 of 4 held-out examples.
    devices = {1: (TEST, owner(0.0, 30)[0]), 2: (TEST, owner(1.0, 10)[0]), 3: (TEST, owner(1.0, 0)[0])}
    alone = train_local_only(MeanSeeker(), START, devices, TEST, replace(BUDGET, learning_rate=0.5), seed=1)
    together = train_centralised(MeanSeeker(), START, devices, TEST, replace(BUDGET, learning_rate=0.5), seed=1)
    assert alone.accuracy_participants[0] == together.accuracy_participants[0] == 0.75
    assert set(alone.own) == {1, 2}


ROLES = (
    TensorSpec("w", (1,), 0, 1, "shared"),
    TensorSpec("moving_mean", (1,), 1, 1, "statistic"),
    TensorSpec("head", (1,), 2, 1, "local"),
)


class OwnJudge(MeanSeeker):
    """A model that is right where its last weight is the example's."""

    parameters = 3

    def evaluate(self, weights: F32, examples: Examples) -> Evaluation:
        near = np.abs(np.asarray(examples.x)[:, -1] - weights[-1]) < 0.1
        return Evaluation(0.0, int(near.sum()), len(examples))


def test_moments_are_averaged_at_any_learning_rate_and_local_weights_stay_with_their_owner() -> None:
    def wide(value: float, count: int) -> Examples:
        return Examples(np.full((count, 3), value, np.float32), np.zeros(count, np.int32))

    devices = {number: (wide(value, count), wide(value, 4)) for number, value, count in ((1, -1.0, 10), (2, 1.0, 30))}
    bounds = Bounds(max_l2_norm=100.0, max_weight=100, server_learning_rate=0.5)
    start, plan = np.zeros(3, np.float32), simulated_plan(Budget(1, 1, 1.0), bounds)
    curve = train_federated(OwnJudge(), ROLES, start, devices, wide(1.0, 4), plan, 1, seed=1)
    np.testing.assert_allclose(curve.weights[0], [0.25, 0.5, 0.0], rtol=1e-6)
    assert curve.accuracy == (0.0,)  # strangers get the initial head
    assert curve.accuracy_participants == (1.0,)  # everybody is judged with a head of their own


def test_a_seed_decides_kernels_alone(personal_bundle: Bundle) -> None:
    initial = initial_weights(personal_bundle)
    one, again, other = (random_weights(personal_bundle, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    for spec in personal_bundle.manifest.tensors:
        place = slice(spec.offset, spec.offset + spec.size)
        assert (np.abs(one[place] - other[place]).max() > 0) == (len(spec.shape) > 1), spec.path
        if len(spec.shape) == 1:
            np.testing.assert_array_equal(one[place], initial[place])

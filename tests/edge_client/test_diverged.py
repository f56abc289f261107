"""Weights on which training diverges: a device takes part all the same, with zeros, and nobody else can tell."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from edge_client import contribution, report
from edge_client.agent import open_agent
from edge_client.contribution import TrainedUpdate
from edge_client.state_folder import StateFolder
from edge_client.trainer.protocol import Examples, TrainingDiverged, TrainingRecipe
from edge_client.trainer.quadratic import QuadraticTrainer
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import Bundle
from shared.layout import Layout
from shared.plan import Plan, Privacy, Server, Training, Update
from shared.wire.requests import DEVICE_HEADER
from tests.edge_client.aggregator import DIMENSION, Aggregator, publish, quadratic_manifest
from tests.edge_client.devices import enrolled
from tests.edge_client.loopback import Request, serve
from tests.shared.refusals import refused

MEMBERS: Final = 2
WILD: Final = Training(method="fedavg", epochs=9, learning_rate=1e6, max_steps=9)  # what is a step away flies off
AT_HOME: Final = np.full(DIMENSION, 3.0, np.float32)
NOISE: Final = Privacy("skellam", noise_multiplier=8.0, delta=1e-6, max_participations=1, max_epsilon=500.0)


def ones(bundle: Bundle) -> Examples:
    spec = bundle.manifest.inputs[0]
    return Examples(np.ones((3, *spec.shape[1:]), np.float32), np.zeros(3, np.int32))


def trained_on(examples: Examples, weights: np.ndarray[Any, np.dtype[np.float32]], training: Training) -> TrainedUpdate:
    manifest = quadratic_manifest()
    plan = Plan("point", training=training, update=Update(max_weight=400))
    nobody = Examples(np.asarray(examples.x)[:0], examples.y[:0])
    layout = Layout.of(manifest.tensors)
    return contribution.train(QuadraticTrainer(manifest), weights, examples, nobody, plan, layout, 1)


def test_a_loss_that_is_not_finite(activity_bundle: Bundle) -> None:
    trainer = TfliteTrainer(activity_bundle)
    weights = np.full(trainer.parameters, np.nan, np.float32)
    examples = ones(activity_bundle)
    evaluation = trainer.evaluate(weights, examples)
    assert evaluation.count == 3
    assert not np.isfinite(evaluation.loss_sum)
    with refused("training-diverged", TrainingDiverged):
        trainer.train(weights, examples, TrainingRecipe("fedavg", 1, 0.1), 1)
    with refused("training-diverged", TrainingDiverged):
        trainer.gradient_sum(weights, examples)


def test_a_diverging_training_takes_no_fewer_steps(activity_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = TfliteTrainer(activity_bundle)
    steps = []
    step = trainer._train

    def counted(**inputs: Any) -> Any:  # noqa: ANN401  # the runtime's
        steps.append(1)
        return step(**inputs)

    monkeypatch.setattr(trainer, "_train", counted)
    weights = np.full(trainer.parameters, np.nan, np.float32)
    with refused("training-diverged", TrainingDiverged):
        trainer.train(weights, ones(activity_bundle), TrainingRecipe("fedavg", 5, 0.1), 1)
    assert len(steps) == 5


def test_a_step_that_the_runtime_cannot_run_is_a_failed_training(
    activity_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_inputs: Any) -> Any:  # noqa: ANN401  # the runtime's
        raise RuntimeError("gather index out of bounds")

    trainer = TfliteTrainer(activity_bundle)
    for name in ("_train", "_evaluate"):
        monkeypatch.setattr(trainer, name, broken)
    manifest = activity_bundle.manifest
    plan = Plan("activity", training=Training("fedavg"))
    weights, examples = np.zeros(trainer.parameters, np.float32), ones(activity_bundle)
    trained = contribution.train(trainer, weights, examples, examples, plan, Layout.of(manifest.tensors), 1)
    assert trained.failure is not None
    assert trained.failure.code == "training-failed"
    assert trained.evaluation.count == 3


@pytest.mark.parametrize("method", ["fedavg", "fedsgd"])
def test_what_diverges_contributes_nothing_and_weighs_little(method: str) -> None:
    far = np.full(DIMENSION, 3.4e38, np.float32)
    examples = Examples(-np.repeat(far[None], 5, axis=0), np.zeros(5, np.int32))
    trained = trained_on(examples, far, replace(WILD, method=method))  # type: ignore[arg-type]  # one of the two
    assert trained.failure is not None
    assert trained.failure.code == "training-diverged"
    assert not trained.update.values.any()
    assert (trained.update.weight, trained.update.clipped) == (1, False)


def test_a_change_that_overflows_although_the_weights_do_not() -> None:
    far = np.full(DIMENSION, -3e38, np.float32)
    examples = Examples(-np.repeat(far[None], 4, axis=0), np.zeros(4, np.int32))
    trained = trained_on(examples, far, Training("fedavg", epochs=1, learning_rate=0.5))
    assert trained.failure is not None
    assert not trained.update.values.any()


def test_local_tensors_stay_as_they_were(personal_bundle: Bundle) -> None:
    trainer = TfliteTrainer(personal_bundle)
    layout = Layout.of(personal_bundle.manifest.tensors)
    weights = np.full(trainer.parameters, np.inf, np.float32)
    weights = layout.local.replace(weights, np.arange(layout.local.size, dtype=np.float32))
    spec, labels = personal_bundle.manifest.inputs[0], personal_bundle.manifest.labels
    examples = Examples(np.ones((3, *spec.shape[1:]), np.float32), np.zeros((3, *labels.shape[1:]), labels.dtype))
    trained = contribution.train(
        trainer, weights, examples, examples, Plan("personal", training=Training("fedavg")), layout, 1
    )
    assert trained.failure is not None
    assert trained.local.tolist() == list(range(layout.local.size))
    assert not trained.statistics.values.any()


def once(path: Path) -> None:
    with open_agent(StateFolder(path / "state"), log=lambda _line: None) as agent:
        agent.once()


def requests_of(requests: list[Request], device: str) -> list[tuple[str, str, int]]:
    """Return what a device asked for, in order; that it asked again is the others' doing."""
    own = [
        (request.method, request.path, len(request.body))
        for request in requests
        if request.headers.get(DEVICE_HEADER) == device
    ]
    return [request for request, _ in itertools.groupby(own)]


def test_who_diverges_sends_what_who_does_not_sends(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, MEMBERS)
    aggregator.plan = replace(aggregator.plan, training=WILD, server=Server("mean", 0.01), privacy=NOISE)
    aggregator.master = AT_HOME
    aggregator.versions = [publish(0, AT_HOME, aggregator.plan, aggregator.now_s)]
    healthy, diverging = tmp_path / "healthy", tmp_path / "diverging"
    with serve(certificates, aggregator) as url:
        names = [enrolled(path, aggregator, url, number).device for number, path in enumerate((healthy, diverging))]
        # Where the weights are already the mean, no learning rate takes them away.
        np.savez(healthy / "examples" / "examples.npz", x=np.tile(AT_HOME, (5, 1)), y=np.zeros(5, np.int32))
        np.savez(diverging / "examples" / "examples.npz", x=np.tile(AT_HOME + 9, (5, 1)), y=np.zeros(5, np.int32))
        threads = [threading.Thread(target=once, args=(path,)) for path in (healthy, diverging)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    first, second = (requests_of(aggregator.requests, name) for name in names)
    assert first == second
    assert ("PUT", "/v1/cohorts/cohort-0/answer") in [request[:2] for request in first]
    ledgers = [report.ledger(StateFolder(path / "state")) for path in (healthy, diverging)]
    assert ledgers[0]["privacy"] == ledgers[1]["privacy"]
    assert ledgers[0]["privacy"]["participations"] == 1
    assert [ledger["contributions"][0]["state"] for ledger in ledgers] == ["counted", "counted"]
    assert [ledger["contributions"][0]["training_failed"] for ledger in ledgers] == ["", "training-diverged"]
    told = "[training-diverged: its part of the sum is zero]"
    assert told in report.ledger_text(ledgers[1])
    assert told in report.status_text(report.status(StateFolder(diverging / "state")))

"""Weights that diverged: evaluating them is no error, training from them is."""

from __future__ import annotations

import numpy as np

from edge_client.trainer.protocol import Examples, TrainingDiverged, TrainingRecipe
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import Bundle
from tests.shared.refusals import refused


def test_a_loss_that_is_not_finite(activity_bundle: Bundle) -> None:
    trainer = TfliteTrainer(activity_bundle)
    weights = np.full(trainer.parameters, np.nan, np.float32)
    spec = activity_bundle.manifest.inputs[0]
    examples = Examples(np.ones((3, *spec.shape[1:]), np.float32), np.zeros(3, np.int32))
    evaluation = trainer.evaluate(weights, examples)
    assert evaluation.count == 3
    assert not np.isfinite(evaluation.loss_sum)
    with refused("training-diverged", TrainingDiverged):
        trainer.train(weights, examples, TrainingRecipe("fedavg", 1, 0.1), 1)

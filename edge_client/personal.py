"""A model of the device's own: the last version, trained further on the device's own examples.

Local training makes a model better for its owner and worse for everybody else (Yu et al., arXiv 2002.04758), so it
comes after the last round, and nothing of it leaves the device. No disk and no network here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edge_client.trainer.protocol import F32, Evaluation, Examples, Trainer, TrainingRecipe
from shared.bundle import BundleManifest
from shared.layout import outside
from shared.plan import Personalisation, Plan

_NOTHING: Final = Evaluation(0.0, 0, 0)


@dataclass(frozen=True)
class Personal:
    """What further training made.

    Attributes:
        weights: f32[d].
        before: of the released weights on held-out examples.
        after: of ``weights`` on the same.
    """

    weights: F32
    before: Evaluation
    after: Evaluation

    @classmethod
    def none(cls) -> Personal:
        """Return what is known where training failed."""
        return cls(np.zeros(0, np.float32), _NOTHING, _NOTHING)

    @property
    def better(self) -> bool:
        """Whether the device should use it: not where it does worse on examples that it has not seen."""
        if self.before.correct != self.after.correct:
            return self.after.correct > self.before.correct
        return self.after.loss_sum < self.before.loss_sum

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return {
            "count": self.after.count,
            "correct_before": self.before.correct,
            "correct": self.after.correct,
            "loss_before": self.before.loss_sum,
            "loss": self.after.loss_sum,
        }


def personalise(
    trainer: Trainer,
    weights: F32,
    examples: Examples,
    held_out: Examples,
    plan: Plan,
    manifest: BundleManifest,
    shuffle_seed: int,
) -> Personal:
    """Train ``weights`` further as ``plan.personalisation`` says, and judge both on ``held_out``.

    Raises:
        UsageError: if the examples do not fit the model.
        TrainingDiverged: if a loss or a weight is not finite.
    """
    before = trainer.evaluate(weights, held_out) if len(held_out) else _NOTHING
    trained = trainer.train(weights, examples, _recipe(plan.personalisation, plan, manifest), shuffle_seed)
    after = trainer.evaluate(trained.weights, held_out) if len(held_out) else _NOTHING
    return Personal(trained.weights, before, after)


def _recipe(personalisation: Personalisation, plan: Plan, manifest: BundleManifest) -> TrainingRecipe:
    frozen = outside(manifest.tensors, personalisation.tensors)
    inputs = plan.training.inputs
    return TrainingRecipe("fedavg", personalisation.epochs, personalisation.learning_rate, inputs=inputs, frozen=frozen)

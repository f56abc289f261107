"""A model of the device's own: the last version, trained further on the device's own examples.

Local training makes a model better for its owner and worse for everybody else (Yu et al., arXiv 2002.04758), so it
comes after the last round, and nothing of it leaves the device. No disk and no network here.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.trainer.protocol import F32, Evaluation, Examples, Trainer, TrainingRecipe
from shared.bundle import BundleManifest
from shared.layout import outside
from shared.plan import Personalisation, Plan


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

    @property
    def better(self) -> bool:
        """Whether the device should use it: not where it does worse on examples that it has not seen."""
        if self.before.correct != self.after.correct:
            return self.after.correct > self.before.correct
        return self.after.loss_sum < self.before.loss_sum


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
    nothing = Evaluation(0.0, 0, 0)
    before = trainer.evaluate(weights, held_out) if len(held_out) else nothing
    trained = trainer.train(weights, examples, _recipe(plan.personalisation, plan, manifest), shuffle_seed)
    after = trainer.evaluate(trained.weights, held_out) if len(held_out) else nothing
    return Personal(trained.weights, before, after)


def _recipe(personalisation: Personalisation, plan: Plan, manifest: BundleManifest) -> TrainingRecipe:
    frozen = outside(manifest.tensors, personalisation.tensors)
    inputs = plan.training.inputs
    return TrainingRecipe("fedavg", personalisation.epochs, personalisation.learning_rate, inputs=inputs, frozen=frozen)

"""One device's whole round: train, then take part in a cohort. No disk and no network: begin reading here.

The types tell the way of an update: ``Examples -> LocalUpdate -> ClippedUpdate -> QuantizedUpdate -> MaskedUpdate``.
Only the last one can be uploaded. Training comes first and in the device's own time; the cohort then takes seconds.
Clipping, rounding and masking are explained where they are defined, in ``shared``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_client.trainer.protocol import F32, Examples, Trainer, TrainingRecipe
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation, to_words
from shared.numeric.quantization import quantize
from shared.plan import Plan
from shared.secagg.masking import MaskedUpdate
from shared.secagg.roster import Member
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import Json


@dataclass(frozen=True)
class TrainedUpdate:
    """What a device brings into a cohort.

    Attributes:
        update: the bounded change.
        evaluation: of the weights that training started from, on held-out examples.
        examples: how many it was trained on.
        mean_loss: while training, per example; None where the method does not measure it.
    """

    update: ClippedUpdate
    evaluation: Evaluation
    examples: int
    mean_loss: float | None


class CohortSteps(Protocol):
    """The conversation with a cohort: each step sends one message and returns what the others said."""

    def join(self, member: Member) -> Json:
        """Join, and return the roster."""
        ...

    def share(self, shares: SharesMessage) -> Mapping[int, bytes]:
        """Give out shares of this device's keys, and return the ones it got."""
        ...

    def upload(self, masked: MaskedUpdate) -> bytes:
        """Send the masked vector, and return the bitmap of those that arrived."""
        ...

    def agree(self, signature: bytes) -> Mapping[int, bytes]:
        """Sign the bitmap, and return everybody's signatures."""
        ...

    def answer(self, answer: UnmaskAnswer) -> bool:
        """Reveal one share per member, and return whether this device is in the published sum."""
        ...


def train(
    trainer: Trainer, weights: F32, examples: Examples, held_out: Examples, plan: Plan, shuffle_seed: int
) -> TrainedUpdate:
    """Judge ``weights`` on ``held_out``, train from them on ``examples``, and bound the change.

    Raises:
        UsageError: if the examples do not fit the model.
        TrainingDiverged: if a loss or a weight is not finite.
    """
    evaluation = evaluate(trainer, weights, held_out)
    update, mean_loss = local_update(trainer, weights, examples, plan, shuffle_seed)
    clipped = clip(update, max_l2_norm=plan.update.max_l2_norm, max_weight=plan.update.max_weight)
    return TrainedUpdate(clipped, evaluation, len(examples), mean_loss)


def take_part(
    trained: TrainedUpdate,
    session: DeviceSession,
    cohort: CohortSteps,
    plan: Plan,
    *,
    now_s: float,
    random_bytes: Callable[[int], bytes],
) -> bool:
    """Bring ``trained`` into one cohort, and return whether it is in the published sum.

    Raises:
        ProtocolAbort: if going on could reveal the update; nothing more may be sent in this cohort.
    """
    roster = cohort.join(session.join())
    inbox = cohort.share(session.share(roster, now_s))
    quantized = quantize(trained.update, plan.grid(session.members), random_bytes)
    masked = session.mask(inbox, to_words(quantized, trained.evaluation))
    survivors = cohort.upload(masked)
    signatures = cohort.agree(session.agree(survivors))
    return cohort.answer(session.unmask(signatures))


def evaluate(trainer: Trainer, weights: F32, held_out: Examples) -> Evaluation:
    """Return loss and hits on the held-out examples, all 0 without any."""
    if not len(held_out):
        return Evaluation(0.0, 0, 0)
    return trainer.evaluate(weights, held_out)


def local_update(
    trainer: Trainer, weights: F32, examples: Examples, plan: Plan, shuffle_seed: int
) -> tuple[LocalUpdate, float | None]:
    """Return the change that this device proposes, and the mean loss while training.

    ``fedavg``: trained weights minus ``weights`` (McMahan et al., arXiv 1602.05629, algorithm 1). ``fedsgd``: minus the
    gradient at ``weights``, of the sum of the losses where the server adds updates up, of their mean where it averages
    them; the server's learning rate is the step.
    """
    training = plan.training
    if training.method == "fedsgd":
        gradient, count = trainer.gradient_sum(weights, examples)
        return LocalUpdate(-gradient if plan.server.combine == "sum" else -gradient / count, count), None
    recipe = TrainingRecipe(
        training.method,
        training.epochs,
        training.learning_rate,
        training.proximal_mu,
        training.max_steps or None,
        training.inputs,
    )
    trained = trainer.train(weights, examples, recipe, shuffle_seed)
    return LocalUpdate(trained.weights - weights, trained.examples), trained.mean_loss

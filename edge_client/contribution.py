"""One device's whole round: train, then take part in a cohort. No disk and no network: begin reading here.

The types tell the way of an update: ``Examples -> LocalUpdate -> ClippedUpdate -> QuantizedUpdate -> MaskedUpdate``.
Only the last one can be uploaded. Training comes first and in the device's own time; the cohort then takes seconds.
Clipping, rounding and masking are explained where they are defined, in ``shared``. Batch norm's statistics take the
same way under a clip norm of their own; tensors that are ``local`` are trained, kept on this device, and in none of it.

A training that fails contributes zeros, charged and sent like any other: were it to stay away, its presence would tell
an aggregator, which chose the weights, something about this device's examples that nobody counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge_client.trainer.protocol import F32, Examples, Trainer, TrainingDiverged, TrainingRecipe
from shared.layout import Layout
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import to_evaluation_words
from shared.plan import CohortEncoding, Plan
from shared.secagg.masking import MaskedUpdate, Words
from shared.secagg.roster import Member
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import Json
from shared.wire.messages import Agreements


@dataclass(frozen=True)
class TrainedUpdate:
    """What a device brings into a cohort.

    Attributes:
        update: the bounded change of shared weights.
        statistics: the bounded change of statistics, perhaps of none.
        evaluation: of the weights that training started from, on held-out examples.
        examples: how many it was trained on.
        mean_loss: while training, per example; None where the method does not measure it.
        local: f32[n], local tensors after training; they stay here.
        failure: why training failed, None if it did not; then both changes are zero and ``local`` as it was before.
    """

    update: ClippedUpdate
    statistics: ClippedUpdate
    evaluation: Evaluation
    examples: int
    mean_loss: float | None
    local: F32
    failure: TrainingDiverged | None = None


@dataclass(frozen=True)
class LocalTraining:
    """What training changed, divided by role.

    Attributes:
        update: of shared weights.
        statistics: of statistics.
        local: f32[n], local tensors as they are now.
        mean_loss: per example while training; None where the method does not measure it.
    """

    update: LocalUpdate
    statistics: LocalUpdate
    local: F32
    mean_loss: float | None


class CohortSteps(Protocol):
    """The conversation with a cohort: each step sends one message and returns what the others said."""

    def join(self, member: Member) -> Json:
        """Join, and return the roster."""
        ...

    def share(self, shares: SharesMessage) -> Mapping[int, bytes]:
        """Give out shares of this device's keys, and return the ones it got."""
        ...

    def upload(self, masked: MaskedUpdate, signed_inbox: bytes) -> bytes:
        """Send the masked vector and whose boxes are in it, and return the bitmap of those that arrived."""
        ...

    def agree(self, signature: bytes) -> Agreements:
        """Sign the bitmap, and return everybody's signatures, and whose boxes survivors used."""
        ...

    def answer(self, answer: UnmaskAnswer) -> bool:
        """Reveal one share per member, and return whether this device is in the published sum."""
        ...


def train(
    trainer: Trainer,
    weights: F32,
    examples: Examples,
    held_out: Examples,
    plan: Plan,
    layout: Layout,
    shuffle_seed: int,
) -> TrainedUpdate:
    """Judge ``weights`` on ``held_out``, train from them on ``examples``, and bound the change.

    Whatever ``weights`` do on these examples, there is something to contribute: zeros where training fails. They have
    the smallest weight there is, so that they hardly change a weighted mean; under noise all devices weigh that.

    Raises:
        UsageError: if the examples do not fit the model, whatever its weights.
    """
    evaluation = evaluate(trainer, weights, held_out)
    failure = None
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a difference of finite weights may overflow
            trained = local_update(trainer, weights, examples, plan, layout, shuffle_seed)
        _require_usable(trained)
    except TrainingDiverged as error:
        trained, failure = _nothing(weights, layout), error
    bounds = plan.update
    update = clip(trained.update, max_l2_norm=bounds.max_l2_norm, max_weight=bounds.max_weight)
    statistics = clip(trained.statistics, max_l2_norm=bounds.statistics_max_l2_norm, max_weight=bounds.max_weight)
    return TrainedUpdate(update, statistics, evaluation, len(examples), trained.mean_loss, trained.local, failure)


def _require_usable(trained: LocalTraining) -> None:
    parts = trained.update.values, trained.statistics.values, trained.local
    if not all(np.isfinite(part).all() for part in parts):
        raise TrainingDiverged(
            "training-diverged", "a change became infinite or not a number", "lower the plan's learning rate"
        )


def _nothing(weights: F32, layout: Layout) -> LocalTraining:
    """Return a training that changed nothing, of weight 1."""
    update, statistics = (
        LocalUpdate(np.zeros(part.size, np.float32), 1) for part in (layout.shared, layout.statistics)
    )
    return LocalTraining(update, statistics, layout.local.take(weights), None)


def take_part(
    trained: TrainedUpdate,
    session: DeviceSession,
    cohort: CohortSteps,
    plan: Plan,
    *,
    now_s: float,
    random_bytes: Callable[[int], bytes],
    charge: Callable[[CohortEncoding], None],
) -> bool:
    """Bring ``trained`` into one cohort, and return whether it is in the published sum.

    ``charge`` is told, before anything is masked, how the cohort encodes and hence what taking part reveals; it refuses
    by raising.

    Raises:
        ProtocolAbort: if going on could reveal the update; nothing more may be sent in this cohort.
    """

    def words() -> Words:
        encoding = plan.encoding(session.members, trained.update.values.size, trained.statistics.values.size)
        charge(encoding)
        return encoding.encode(
            trained.update, trained.statistics, trained.evaluation, sid=session.sid, random_bytes=random_bytes
        )

    return _through(session, cohort, words, now_s)


def take_part_in_evaluation(
    both: tuple[Evaluation, Evaluation],
    session: DeviceSession,
    cohort: CohortSteps,
    *,
    now_s: float,
    charge: Callable[[], None],
) -> bool:
    """Bring what candidate and baseline did on held-out examples into one cohort; else as ``take_part``."""

    def words() -> Words:
        charge()
        return to_evaluation_words(*both)

    return _through(session, cohort, words, now_s)


def _through(session: DeviceSession, cohort: CohortSteps, words: Callable[[], Words], now_s: float) -> bool:
    roster = cohort.join(session.join())
    inbox = cohort.share(session.share(roster, now_s))
    masked = session.mask(inbox, words())
    survivors = cohort.upload(masked, session.signed_inbox)
    agreed = cohort.agree(session.agree(survivors))
    return cohort.answer(session.unmask(agreed.signatures, agreed.inboxes))


def evaluate(trainer: Trainer, weights: F32, held_out: Examples) -> Evaluation:
    """Return loss and hits on the held-out examples, all 0 without any."""
    if not len(held_out):
        return Evaluation(0.0, 0, 0)
    return trainer.evaluate(weights, held_out)


def local_update(
    trainer: Trainer, weights: F32, examples: Examples, plan: Plan, layout: Layout, shuffle_seed: int
) -> LocalTraining:
    """Return the change that this device proposes, and the mean loss while training.

    ``fedavg``: trained weights minus ``weights`` (McMahan et al., arXiv 1602.05629, algorithm 1). ``fedsgd``: minus the
    gradient at ``weights``, of the sum of the losses where the server adds updates up, of their mean where it averages
    them; the server's learning rate is the step. Statistics have no gradient: they change as one pass over the
    examples moves them. Local tensors take one step of the plan's own learning rate.
    """
    if plan.training.method == "fedsgd":
        return _full_gradient(trainer, weights, examples, plan, layout, shuffle_seed)
    training = plan.training
    recipe = TrainingRecipe(
        training.method,
        training.epochs,
        training.learning_rate,
        training.proximal_mu,
        training.max_steps or None,
        training.inputs,
    )
    trained = trainer.train(weights, examples, recipe, shuffle_seed)
    update, statistics = (
        LocalUpdate(part.take(trained.weights) - part.take(weights), trained.examples)
        for part in (layout.shared, layout.statistics)
    )
    return LocalTraining(update, statistics, layout.local.take(trained.weights), trained.mean_loss)


def _full_gradient(
    trainer: Trainer, weights: F32, examples: Examples, plan: Plan, layout: Layout, seed: int
) -> LocalTraining:
    full = trainer.gradient_sum(weights, examples, seed)
    shared, local = layout.shared.take(full.total), layout.local.take(full.total)
    step = -shared if plan.server.combine == "sum" else -shared / full.examples
    moved = layout.statistics.take(full.moved) - layout.statistics.take(weights)
    rate = np.float32(plan.training.learning_rate / full.examples)
    return LocalTraining(
        LocalUpdate(step, full.examples),
        LocalUpdate(moved, full.examples),
        layout.local.take(weights) - rate * local,
        None,
    )

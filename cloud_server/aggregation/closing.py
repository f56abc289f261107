"""The end of a round, twin of ``edge_client/contribution.py``: a cohort's masked sum becomes better weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.layout import Layout
from shared.numeric.clipping import require_finite
from shared.numeric.contribution_vector import AggregateSum
from shared.numeric.evaluation_vector import ComparedSum, from_evaluation_words
from shared.plan import Plan
from shared.secagg.masking import Words
from shared.secagg.parameters import thresholds
from shared.secagg.recovery import Blame, Fates, ignore, unmask_sum
from shared.secagg.roster import Roster
from shared.secagg.session import UnmaskAnswer


@dataclass(frozen=True)
class CohortRecord:
    """Everything that a cohort's members sent, in memory.

    Attributes:
        roster: who.
        fates: who shared, who survived.
        commitments: of the survivors' self-mask seeds, by index.
        answers: unmask answers, by index.
    """

    roster: Roster
    fates: Fates
    commitments: Mapping[int, bytes]
    answers: Mapping[int, UnmaskAnswer]


def reveal_sum(
    total: Words,
    record: CohortRecord,
    plan: Plan,
    layout: Layout,
    *,
    workers: int = 1,
    blame: Blame = ignore,
) -> AggregateSum:
    """Unmask and decode the sum of updates over the survivors.

    Args:
        total: u64[m], modular sum of exactly the survivors' vectors.
        record: of the cohort.
        plan: its plan.
        layout: of the model.
        workers: how many processes may recover masks.
        blame: is told who may have sent or dealt wrong shares, see ``unmask_sum``.

    Raises:
        UnmaskingFailed: with fewer than t usable shares, or for an implausible sum; there is no output then.
    """
    plain = plain_sum(total, record, plan, workers=workers, blame=blame)
    encoding = plan.encoding(len(record.roster.members), layout.shared.size, layout.statistics.size)
    return encoding.decode(plain, survivors=len(record.fates.survivors), sid=record.roster.sid)


def reveal_comparison(
    total: Words, record: CohortRecord, plan: Plan, *, workers: int = 1, blame: Blame = ignore
) -> ComparedSum:
    """Unmask and decode what the survivors found of two versions; arguments and errors as for ``reveal_sum``."""
    plain = plain_sum(total, record, plan, workers=workers, blame=blame)
    return from_evaluation_words(plain, len(record.fates.survivors))


def plain_sum(total: Words, record: CohortRecord, plan: Plan, *, workers: int = 1, blame: Blame = ignore) -> Words:
    """Return the sum of the survivors' words without masks, u64[m].

    Raises:
        UnmaskingFailed: with fewer than t usable shares.
    """
    return unmask_sum(
        total,
        record.roster,
        record.fates,
        record.commitments,
        record.answers,
        limits=thresholds(len(record.roster.members), plan.rules),
        workers=workers,
        blame=blame,
        cipher=plan.cohort.cipher,
    )


def step_weights(
    master: npt.NDArray[np.float32], aggregate: AggregateSum, plan: Plan, layout: Layout
) -> npt.NDArray[np.float32]:
    """Return the new master weights, f32[d].

    ``mean``: FedAvg's example-weighted mean (McMahan et al., arXiv 1602.05629, algorithm 1); devices scaled their
    updates by w / w_max, so the sum is divided by ``sum(w) / w_max``. ``sum``: the textbook step
    ``theta - alpha * sum(g_i)``, the updates being negative gradients.

    Statistics become the devices' weighted mean whatever the plan combines or steps by: moments are measured, not
    descended. Local tensors keep their initial values.

    Raises:
        FedloomError: ``not-finite``.
    """
    total_weight = aggregate.weight_sum / plan.update.max_weight
    combined = aggregate.values / total_weight if plan.server.combine == "mean" else aggregate.values
    weights = master.astype(np.float64)
    weights = layout.shared.replace(weights, layout.shared.take(weights) + plan.server.learning_rate * combined)
    moved = layout.statistics.take(weights) + aggregate.statistics / total_weight
    stepped = layout.raised(layout.statistics.replace(weights, moved)).astype(np.float32)
    require_finite(stepped, "The new model")
    return stepped

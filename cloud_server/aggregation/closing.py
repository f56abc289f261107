"""The end of a round, twin of ``edge_client/contribution.py``: a cohort's masked sum becomes better weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.numeric.clipping import require_finite
from shared.numeric.contribution_vector import AggregateSum, from_words
from shared.plan import Plan
from shared.secagg.masking import Words
from shared.secagg.parameters import thresholds
from shared.secagg.recovery import Fates, unmask_sum
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


def reveal_sum(total: Words, record: CohortRecord, plan: Plan, dimension: int) -> AggregateSum:
    """Unmask and decode the sum over the survivors.

    Args:
        total: u64[m], modular sum of exactly the survivors' vectors.
        record: of the cohort.
        plan: its plan.
        dimension: d.

    Raises:
        UnmaskingFailed: with fewer than t usable shares, or for an implausible sum; there is no output then.
    """
    members = len(record.roster.members)
    limits = thresholds(members, plan.rules)
    plain = unmask_sum(
        total,
        record.roster,
        record.fates,
        record.commitments,
        record.answers,
        threshold=limits.threshold,
        min_survivors=limits.survivors,
    )
    return from_words(
        plain,
        dimension=dimension,
        grid=plan.grid(members),
        survivors=len(record.fates.survivors),
        max_weight=plan.update.max_weight,
    )


def step_weights(master: npt.NDArray[np.float32], aggregate: AggregateSum, plan: Plan) -> npt.NDArray[np.float32]:
    """Return the new master weights, f32[d].

    ``mean``: FedAvg's example-weighted mean (McMahan et al., arXiv 1602.05629, algorithm 1); devices scaled their
    updates by w / w_max, so the sum is divided by ``sum(w) / w_max``. ``sum``: the textbook step
    ``theta - alpha * sum(g_i)``, the updates being negative gradients.

    Raises:
        FedloomError: ``not-finite``.
    """
    combined = aggregate.values
    if plan.server.combine == "mean":
        combined = combined / (aggregate.weight_sum / plan.update.max_weight)
    weights = (master.astype(np.float64) + plan.server.learning_rate * combined).astype(np.float32)
    require_finite(weights, "The new model")
    return weights

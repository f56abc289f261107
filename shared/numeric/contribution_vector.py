"""The words that a device masks: packed coordinates first, then one whole word per count.

Coordinates are the update's, then those of statistics: in lanes of the same width and with as many levels, but with a
clip norm, hence a step, of their own.

Counts (weight, evaluation loss, correct, evaluated, clipped) travel inside the masked vector, so the aggregator
learns their sums over the cohort and nobody's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.errors import UnmaskingFailed
from shared.limits import LOSS_UNITS_PER_NAT, MAX_EVALUATED_EXAMPLES, MAX_EXAMPLE_LOSS
from shared.numeric.clipping import check_sum_norm
from shared.numeric.packing import pack, unpack_sum, words_for
from shared.numeric.quantization import Grid, QuantizedUpdate, dequantize

COUNT_WORDS = 5  # weight, loss, correct, evaluated, clipped


@dataclass(frozen=True)
class Evaluation:
    """How the weights that training started from do on examples that no device trained on.

    Attributes:
        loss_sum: sum over the examples, in nats.
        correct: how many were right.
        count: how many there were.
    """

    loss_sum: float
    correct: int
    count: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, None without examples."""
        return self.correct / self.count if self.count else None

    @property
    def mean_loss(self) -> float | None:
        """Nats per example, None without examples."""
        return self.loss_sum / self.count if self.count else None


@dataclass(frozen=True)
class AggregateSum:
    """What the aggregator learns of a cohort, all of it sums.

    Attributes:
        values: f64[d], sum of the devices' clipped, weighted updates.
        weight_sum: sum of the devices' weights.
        clipped: how many devices' updates, or changes of statistics, were clipped.
        evaluation: summed over the devices' held-out examples.
        survivors: how many devices are in the sums.
        statistics: f64[s], sum of the devices' clipped, weighted changes of statistics.
    """

    values: npt.NDArray[np.float64]
    weight_sum: int
    clipped: int
    evaluation: Evaluation
    survivors: int
    statistics: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Group:
    """Coordinates with one clip norm: how many, and the grid that they are on."""

    dimension: int
    grid: Grid


def vector_words(dimension: int, lane_bits: int) -> int:
    """Return the length of a masked vector of ``dimension`` coordinates, statistics included, in 64-bit words."""
    return words_for(dimension, lane_bits) + COUNT_WORDS


def to_words(
    update: QuantizedUpdate, evaluation: Evaluation, statistics: QuantizedUpdate | None = None
) -> npt.NDArray[np.uint64]:
    """Return u64[vector_words], ready to be masked; ``statistics`` is None for a model that has none."""
    grid = update.grid
    groups = [update] if statistics is None else [update, statistics]
    count = min(evaluation.count, MAX_EVALUATED_EXAMPLES)
    worst = count * MAX_EXAMPLE_LOSS
    # A model that diverged on this device gives NaN: the worst there is, not a reason to send nothing.
    loss = worst if math.isnan(evaluation.loss_sum) else min(max(evaluation.loss_sum, 0.0), worst)
    counts = [
        update.weight,
        round(loss * LOSS_UNITS_PER_NAT),
        min(max(evaluation.correct, 0), count),  # whatever a training program answers
        count,
        int(any(group.clipped for group in groups)),
    ]
    words = pack(
        [group.steps for group in groups],
        levels=grid.levels,
        lane_bits=grid.lane_bits,
        further_words=COUNT_WORDS,
    )
    words[-COUNT_WORDS:] = counts
    return words


def from_words(
    total: npt.NDArray[np.uint64],
    *,
    dimension: int,
    grid: Grid,
    survivors: int,
    max_weight: int,
    statistics: Group | None = None,
) -> AggregateSum:
    """Decode and check the unmasked sum of ``survivors`` vectors.

    Args:
        total: u64[vector_words].
        dimension: d, coordinates of an update.
        grid: of updates.
        survivors: how many vectors are in the sum.
        max_weight: of the plan.
        statistics: how many coordinates they have and their grid, None for a model that has none.

    Raises:
        UnmaskingFailed: ``implausible-lanes``, ``implausible-counts`` or ``implausible-norm`` for a sum that honest
            devices cannot have produced; such a sum is discarded whole.
    """
    lanes, counts = total[:-COUNT_WORDS], [int(word) for word in total[-COUNT_WORDS:]]
    weight, loss, correct, count, clipped = counts
    if not (
        survivors <= weight <= survivors * max_weight
        and 0 <= correct <= count <= survivors * MAX_EVALUATED_EXAMPLES
        and loss <= (count * MAX_EXAMPLE_LOSS + survivors) * LOSS_UNITS_PER_NAT
        and clipped <= survivors
    ):
        raise UnmaskingFailed(
            "implausible-counts",
            f"The summed weights or counts are impossible for {survivors} devices.",
            "a member sent a malformed vector; the round goes on with a new cohort",
        )
    groups = [Group(dimension, grid), statistics or Group(0, grid)]
    try:
        steps = unpack_sum(
            lanes,
            dimension=sum(group.dimension for group in groups),
            levels=grid.levels,
            lane_bits=grid.lane_bits,
            survivors=survivors,
        )
    except ValueError as error:
        raise UnmaskingFailed("implausible-lanes", f"The sum cannot be decoded: {error}.") from error
    values = _checked(steps[:dimension], groups[0], survivors, "The sum of updates")
    moved = _checked(steps[dimension:], groups[1], survivors, "The sum of statistics")
    evaluation = Evaluation(loss / LOSS_UNITS_PER_NAT, correct, count)
    return AggregateSum(values, weight, clipped, evaluation, survivors, moved)


def _checked(steps: npt.NDArray[np.int64], group: Group, survivors: int, what: str) -> npt.NDArray[np.float64]:
    values, bound = dequantize(steps, group.grid), group.grid.l2_norm_bound(group.dimension)
    check_sum_norm(values, survivors=survivors, l2_norm_bound=bound, what=what)
    return values

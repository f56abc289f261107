"""The words that a device masks when it compares two versions: whole words only, no coordinates.

Per device go in the sums over its held-out examples for both versions, and, so that the sum also tells how much
devices differ, its own change of accuracy and of mean loss and the squares of these. The aggregator learns sums over
the cohort and nobody's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import UnmaskingFailed
from shared.limits import LOSS_UNITS_PER_NAT, MAX_EVALUATED_EXAMPLES, MAX_EXAMPLE_LOSS
from shared.numeric.contribution_vector import Evaluation

EVALUATION_WORDS: Final = 10
GAIN_UNITS: Final = 2**20  # fixed point of one device's change of accuracy, between -1 and 1
_LOSS_UNITS: Final = round(MAX_EXAMPLE_LOSS * LOSS_UNITS_PER_NAT)
_MODULUS: Final = 2**64


@dataclass(frozen=True)
class Spread:
    """Sums over devices of a number and of its square."""

    total: float
    squares: float


@dataclass(frozen=True)
class ComparedSum:
    """What the aggregator learns of two versions.

    Attributes:
        candidate: summed over the devices' held-out examples.
        baseline: the same of the version that it is compared with, on the same examples.
        evaluated: how many devices had held-out examples.
        survivors: how many devices are in the sums.
        gain: change of a device's accuracy from baseline to candidate, of those that had examples.
        loss_change: change of a device's mean loss, in nats.
    """

    candidate: Evaluation
    baseline: Evaluation
    evaluated: int
    survivors: int
    gain: Spread
    loss_change: Spread


def to_evaluation_words(candidate: Evaluation, baseline: Evaluation) -> npt.NDArray[np.uint64]:
    """Return u64[EVALUATION_WORDS], ready to be masked; both evaluations are on the same examples."""
    count = min(candidate.count, MAX_EVALUATED_EXAMPLES)
    losses = [_loss_units(one, count) for one in (candidate, baseline)]
    corrects = [min(max(one.correct, 0), count) for one in (candidate, baseline)]
    gain = round((corrects[0] - corrects[1]) * GAIN_UNITS / count) if count else 0
    change = round((losses[0] - losses[1]) / count) if count else 0
    words = [int(count > 0), count, losses[0], corrects[0], losses[1], corrects[1], gain, gain**2, change, change**2]
    return np.array([word % _MODULUS for word in words], np.uint64)


def _loss_units(evaluation: Evaluation, count: int) -> int:
    worst = count * MAX_EXAMPLE_LOSS
    # NaN is the worst there is, not a reason to send nothing.
    loss = worst if math.isnan(evaluation.loss_sum) else min(max(evaluation.loss_sum, 0.0), worst)
    return round(loss * LOSS_UNITS_PER_NAT)


def from_evaluation_words(total: npt.NDArray[np.uint64], survivors: int) -> ComparedSum:
    """Decode and check the unmasked sum, u64[EVALUATION_WORDS], of ``survivors`` vectors.

    Raises:
        UnmaskingFailed: ``implausible-counts`` for a sum that honest devices cannot have produced.
    """
    evaluated, count, *rest = (int(word) for word in total)
    losses, corrects = (rest[0], rest[2]), (rest[1], rest[3])
    gain, gain_squares, change, change_squares = (_signed(rest[4]), rest[5], _signed(rest[6]), rest[7])
    plausible = (
        evaluated <= survivors
        and evaluated <= count <= evaluated * MAX_EVALUATED_EXAMPLES
        and all(correct <= count for correct in corrects)
        and all(loss <= count * _LOSS_UNITS + survivors for loss in losses)
        and _is_spread(gain, gain_squares, evaluated, GAIN_UNITS)
        and _is_spread(change, change_squares, evaluated, _LOSS_UNITS + 1)
    )
    if not plausible:
        raise UnmaskingFailed(
            "implausible-counts",
            f"The summed counts of an evaluation are impossible for {survivors} devices.",
            "a member sent a malformed vector; a new cohort evaluates",
        )
    sums = [
        Evaluation(loss / LOSS_UNITS_PER_NAT, correct, count) for loss, correct in zip(losses, corrects, strict=True)
    ]
    return ComparedSum(
        sums[0],
        sums[1],
        evaluated,
        survivors,
        Spread(gain / GAIN_UNITS, gain_squares / GAIN_UNITS**2),
        Spread(change / LOSS_UNITS_PER_NAT, change_squares / LOSS_UNITS_PER_NAT**2),
    )


def _signed(word: int) -> int:
    return word - _MODULUS if word >= _MODULUS // 2 else word


def _is_spread(total: int, squares: int, devices: int, largest: int) -> bool:
    """Say whether ``devices`` numbers up to ``largest`` can have this sum and this sum of squares."""
    return abs(total) <= devices * largest and total**2 <= devices * squares and squares <= devices * largest**2

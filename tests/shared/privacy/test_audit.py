"""An attack on the noise: whether one device was in a sum, guessed from many sums, against the epsilon that is claimed.

The attacker knows what the canary sends and what all others send, and looks at the sum in the canary's direction, which
is the best test there is. How often it is wrong bounds epsilon from below: directly (Jagielski et al.,
arXiv 2006.07709, section 3), and, as wide Skellam noise is Gaussian, by way of the multiplier that would explain the
errors (Nasr et al., arXiv 2302.07956, section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest

from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.packing import unpack_noised_sum
from shared.plan import Plan
from shared.privacy.charges import epsilon_of, loss_of
from shared.privacy.rdp import gaussian_rdp
from tests.shared.cohort_simulation import Randomness

MEMBERS: Final = 4
SURVIVORS: Final = 3  # as many as the plan lets vanish are gone, so the sum has just the noise that was promised
SIZES: Final = (56, 8)
SUMS: Final = 2500
SID: Final = bytes(range(32))
CONFIDENCE: Final = 0.95
NORMAL: Final = NormalDist()
CLAIMED_MULTIPLIER: Final = 1.0
Lanes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Audit:
    """What the attacker measured.

    Attributes:
        wrongly_seen: upper bound of how often a sum without the canary is taken for one with it.
        overlooked: upper bound of how often a sum with it is taken for one without; both hold with 95 %.
    """

    wrongly_seen: float
    overlooked: float

    def epsilon(self, delta: float) -> float:
        """Return the smallest epsilon that (epsilon, delta)-privacy could have."""
        seen, absent = 1 - self.overlooked - delta, 1 - self.wrongly_seen - delta
        return math.log(max(seen / self.wrongly_seen, absent / self.overlooked))

    @property
    def multiplier(self) -> float:
        """The largest noise multiplier of Gaussian noise with errors as small as these."""
        return 1 / -(NORMAL.inv_cdf(self.wrongly_seen) + NORMAL.inv_cdf(self.overlooked))


def plan_for(rotation: str) -> Plan:
    plan = f"""
        task = "audit"
        update = {{ max_l2_norm = 2.0, statistics_max_l2_norm = 0.5, lane_bits = 32, rotation = "{rotation}" }}
        cohort = {{ min_survivors = 2, largest = {MEMBERS}, corrupt_share = 0.0, dropout_share = 0.25 }}
        [privacy]
        mechanism = "skellam"
        noise_multiplier = {CLAIMED_MULTIPLIER}
        delta = 1e-5
        max_participations = 1
        max_epsilon = 10.0
    """
    return Plan.from_toml(plan)


def encoding_of(plan: Plan, noise_share: float = 1.0) -> NoisyEncoding:
    """Return the encoding of a cohort, whose devices add ``noise_share`` of the deviation that they should."""
    encoding = plan.encoding(MEMBERS, *SIZES)
    assert isinstance(encoding, NoisyEncoding)
    variance = encoding.noise.device_variance * noise_share**2
    return replace(encoding, noise=replace(encoding.noise, device_variance=variance))


def sum_of(encoding: NoisyEncoding, seed: str, *, canary: bool) -> Lanes:
    """Return the lanes of a cohort's sum, in steps; the others send nothing but noise."""
    total = np.zeros(encoding.words, dtype=np.uint64)
    for device in range(SURVIVORS):
        total += _words(encoding, f"{seed} {device}", loud=canary and device == 0)
    lanes = unpack_noised_sum(
        total, dimension=sum(encoding.sizes), lowest=-encoding.noise.tail, lane_bits=encoding.lane_bits
    )
    return lanes - SURVIVORS * encoding.noise.offset


def _words(encoding: NoisyEncoding, seed: str, *, loud: bool) -> npt.NDArray[np.uint64]:
    bounds = [grid.max_l2_norm for grid in encoding.noise.grids]
    values = [np.full(size, 2 * bound if loud else 0.0, np.float32) for size, bound in zip(SIZES, bounds, strict=True)]
    update, statistics = (
        clip(LocalUpdate(part, 1), max_l2_norm=bound, max_weight=1) for part, bound in zip(values, bounds, strict=True)
    )
    evaluation = Evaluation(1e9, 5, 5) if loud else Evaluation(0.0, 0, 0)
    return encoding.encode(update, statistics, evaluation, sid=SID, random_bytes=Randomness(seed))


@cache
def audit(rotation: str, noise_share: float) -> Audit:
    """Attack ``SUMS`` sums with the canary and as many without; the threshold is half-way, chosen beforehand."""
    plan = plan_for(rotation)
    encoding = encoding_of(plan, noise_share)
    sums = {
        canary: np.array([sum_of(encoding, f"{rotation} {canary} {number}", canary=canary) for number in range(SUMS)])
        for canary in (False, True)
    }
    direction = sum_of(encoding_of(plan, 1e-6), "quiet", canary=True).astype(np.float64)
    threshold = float(direction @ direction) / 2
    wrongly_seen = int((sums[False] @ direction > threshold).sum())
    overlooked = int((sums[True] @ direction <= threshold).sum())
    return Audit(_at_most(wrongly_seen), _at_most(overlooked))


def _at_most(errors: int) -> float:
    """Return Clopper and Pearson's upper bound; two of them hold together with the confidence."""
    low, high = errors / SUMS, 1.0 - 1e-9
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most_probability(errors, middle) > (1 - CONFIDENCE) / 2 else (low, middle)
    return high


def _at_most_probability(errors: int, rate: float) -> float:
    """Return the probability of at most ``errors`` in ``SUMS`` independent tries."""
    logs = (
        math.lgamma(SUMS + 1)
        - math.lgamma(k + 1)
        - math.lgamma(SUMS - k + 1)
        + k * math.log(rate)
        + (SUMS - k) * math.log1p(-rate)
        for k in range(errors + 1)
    )
    return math.fsum(map(math.exp, logs))


def claimed(rotation: str) -> float:
    plan = plan_for(rotation)
    return epsilon_of([loss_of(plan, encoding_of(plan))], plan.privacy.delta)


def found(result: Audit, delta: float) -> float:
    """Return the larger of both lower bounds."""
    return max(result.epsilon(delta), epsilon_of([gaussian_rdp(result.multiplier)], delta))


@pytest.mark.parametrize("rotation", ["off", "on"])
def test_no_attack_finds_more_than_the_epsilon_that_is_claimed(rotation: str) -> None:
    delta = plan_for(rotation).privacy.delta
    assert 0.8 * claimed(rotation) < found(audit(rotation, 1.0), delta) < claimed(rotation)


def test_the_canary_is_as_large_as_a_device_can_be() -> None:
    encoding = encoding_of(plan_for("off"), 1e-6)
    norm = float(np.linalg.norm(sum_of(encoding, "quiet", canary=True)))
    assert 0.97 * encoding.noise.l2_sensitivity < norm <= encoding.noise.l2_sensitivity


def test_the_attack_notices_noise_that_is_a_fifth_too_small() -> None:
    assert found(audit("off", 0.8), plan_for("off").privacy.delta) > claimed("off")


def test_the_attack_notices_very_little_noise_without_supposing_its_shape() -> None:
    assert audit("off", 0.15).epsilon(plan_for("off").privacy.delta) > claimed("off")

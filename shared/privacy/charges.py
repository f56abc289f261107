"""What one participation costs a device under a plan."""

from __future__ import annotations

from shared.numeric.noisy_encoding import NoisyEncoding
from shared.plan import CohortEncoding, Plan
from shared.privacy.floors import Loss, PrivacyFloors, epsilon_of
from shared.privacy.rdp import gaussian_rdp, skellam_rdp

__all__ = ["Loss", "PrivacyFloors", "epsilon_of", "loss_of"]


def loss_of(plan: Plan, encoding: CohortEncoding) -> Loss:
    """Return what one participation in a cohort of this encoding reveals at most; empty without noise.

    With ``skellam`` by the sum; with ``central-gaussian`` by what the aggregator publishes, if it adds its noise.
    """
    if isinstance(encoding, NoisyEncoding):
        noise = encoding.noise
        return skellam_rdp(noise.variance, noise.l1_sensitivity, noise.l2_sensitivity)
    if plan.privacy.mechanism == "central-gaussian":
        return gaussian_rdp(plan.privacy.noise_multiplier)
    return ()

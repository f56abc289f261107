"""From noise to (epsilon, delta), in Renyi differential privacy; no library beyond Python's.

The unit is one device: two cohorts are neighbours if one device's whole vector is replaced by zeros (zero-out
adjacency). Devices choose when to join, so no amplification by sampling is claimed: losses add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

# Whole orders, for which the bound is proven; large ones for many participations of little loss each.
ORDERS: Final = (*range(2, 64), *range(64, 128, 8), *range(128, 256, 16), *range(256, 1025, 128))


def skellam_rdp(variance: float, l1_sensitivity: float, l2_sensitivity: float) -> tuple[float, ...]:
    """Return the Renyi divergence bound of Skellam noise at each of ``ORDERS``.

    Agarwal, Kairouz and Liu (arXiv 2110.04995, Corollary 3.6), for whole-number vectors.

    Args:
        variance: of the noise in the sum, in squared steps.
        l1_sensitivity: the largest L1 norm of one device's vector, in steps.
        l2_sensitivity: the largest L2 norm.
    """
    return tuple(_skellam_at(order, variance, l1_sensitivity, l2_sensitivity * l2_sensitivity) for order in ORDERS)


def _skellam_at(order: int, variance: float, l1: float, squared: float) -> float:
    wide = ((2 * order - 1) * squared + 6 * l1) / (4 * variance * variance)
    return order * squared / (2 * variance) + min(wide, 3 * l1 / (2 * variance))


def gaussian_rdp(noise_multiplier: float) -> tuple[float, ...]:
    """Return the Renyi divergence of Gaussian noise at each of ``ORDERS`` (Mironov, arXiv 1702.07476, section 6)."""
    return tuple(order / (2 * noise_multiplier * noise_multiplier) for order in ORDERS)


def composed(losses: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the loss of all ``losses`` together, at each of ``ORDERS``."""
    return tuple(math.fsum(loss[place] for loss in losses) for place in range(len(ORDERS)))


def epsilon(loss: Sequence[float], delta: float) -> float:
    """Return the smallest epsilon that ``loss``, at each of ``ORDERS``, proves at ``delta``.

    Canonne, Kamath and Steinke (arXiv 2004.00010, Proposition 12). No loss is epsilon 0.
    """
    if not any(loss):
        return 0.0
    found: list[float] = [
        bound + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order, bound in zip(ORDERS, loss, strict=True)
    ]
    return max(0.0, min(found))

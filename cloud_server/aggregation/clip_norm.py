"""The clip norm of the next version follows from how many devices clipped in this one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shared.numeric.contribution_vector import AggregateSum
from shared.plan import LARGEST_NORM, SMALLEST_NORM, Plan

RATE: Final = 0.2


def next_plan(plan: Plan, aggregate: AggregateSum) -> Plan:
    """Return the plan of the version after the one that ``aggregate`` was trained from.

    ``C <- C exp(-0.2 (b - quantile))``, b the share of devices that did not clip (Andrew et al., arXiv 1905.03871,
    section 2). It is a part of the plan, so the release signs it, and members who clipped to another norm sign another
    plan and cannot be in one cohort. Without ``update.clip_quantile`` the plan stays the same.
    """
    bounds = plan.update
    if not bounds.clip_quantile:
        return plan
    unclipped = 1.0 - aggregate.clipped / aggregate.survivors
    norm = bounds.max_l2_norm * math.exp(-RATE * (unclipped - bounds.clip_quantile))
    norm = min(max(float(f"{norm:.6g}"), SMALLEST_NORM), LARGEST_NORM)
    return replace(plan, update=replace(bounds, max_l2_norm=norm))

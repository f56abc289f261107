"""Noise that the aggregator itself adds to a sum before it uses it: whoever runs it sees the sum without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shared.numeric.contribution_vector import AggregateSum, Group
from shared.numeric.encoding import Encoding
from shared.plan import Plan

Values = npt.NDArray[np.float64]


def with_central_noise(
    aggregate: AggregateSum, plan: Plan, members: int, random_bytes: Callable[[int], bytes]
) -> AggregateSum:
    """Return ``aggregate`` with Gaussian noise in its values and statistics, unchanged under another mechanism.

    One device adds at most B to a group, rounding included. With G groups, each gets noise of standard deviation
    ``z B sqrt(G)``; together they lose what one Gaussian of multiplier z loses. Weights and evaluation stay as they
    are: the aggregator uses them and publishes neither.
    """
    if plan.privacy.mechanism != "central-gaussian":
        return aggregate
    encoding = plan.encoding(members, aggregate.values.size, aggregate.statistics.size)
    assert isinstance(encoding, Encoding)  # noqa: S101  # the other one belongs to the other mechanism
    groups = [group for group in encoding.groups if group.dimension]
    multiplier = plan.privacy.noise_multiplier * math.sqrt(len(groups))

    def noised(values: Values, group: Group) -> Values:
        deviation = multiplier * group.grid.l2_norm_bound(group.dimension)
        return values + deviation * gaussian(values.size, random_bytes)

    update, statistics = encoding.groups
    return replace(
        aggregate, values=noised(aggregate.values, update), statistics=noised(aggregate.statistics, statistics)
    )


def gaussian(count: int, random_bytes: Callable[[int], bytes]) -> Values:
    """Return f64[count] standard normal numbers by Box and Muller's method, from 24 cryptographic octets each.

    The radius has 128 bits, so that no tail that could matter to delta is missing.
    """
    words = np.frombuffer(random_bytes(24 * count), dtype="<u8").reshape(3, count).astype(np.float64)
    radius = words[0] * 2.0**-64 + (words[1] + 0.5) * 2.0**-128
    normal: Values = np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * 2.0**-64 * words[2])
    return normal

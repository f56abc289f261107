"""Ways to divide labelled examples that have no owner among devices; every example goes to exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.examples import Examples

Rows: TypeAlias = NDArray[np.int64]


def iid(y: NDArray[np.int32], devices: int, seed: int) -> list[Rows]:
    """Return each device's rows: shuffled, in parts that differ by at most one."""
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(len(y)), devices)]


def two_shard(y: NDArray[np.int32], devices: int, seed: int) -> list[Rows]:
    """Return each device's rows: two of 2 n shards of the examples sorted by label.

    Most devices see two classes only (McMahan et al., arXiv 1602.05629, section 3).
    """
    shards = np.array_split(np.argsort(y, kind="stable"), 2 * devices)
    dealt = np.random.default_rng(seed).permutation(2 * devices)
    return [np.sort(np.concatenate([shards[a], shards[b]])) for a, b in dealt.reshape(devices, 2)]


def dirichlet(y: NDArray[np.int32], devices: int, alpha: float, seed: int) -> list[Rows]:
    """Return each device's rows: every class is divided by shares drawn from Dirichlet(alpha).

    The smaller alpha, the less alike the devices (Hsu et al., arXiv 1909.06335, divide devices by classes instead).
    """
    generator = np.random.default_rng(seed)
    parts: list[list[Rows]] = [[] for _ in range(devices)]
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        shares = generator.dirichlet(np.full(devices, alpha))
        ends = np.round(np.cumsum(shares) * len(rows)).astype(np.int64)[:-1]
        for part, piece in zip(parts, np.split(rows, ends), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) if part else np.zeros(0, np.int64) for part in parts]


def divide(
    examples: Examples, parts: Sequence[Rows], held_out_share: float, seed: int
) -> dict[int, tuple[Examples, Examples]]:
    """Return per device, from 1 on, the examples to train on and those held out, drawn from its own."""
    x, y = np.asarray(examples.x), examples.y
    devices = {}
    for owner, rows in enumerate(parts, 1):
        shuffled = np.random.default_rng([seed, owner]).permutation(rows)
        held, trains = np.split(shuffled, [round(len(rows) * held_out_share)])
        devices[owner] = (Examples(x[trains], y[trains]), Examples(x[held], y[held]))
    return devices

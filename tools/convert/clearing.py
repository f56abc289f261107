"""How far biases move so that no activation is near a kink: the numbers alone, see ``kinks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]

_NEAR: Final = 1e-3  # of the spread of what decides: what is farther from a kink may stay where it is
_REACH: Final = 0.2  # of the spread: how far a channel may move
_LEAST_SPREAD: Final = 1e-3


def channel_shifts(decides: Sequence[NDArray[Any]], places: Sequence[float]) -> NDArray[np.float32]:
    """Return how far each channel has to move, f32[channels], 0 for those that are clear.

    Args:
        decides: one f32[..., channels] per batch.
        places: where the gradient jumps.
    """
    table = np.concatenate([array.reshape(-1, array.shape[-1]) for array in decides])
    spread = max(float(table.std()), _LEAST_SPREAD)
    nearest = np.min([np.abs(table - place).min(axis=0) for place in places], axis=0)
    shifts = np.zeros(table.shape[1], np.float32)
    for channel in np.flatnonzero(nearest < _NEAR * spread):
        shifts[channel] = clear_shift(np.unique(table[:, channel]).astype(np.float64), places, _REACH * spread)
    return shifts


def clear_shift(values: F64, places: Sequence[float], reach: float) -> float:
    """Return the shift of at most ``reach`` after which the nearest value is as far from a place as can be.

    Args:
        values: f64[n], finite.
        places: where the gradient jumps.
        reach: above 0.
    """
    # Shifting by d brings a value to a place where d = place - value: go to the middle between two of these.
    taken = np.unique(np.concatenate([place - values for place in places]))
    shifts = np.concatenate([[-reach, 0.0, reach], (taken[1:] + taken[:-1]) / 2])
    shifts = shifts[np.abs(shifts) <= reach]
    after = np.searchsorted(taken, shifts)
    edges = np.concatenate([[-np.inf], taken, [np.inf]])
    clear = np.minimum(shifts - edges[after], edges[after + 1] - shifts)
    return float(shifts[clear.argmax()])

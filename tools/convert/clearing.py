"""How far biases move so that no activation is near a kink: the numbers alone, see ``kinks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]

_MARGIN: Final = 2e-5  # of the spread of what decides
_LEAST_SPREAD: Final = 1e-3


def channel_shifts(decides: Sequence[NDArray[Any]], places: Sequence[float]) -> NDArray[np.float32]:
    """Return how far each channel has to move, f32[channels], 0 for those that are clear.

    Args:
        decides: one f32[..., channels] per batch.
        places: where the gradient jumps.
    """
    table = np.concatenate([array.reshape(-1, array.shape[-1]) for array in decides])
    margin = _MARGIN * max(float(table.std()), _LEAST_SPREAD)
    nearest = np.min([np.abs(table - place).min(axis=0) for place in places], axis=0)
    shifts = np.zeros(table.shape[1], np.float32)
    for channel in np.flatnonzero(nearest < margin):
        shifts[channel] = clear_shift(np.unique(table[:, channel]).astype(np.float64), places, margin)
    return shifts


def clear_shift(values: F64, places: Sequence[float], margin: float) -> float:
    """Return the smallest shift after which no value is near a place: 0 if none is within ``margin`` of one now.

    Args:
        values: f64[n], finite.
        places: where the gradient jumps.
        margin: above 0; after a shift there is twice as much.
    """
    # Shifting by d brings a value to a place where d = place - value: keep away from these.
    taken = np.sort(np.concatenate([place - values for place in places]))
    if np.abs(taken).min() >= margin:
        return 0.0
    ends = np.concatenate([[taken[0] - 8 * margin], taken, [taken[-1] + 8 * margin]])
    low, high = ends[:-1] + 2 * margin, ends[1:] - 2 * margin
    wide = low <= high
    shifts = np.clip(0.0, low[wide], high[wide])
    return float(shifts[np.abs(shifts).argmin()])

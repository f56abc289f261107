"""Kinks: where a gradient jumps, so that rounding errors decide which of two right gradients comes out.

A ReLU whose input is within rounding errors of 0 may be on in one runtime and off in another. Large networks have
millions of activations, one of which is always that close; comparing gradients there can tell nothing about a
runtime. ``KINKS`` says for each type of operation which tensor decides, and ``clear_shift`` how far a bias has to
move so that no element of a channel is near its kink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.convert.tf import Operation, Tensor

F64: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Kink:
    """``decides`` f32[..., channels] and the values ``at`` which the gradient jumps."""

    decides: Tensor
    at: tuple[float, ...]


def _at(*places: float) -> Callable[[Operation, Sequence[Tensor]], Kink]:
    return lambda _op, inputs: Kink(inputs[0], places)


def _difference(_op: Operation, inputs: Sequence[Tensor]) -> Kink:
    return Kink(inputs[0] - inputs[1], (0.0,))


KINKS: Final[dict[str, Callable[[Operation, Sequence[Tensor]], Kink]]] = {
    "Abs": _at(0.0),
    "LeakyRelu": _at(0.0),
    "Maximum": _difference,
    "Minimum": _difference,
    "Relu": _at(0.0),
    "Relu6": _at(0.0, 6.0),
    "Selu": _at(0.0),
}


_SHIFTS: Final[dict[str, tuple[int, ...]]] = {  # inputs whose every element is added to the output as it is
    "Add": (0, 1),
    "AddV2": (0, 1),
    "BiasAdd": (0, 1),
    "ExpandDims": (0,),
    "FusedBatchNormV3": (2,),
    "Identity": (0,),
    "Reshape": (0,),
    "Squeeze": (0,),
    "Sub": (0,),
}


def bias_of(kink: Kink, weights: Sequence[Tensor]) -> int | None:
    """Return the index of a vector among ``weights`` that is added to what decides, one element per channel."""
    channels = kink.decides.shape[-1] if kink.decides.shape.rank else None
    vectors = {weight.name: index for index, weight in enumerate(weights) if weight.shape.as_list() == [channels]}
    waiting, seen = [kink.decides], set()
    while waiting:
        tensor = waiting.pop(0)
        if tensor.name in vectors:
            return vectors[tensor.name]
        if tensor.name not in seen:
            seen.add(tensor.name)
            waiting += [tensor.op.inputs[place] for place in _SHIFTS.get(tensor.op.type, ())]
    return None


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

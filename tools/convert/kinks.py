"""Kinks: where a gradient jumps, so that rounding errors decide which of two right gradients comes out.

A ReLU whose input is within rounding errors of 0 may be on in one runtime and off in another. Large networks have
millions of activations, one of which is always that close; comparing gradients there can tell nothing about a
runtime. ``KINKS`` says for each type of operation which tensor decides, and ``bias_of`` which bias moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.convert.tf import Operation, Tensor


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

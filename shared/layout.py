"""How the flat weight vector is divided by role: what is trained and summed, what is only averaged, what stays.

Roles are the manifest's, see ``shared/bundle.py``. Both sides divide and join vectors here and nowhere else, so that
a tensor that is ``local`` cannot be in a vector by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shared.bundle import Role, TensorSpec

Number = TypeVar("Number", np.float32, np.float64)


@dataclass(frozen=True)
class Part:
    """The coordinates of one role, in the flat vector's order.

    Attributes:
        places: ascending, disjoint, none next to another.
    """

    places: tuple[slice, ...]

    @property
    def size(self) -> int:
        """How many coordinates there are."""
        return sum(place.stop - place.start for place in self.places)

    def take(self, vector: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return this part of a flat vector, [size]; a view where it lies in one piece."""
        if len(self.places) == 1:
            return vector[self.places[0]]
        return np.concatenate([vector[:0], *(vector[place] for place in self.places)])

    def replace(self, vector: npt.NDArray[Number], values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return a copy of ``vector`` with ``values``, [size], in this part's places.

        Raises:
            ValueError: if there are more or fewer values than places.
        """
        if values.shape != (self.size,):
            raise ValueError(f"{values.shape} values for {self.size} places")
        replaced = vector.copy()
        start = 0
        for place in self.places:
            end = start + place.stop - place.start
            replaced[place] = values[start:end]
            start = end
        return replaced


@dataclass(frozen=True)
class Layout:
    """The parts of a flat vector f32[d]; every coordinate is in exactly one.

    Attributes:
        shared: trained, clipped and summed.
        statistics: averaged, not trained (batch norm's moments).
        local: trained, and never anywhere but on the device.
        minimums: below what no value of a statistic makes sense, by place: 0 for variances.
    """

    shared: Part
    statistics: Part
    local: Part
    minimums: tuple[tuple[slice, float], ...]

    @classmethod
    def of(cls, tensors: Sequence[TensorSpec]) -> Layout:
        """Return the layout of a manifest's tensors."""
        minimums = tuple((_place(spec), spec.minimum) for spec in tensors if spec.minimum is not None)
        return cls(_part(tensors, "shared"), _part(tensors, "statistic"), _part(tensors, "local"), minimums)

    def raised(self, weights: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return f[d] with statistics below their minimum raised to it: rounding may leave a variance below 0."""
        raised = weights.copy()
        for place, minimum in self.minimums:
            np.maximum(raised[place], minimum, out=raised[place])
        return raised


def summed_tensors(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the tensors that are aggregated and published anew with every version: all but local ones."""
    return tuple(spec for spec in tensors if spec.role != "local")


def outside(tensors: Sequence[TensorSpec], glob: str) -> Part:
    """Return the part of a flat vector whose tensors' paths do not match ``glob`` (``fnmatch``)."""
    return _joined(spec for spec in tensors if not fnmatchcase(spec.path, glob))


def _place(spec: TensorSpec) -> slice:
    return slice(spec.offset, spec.offset + spec.size)


def _part(tensors: Iterable[TensorSpec], role: Role) -> Part:
    return _joined(spec for spec in tensors if spec.role == role)


def _joined(tensors: Iterable[TensorSpec]) -> Part:
    places: list[slice] = []
    for spec in tensors:
        place = _place(spec)
        if places and places[-1].stop == place.start:
            place = slice(places.pop().start, place.stop)
        places.append(place)
    return Part(tuple(places))

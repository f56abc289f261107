"""The weights in the runtime: variables that the five functions share.

What reads a variable copies it, and a training step needs weight, starting point and gradient of a tensor at a time.
A large tensor is therefore kept in pieces, along its first axis: the model sees it whole, but what comes after the
gradient is done piece by piece, in memory that each piece leaves to the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.convert.tf import Module, Tensor, Variable, tf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tools.convert.optimizers import Optimizer
    from tools.convert.source import SourceModel


@dataclass(frozen=True)
class Piece:
    """Rows of one weight.

    Attributes:
        index: of the weight in the model.
        first: row; a scalar counts as one row.
        rows: how many.
        offset: of its first element in the vector of all weights.
        size: in elements.
        whole: whether these are all rows.
        variable: the values.
        anchor: the values when training started; None for tensors that are not trained.
        slots: what the optimizer remembers.
    """

    index: int
    first: int
    rows: int
    offset: int
    size: int
    whole: bool
    variable: Variable
    anchor: Variable
    slots: Sequence[Variable]

    def of(self, value: Tensor) -> Tensor:
        """Return these rows of a tensor of the weight's shape."""
        return value if self.whole else value[self.first : self.first + self.rows]


class Store:
    """All weights, their starting points, the optimizer's memory and the number of the step."""

    def __init__(self, source: SourceModel, optimizer: Optimizer, largest: int | None) -> None:
        """Create the variables, empty; pieces have ``largest`` elements, or a row (None: every tensor is whole)."""
        self.pieces: list[list[Piece]] = []
        offset = 0
        for index, weight in enumerate(source.weights):
            slots = optimizer.slots if weight.trainable else 0
            shape = weight.value.shape
            found = list(_pieces(index, shape, offset, largest, (weight.trainable, slots)))
            self.pieces.append(found)
            offset += math.prod(shape)
        self.parameters = offset
        counts = source.draws or optimizer.counts
        self._step: Variable = tf.Variable(tf.zeros([1]), name="step") if counts else None
        everything = [piece for pieces in self.pieces for piece in pieces]
        self.module: Module = tf.Module()
        self.module.variables_in_use = [
            *(piece.variable for piece in everything),
            *(piece.anchor for piece in everything if piece.anchor is not None),
            *(slot for piece in everything for slot in piece.slots),
            *([self._step] if counts else []),
        ]

    def read(self) -> list[Tensor]:
        """Return all weights, whole."""
        return [_joined([tf.convert_to_tensor(piece.variable) for piece in pieces]) for pieces in self.pieces]

    def flat(self) -> Tensor:
        """Return all weights in one vector, f32[d]."""
        everything = [tf.convert_to_tensor(piece.variable) for pieces in self.pieces for piece in pieces]
        return tf.concat([tf.reshape(value, [-1]) for value in everything], axis=0)

    def count(self) -> Tensor | None:
        """Return the number of this training step, f32[1] from 0 after ``start``; None if nothing depends on it."""
        if self._step is None:
            return None
        step = tf.convert_to_tensor(self._step)
        self._step.assign(step + 1.0)
        return step

    def start(self, flat: Tensor) -> None:
        """Begin training at the weights f32[d]; the optimizer remembers nothing."""
        if self._step is not None:
            self._step.assign(tf.zeros([1]))
        for piece in (piece for pieces in self.pieces for piece in pieces):
            values = tf.reshape(flat[piece.offset : piece.offset + piece.size], piece.variable.shape)
            piece.variable.assign(values)
            if piece.anchor is not None:
                piece.anchor.assign(values)
            for slot in piece.slots:
                slot.assign(tf.zeros(slot.shape))


def _pieces(
    index: int, shape: Sequence[int], offset: int, largest: int | None, kept: tuple[bool, int]
) -> Iterator[Piece]:
    anchored, slots = kept
    rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    height = rows if largest is None else min(rows, max(largest // max(width, 1), 1))
    for first in range(0, max(rows, 1), max(height, 1)):
        count = min(height, rows - first)
        part = (count, *shape[1:]) if shape else ()
        name = f"{index}_{first}"
        yield Piece(
            index,
            first,
            count,
            offset + first * width,
            count * width,
            count == rows,
            tf.Variable(tf.zeros(part), name=f"weight_{name}"),
            tf.Variable(tf.zeros(part), name=f"anchor_{name}") if anchored else None,
            [tf.Variable(tf.zeros(part), name=f"slot_{name}_{k}") for k in range(slots)],
        )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

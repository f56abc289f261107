"""What the agent asks of any training engine: plain arrays in, plain arrays out, no files and no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import FedloomError
from shared.examples import Examples
from shared.layout import Part
from shared.numeric.contribution_vector import Evaluation

F32: TypeAlias = NDArray[np.float32]
BeforeBatch: TypeAlias = Callable[[], None]  # may wait, or end the training by raising


__all__ = [
    "BeforeBatch",
    "Evaluation",
    "Examples",
    "FullGradient",
    "Trained",
    "Trainer",
    "TrainingDiverged",
    "TrainingRecipe",
    "go_on",
]


class TrainingDiverged(FedloomError):
    """A loss or a weight became infinite or not a number, or a step failed; nothing of this training may be used."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How to train: the plan's hyper-parameters that concern the device.

    "fedavg" takes SGD steps on shuffled batches, ``epochs`` times over the examples or until ``max_steps``.
    "fedsgd" takes one step along the gradient over all examples. ``proximal_mu`` is FedProx's pull to the
    start (Li et al., arXiv 1812.06127). ``inputs`` are further inputs of the training program, by name. ``frozen`` is
    the part of the weights that stays as it is ("fedavg").
    """

    method: Literal["fedavg", "fedsgd"]
    epochs: int
    learning_rate: float
    proximal_mu: float = 0.0
    max_steps: int | None = None
    inputs: Mapping[str, float] = field(default_factory=dict)
    frozen: Part = field(default_factory=lambda: Part(()))


@dataclass(frozen=True)
class Trained:
    """The weights f32[d] after training and what it took; ``mean_loss`` is per example, before each step."""

    weights: F32
    examples: int
    steps: int
    mean_loss: float


@dataclass(frozen=True)
class FullGradient:
    """The gradient over all examples.

    Attributes:
        total: f32[d], sum of the examples' loss gradients; 0 for statistics, which have none.
        examples: how many there are.
        moved: f32[d], the weights that it was taken at, with statistics as one pass over the examples leaves them.
    """

    total: F32
    examples: int
    moved: F32


def go_on() -> None:
    """Wait for nothing before a batch, or before another piece of work."""


class Trainer(Protocol):
    """A training engine for one model; weights are always f32[d] in the manifest's order."""

    @property
    def parameters(self) -> int:
        """D, the number of weights."""
        ...

    def train(self, weights: F32, examples: Examples, recipe: TrainingRecipe, shuffle_seed: int) -> Trained:
        """Train from ``weights``; raises UsageError for examples that do not fit, TrainingDiverged."""
        ...

    def gradient_sum(self, weights: F32, examples: Examples, seed: int = 0) -> FullGradient:
        """Return the sum of all examples' loss gradients at ``weights``; layers that draw begin at ``seed``."""
        ...

    def evaluate(self, weights: F32, examples: Examples) -> Evaluation:
        """Return loss and hits of ``weights`` on ``examples``."""
        ...

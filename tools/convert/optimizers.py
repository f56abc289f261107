"""The optimizers of the device, as pure functions from gradient and state to step and state.

A program takes one optimizer, because its state takes memory: none for SGD, one array per weight for momentum, two
for Adam. The state is reset by ``set_weights``, so a round starts without memory of the one before. Weight decay is
decoupled (Loshchilov and Hutter, arXiv 1711.05101, algorithms 1 and 2, with the schedule multiplier in ``lr``);
FedProx's pull (Li et al., arXiv 1812.06127) is a part of the gradient, and not clipped. All else is as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Final, TypeAlias

from shared.bundle import TrainInput
from tools.convert.tf import Tensor, tf

Values: TypeAlias = Mapping[str, Tensor]  # the inputs of the training step, f32[1] each

_NEVER_ZERO = 1e-30


@dataclass(frozen=True)
class Step:
    """One weight in one training step.

    Attributes:
        gradient: of the loss; times -lr for optimizers that are ``scaled``.
        weight: before the step.
        anchor: the weight as it was when training started.
        slots: what the optimizer remembers.
        values: the inputs of the step.
        number: of the step, from 1, f32[1]; None for optimizers that do not count.
    """

    gradient: Tensor
    weight: Tensor
    anchor: Tensor
    slots: Sequence[Tensor]
    values: Values
    number: Tensor | None

    @property
    def decayed(self) -> Tensor:
        """The weight after weight decay."""
        return self.weight * (1.0 - self.values["lr"] * self.values["weight_decay"])


@dataclass(frozen=True)
class Optimizer:
    """How a weight moves.

    Attributes:
        name: as ``--optimizer`` takes it.
        slots: how many arrays of the weight's shape it remembers.
        inputs: what its step takes beside ``lr``, ``mu`` and ``weight_decay``.
        scaled: whether it wants the gradient times -lr, which costs nothing where the gradient starts.
        move: from a step to the weight after it and the slots.
    """

    name: str
    slots: int
    inputs: tuple[TrainInput, ...]
    scaled: bool
    move: Callable[[Step], tuple[Tensor, list[Tensor]]]

    @property
    def counts(self) -> bool:
        """Whether it needs the number of the step."""
        return not self.scaled


def _input(name: str, default: float) -> TrainInput:
    return TrainInput(name, (1,), "float32", default)


def _sgd(step: Step) -> tuple[Tensor, list[Tensor]]:
    """W - lr (g + mu (w - anchor) + weight_decay w), with as few passes over the weights as there can be."""
    pull = step.values["lr"] * step.values["mu"]
    kept = 1.0 - pull - step.values["lr"] * step.values["weight_decay"]
    return step.weight * kept + pull * step.anchor + step.gradient, []


def _momentum(step: Step) -> tuple[Tensor, list[Tensor]]:
    """Heavy ball (Polyak 1964), with the learning rate inside the velocity as Keras has it."""
    pull = step.values["lr"] * step.values["mu"]
    velocity = step.values["momentum"] * step.slots[0] + step.gradient + pull * (step.anchor - step.weight)
    return step.decayed + velocity, [velocity]


def _adam(step: Step) -> tuple[Tensor, list[Tensor]]:
    """Adam (Kingma and Ba, arXiv 1412.6980, the form at the end of section 2)."""
    beta_1, beta_2, rate, number = (*(step.values[name] for name in ("beta_1", "beta_2", "lr")), step.number)
    gradient = step.gradient + step.values["mu"] * (step.weight - step.anchor)
    first = step.slots[0] + (gradient - step.slots[0]) * (1.0 - beta_1)
    second = step.slots[1] + (gradient * gradient - step.slots[1]) * (1.0 - beta_2)
    rate = rate * tf.sqrt(1.0 - beta_2**number) / (1.0 - beta_1**number)
    return step.decayed - rate * first / (tf.sqrt(second) + step.values["epsilon"]), [first, second]


OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    "sgd": Optimizer("sgd", 0, (), scaled=True, move=_sgd),
    "momentum": Optimizer("momentum", 1, (_input("momentum", 0.9),), scaled=True, move=_momentum),
    "adam": Optimizer(
        "adam",
        2,
        (_input("beta_1", 0.9), _input("beta_2", 0.999), _input("epsilon", 1e-7)),
        scaled=False,
        move=_adam,
    ),
}


def train_inputs(optimizer: Optimizer, max_gradient_norm: float | None, *, draws: bool) -> tuple[TrainInput, ...]:
    """Return what the training step takes beside the batch, in the order of the signature."""
    common = (_input("lr", 0.05), _input("mu", 0.0), _input("weight_decay", 0.0))
    clipping = () if max_gradient_norm is None else (_input("max_gradient_norm", max_gradient_norm),)
    seed = (TrainInput("seed", (1,), "int32", 0),) if draws else ()
    return (*common, *optimizer.inputs, *clipping, *seed)


def clipped(gradients: Sequence[Tensor], bound: Tensor) -> list[Tensor]:
    """Scale all gradients so that their common L2 norm is at most ``bound``, f32[1] (Pascanu et al., arXiv 1211.5063).

    A bound of 3e38 changes nothing.
    """
    squares = reduce(add, [tf.reduce_sum(gradient * gradient) for gradient in gradients])
    factor = tf.minimum(bound / (tf.sqrt(squares) + _NEVER_ZERO), 1.0)
    return [gradient * factor for gradient in gradients]

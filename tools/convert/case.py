"""The case that every runtime is measured against: weights, batches, and what TensorFlow makes of them.

A gradient jumps at kinks (``kinks``), so near one a comparison can tell nothing about a runtime. The weights of the
case are therefore moved off them: biases are shifted, a little, until no activation lies near its kink. What has no
bias before it is left to chance, of which several tries are made. Random batches are joined by edge cases: zeros,
ties, large values, and a batch of which a part or all is masked; those at which TensorFlow's own gradients jump are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.convert.clearing import channel_shifts
from tools.convert.prove import STEADY
from tools.convert.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.convert.program import Learning, Program
    from tools.convert.source import ModelInput, SourceModel

Array: TypeAlias = NDArray[Any]
Batch: TypeAlias = "list[Array]"  # inputs, labels, mask

RANDOM: Final = ("random", "other", "masked")  # the last one partly
EDGES: Final = ("zeros", "ties", "large", "all_masked")
_LARGE: Final = 32.0
_OVERFLOWING: Final = 1e9  # a gradient of which a step may be infinite
_DISTINCT = 4  # examples of a batch whose inputs are large: fewer activations that may lie near a kink
_FROM = 256  # elements of an input that is large
_TRIES = 4
_JOLT = 2.0**-19  # of a weight: many times the rounding error of f32
_JOLTS = 3
_VALUES: Final = {"mu": 0.1, "weight_decay": 0.01}  # further ones as the program has them
_RATES: Final = (0.05, 0.005, 0.0005)  # a step of a deep network may throw it far off


@dataclass(frozen=True)
class Case:
    """What is proven.

    Attributes:
        arrays: of ``case.npz``; see ``prove``.
        reference_ms: TensorFlow's own time for a step.
    """

    arrays: dict[str, Array]
    reference_ms: float


def make_case(source: SourceModel, learning: Learning, program: Program, batch_size: int) -> Case:
    """Return weights and batches that are steady, and TensorFlow's answers."""
    generator = np.random.default_rng(1602)
    reference = Reference(source, learning)
    draw = _Draw(source, learning, program, batch_size, generator)
    weights, batches = _steady_case(reference, draw)
    jumps = [_jumps(reference, weights, batch, generator) for batch in batches.values()]
    case: dict[str, Array] = {"weights": _flat(weights), "names": np.array(list(batches))}
    names = [*program.x_names, "y", "mask"]
    for index, batch in enumerate(batches.values()):
        case |= {f"batch{index}/{name}": array for name, array in zip(names, batch, strict=True)}
    found = {name: reference.gradients(weights, batch) for name, batch in batches.items()}
    case["gradients"] = np.stack([_flat(gradients) for gradients in found.values()])
    case["gradients_jump"] = np.stack(jumps)
    case["trained"] = np.concatenate([np.full(w.value.size, w.trainable) for w in source.weights])
    values = _values(program, found["random"])
    case |= _several_steps(reference, weights, [batches[name] for name in RANDOM], values, generator)
    evaluated = [reference.evaluate(weights, batch) for batch in batches.values()]
    case["evaluations"] = np.array([sums for sums, _ in evaluated])
    case["outputs"] = evaluated[0][1]
    case["outputs_initial"] = reference.evaluate([w.value for w in source.weights], batches["random"])[1]
    return Case(case, reference.step_ms(weights, batches["random"]))


def _values(program: Program, gradients: Sequence[Array]) -> dict[str, float]:
    """Return the inputs of the several steps; gradients are clipped to half of the first one's norm."""
    values = {spec.name: spec.default for spec in program.train_inputs if spec.name != "seed"} | _VALUES
    if "max_gradient_norm" in values:
        norm = float(np.sqrt(sum(np.square(part, dtype=np.float64).sum() for part in gradients)))
        values["max_gradient_norm"] = max(norm / 2, 1e-6)
    return values


def _steady_case(reference: Reference, draw: _Draw) -> tuple[list[Array], dict[str, Batch]]:
    """Return weights and batches whose gradients do not jump under rounding errors, or the best of some tries."""
    best: tuple[list[Array], dict[str, Batch]] | None = None
    least = np.inf
    for _ in range(_TRIES):
        batches = draw.batches(RANDOM)
        edges = draw.batches(EDGES)
        weights = _cleared(reference, draw.weights(), [*batches.values(), *edges.values()])
        jump = max(_jump(reference, weights, batch, draw.generator) for batch in batches.values())
        if jump < least:
            least = jump
            steady = {
                name: batch
                for name, batch in edges.items()
                if _jump(reference, weights, batch, draw.generator) <= STEADY
            }
            best = weights, batches | steady
        if best is not None and least <= STEADY:
            break
    if best is None:  # a gradient that is not finite; the proof will say so
        return weights, batches
    return best


def _cleared(reference: Reference, weights: list[Array], batches: Sequence[Batch]) -> list[Array]:
    """Return weights whose biases are shifted so that, in these batches, no activation is near its kink.

    From the input on, because a shift moves all that comes after it.
    """
    weights = [weight.copy() for weight in weights]
    tensors, inputs = reference.tensors(weights), [reference.tensors(batch) for batch in batches]
    found = [reference.decides(tensors, batch) for batch in inputs]
    for index in range(len(found[0])):
        _, places, bias = found[0][index]
        if bias is None:
            continue
        shifts = channel_shifts([one[index][0] for one in found], places)
        if shifts.any():
            weights[bias] += shifts
            tensors[bias] = reference.tensors([weights[bias]])[0]
            found = [reference.decides(tensors, batch) for batch in inputs]
    return weights


def _jolted(weights: Sequence[Array], generator: np.random.Generator) -> list[Array]:
    return [np.asarray(w * (1 + _JOLT * generator.choice([-1, 1], w.shape)), np.float32) for w in weights]


def _jump(reference: Reference, weights: Sequence[Array], batch: Batch, generator: np.random.Generator) -> float:
    """Return the largest of ``_jumps``; infinite where a gradient is not finite, or a step may be infinite."""
    worst = float(np.max(_jumps(reference, weights, batch, generator)))
    return worst if np.isfinite(worst) else np.inf


def _jumps(reference: Reference, weights: Sequence[Array], batch: Batch, generator: np.random.Generator) -> Array:
    """Return by tensor how much its gradient changes under rounding errors, relative to its largest element."""
    before = reference.gradients(weights, batch)
    largest = float(np.max([np.abs(part).max() for part in before]))  # max() would pass over NaN
    if not largest <= _OVERFLOWING:
        return np.full(len(before), np.inf)
    floor, worst = 1e-2 * max(1.0, largest), np.zeros(len(before))
    for _ in range(_JOLTS):
        after = reference.gradients(_jolted(weights, generator), batch)
        pairs = zip(before, after, strict=True)
        worst = np.maximum(worst, [np.abs(b - a).max() / max(np.abs(b).max(), floor) for b, a in pairs])
        if not worst.max() <= STEADY:
            break
    return worst


def _several_steps(
    reference: Reference,
    weights: Sequence[Array],
    steps: Sequence[Batch],
    values: dict[str, float],
    generator: np.random.Generator,
) -> dict[str, Array]:
    """Return the inputs of several steps, what comes out, and how much that changes under rounding errors.

    The learning rate is the first one at which it does not, or else the last.
    """
    for rate in _RATES:
        values = values | {"lr": rate}
        losses, after = reference.train(weights, steps, values)
        jumps = np.zeros(len(after) + 1)
        for _ in range(_JOLTS):
            other_losses, other = reference.train(_jolted(weights, generator), steps, values)
            pairs = zip([losses, *after], [other_losses, *other], strict=True)
            jumps = np.fmax(jumps, [np.abs(b - a).max() / max(np.abs(a).max(), 1e-2) for a, b in pairs])
        if jumps.max() <= STEADY:
            break
    case = {f"values/{name}": np.array(value, np.float32) for name, value in values.items()}
    return case | {"losses": losses, "weights_after": _flat(after), "losses_jump": jumps[0], "steps_jump": jumps[1:]}


class _Draw:
    """Random weights and batches."""

    def __init__(
        self,
        source: SourceModel,
        learning: Learning,
        program: Program,
        size: int,
        generator: np.random.Generator,
    ) -> None:
        self._source = source
        self._loss = learning.loss
        self._program = program
        self._size = size
        self.generator = generator

    def weights(self) -> list[Array]:
        """Return the model's weights moved off their first values: biases of zero would hide errors."""
        return [self._perturbed(weight.value, positive=not weight.trainable) for weight in self._source.weights]

    def _perturbed(self, value: Array, *, positive: bool) -> Array:
        moved = value + self.generator.normal(0.0, 0.05, value.shape)
        return np.asarray(np.abs(moved) if positive else moved, np.float32)

    def batches(self, names: Sequence[str]) -> dict[str, Batch]:
        """Return the named batches."""
        return {name: self._batch(name) for name in names}

    def _batch(self, name: str) -> Batch:
        mask = np.ones(self._size, np.float32)
        masked = {"masked": max(self._size // 3, 1), "all_masked": self._size}.get(name, 0)
        mask[self._size - masked :] = 0.0
        x, y = [self._input(spec, name) for spec in self._source.inputs], self._labels()
        if max(array[0].size for array in x) >= _FROM:
            # With labels of their own, copies would pull against each other, and rounding errors be what is left.
            x, y = [_repeated(array) for array in x], _repeated(y)
        return [*x, y, mask]

    def _input(self, spec: ModelInput, name: str) -> Array:
        shape = (self._size, *spec.shape)
        if not spec.dtype.startswith("float"):
            whole = self.generator.integers(0, 2 if name == "ties" else self._program.tokens, shape)
            return np.zeros(shape, spec.dtype) if name == "zeros" else whole.astype(spec.dtype)
        if name == "zeros":
            return np.zeros(shape, np.float32)
        if name == "ties":
            return self._whole(shape).astype(np.float32)
        return self.generator.normal(0.0, _LARGE if name == "large" else 1.0, shape).astype(np.float32)

    def _whole(self, shape: tuple[int, ...]) -> Array:
        return self.generator.integers(0, 2, shape)

    def _labels(self) -> Array:
        shape, loss = self._program.label_shape, self._loss
        if loss.sparse:
            return self.generator.integers(0, self._program.classes, shape).astype(np.int32)
        if loss.name == "categorical_crossentropy":
            one_hot: Array = np.eye(shape[-1])[self.generator.integers(0, shape[-1], shape[:-1])]
            return one_hot.astype(np.float32)
        if loss.name == "binary_crossentropy":
            return self._whole(shape).astype(np.float32)
        return self.generator.normal(size=shape).astype(np.float32)


def _repeated(array: Array) -> Array:
    repeated: Array = array[np.arange(len(array)) % _DISTINCT]
    return repeated


def _flat(parts: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in parts])

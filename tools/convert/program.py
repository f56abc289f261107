"""The training program: five functions over one set of variables, ready to become TFLite signatures."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.convert.convolutions import Convolution, Forms
from tools.convert.gradients import override_map, require_plain_layout
from tools.convert.losses import Loss, choose_loss, output_kind
from tools.convert.random_numbers import Randomness
from tools.convert.tf import Function, Graph, Module, Tensor, Variable, tf

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tools.convert.source import SourceModel


_LOWEST = -3.0e38  # below every weight


@dataclass(frozen=True)
class Program:
    """What is to be converted: the module that owns the variables and one function per signature."""

    module: Module
    functions: dict[str, Function]
    x_names: tuple[str, ...]
    label_shape: tuple[int, ...]
    label_dtype: str


def pick_loss(source: SourceModel, name: str | None) -> Loss:
    """Choose the loss from its name and the model's last operation."""
    output = _forward(source).outputs[0]
    return choose_loss(name, output_kind(output), int(output.shape[-1]))


def x_names(source: SourceModel) -> tuple[str, ...]:
    """Signature names of the inputs: ``x``, or ``x_<input name>`` where there are several."""
    single = len(source.inputs) == 1
    return ("x",) if single else tuple(f"x_{spec.name}" for spec in source.inputs)


def input_specs(source: SourceModel, batch_size: int) -> list[Tensor]:
    """Return one tf.TensorSpec per input, batch fixed."""
    named = zip(x_names(source), source.inputs, strict=True)
    return [tf.TensorSpec([batch_size, *spec.shape], spec.dtype, name=name) for name, spec in named]


def build_program(source: SourceModel, loss: Loss, batch_size: int, forms: Forms) -> Program:
    """Write set_weights, get_weights, train, evaluate and infer, convolutions in the given forms."""
    names = x_names(source)
    xs = input_specs(source, batch_size)
    forward = _forward(source, batch_size)
    require_plain_layout(forward)
    output = forward.outputs[0]
    label_shape = tuple(output.shape.as_list()[:-1] if loss.sparse else output.shape.as_list())
    label_dtype = "int32" if loss.sparse else "float32"
    batch = [
        *xs,
        tf.TensorSpec(label_shape, label_dtype, name="y"),
        tf.TensorSpec([batch_size], tf.float32, name="mask"),
    ]
    one = [tf.TensorSpec([1], tf.float32, name=name) for name in ("lr", "mu")]
    if source.draws:
        one.append(tf.TensorSpec([1], tf.int32, name="seed"))
    steps = _Steps(source, loss, forms)
    flat = tf.TensorSpec([sum(weight.value.size for weight in source.weights)], tf.float32, name="weights")
    functions = {
        "set_weights": tf.function(steps.set_weights, input_signature=[flat]),
        "get_weights": tf.function(steps.get_weights, input_signature=[]),
        "train": tf.function(steps.train, input_signature=[*batch, *one]),
        "evaluate": tf.function(steps.evaluate, input_signature=batch),
        "infer": tf.function(steps.infer, input_signature=xs),
    }
    return Program(steps.module, functions, names, label_shape, label_dtype)


class _Store:
    """Weights that live in the runtime: per tensor a variable, and one for where training started."""

    def __init__(self, source: SourceModel) -> None:
        self._shapes = [weight.value.shape for weight in source.weights]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.parameters = sum(self._sizes)
        self._variables = [tf.Variable(tf.zeros(shape), name=f"weight_{i}") for i, shape in enumerate(self._shapes)]
        self._anchors = [
            tf.Variable(tf.zeros(shape), name=f"anchor_{i}") if weight.trainable else None
            for i, (shape, weight) in enumerate(zip(self._shapes, source.weights, strict=True))
        ]
        self._step: Variable = tf.Variable(tf.zeros([1]), name="step") if source.draws else None
        self.module = tf.Module()
        steps = [self._step] if source.draws else []
        self.module.variables_in_use = [
            *self._variables,
            *(anchor for anchor in self._anchors if anchor is not None),
            *steps,
        ]

    def read(self) -> list[Tensor]:
        return [tf.convert_to_tensor(variable) for variable in self._variables]

    def write(self, index: int, value: Tensor) -> None:
        self._variables[index].assign(value)

    def randomness(self, seed: Tensor) -> Randomness:
        """Return the numbers of this training step; each step after ``start`` has others."""
        step = tf.convert_to_tensor(self._step)
        self._step.assign(step + 1.0)
        # Whole numbers of 24 bits are exact in f32.
        return Randomness(tf.cast(tf.math.floormod(seed, 1 << 24), tf.float32), step)

    def start(self, flat: Tensor) -> None:
        if self._step is not None:
            self._step.assign(tf.zeros([1]))
        places = zip(self._sizes, itertools.accumulate(self._sizes), self._shapes, self._anchors, strict=True)
        for index, (size, end, shape, anchor) in enumerate(places):
            part = tf.reshape(flat[end - size : end], shape)
            self.write(index, part)
            if anchor is not None:
                anchor.assign(part)

    def anchor(self, index: int) -> Tensor:
        """Return the trainable tensor as it was when training started."""
        return tf.convert_to_tensor(self._anchors[index])


class _Steps:
    """The bodies of the five functions."""

    def __init__(self, source: SourceModel, loss: Loss, forms: Forms) -> None:
        self._source = source
        self._loss = loss
        self._forms = forms
        self._store = _Store(source)
        self.module = self._store.module

    def set_weights(self, weights: Tensor) -> dict[str, Tensor]:
        self._store.start(weights)
        return {"count": tf.constant([self._store.parameters], tf.int32)}

    def get_weights(self) -> dict[str, Tensor]:
        return {"weights": tf.concat([tf.reshape(weight, [-1]) for weight in self._store.read()], axis=0)}

    def train(self, *arguments: Tensor) -> dict[str, Tensor]:
        arguments, seed = (arguments[:-1], arguments[-1]) if self._source.draws else (arguments, None)
        *x, y, mask, rate, mu = arguments
        weights = self._store.read()
        randomness = None if seed is None else self._store.randomness(seed)
        with tf.compat.v1.get_default_graph().gradient_override_map(override_map()):
            output, moved = self._source.call(weights, x, training=True, randomness=randomness, forms=self._forms)
            losses = self._loss.per_example(y, output) * mask
            loss = tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(mask), 1.0)
            # Scaled where it starts, the gradient is the step: no further pass over the weights. GradientTape would
            # ignore the override map.
            nothing = tf.UnconnectedGradients.ZERO
            steps = tf.gradients(loss, weights, grad_ys=-tf.reshape(rate, []), unconnected_gradients=nothing)
        pull = rate * mu
        places = zip(self._source.weights, weights, steps, moved, strict=True)
        for index, (weight, before, step, after) in enumerate(places):
            if weight.trainable:
                # An embedding's gradient is sparse.
                step_and_pull = tf.convert_to_tensor(step) + pull * (self._store.anchor(index) - before)
                self._store.write(index, before + step_and_pull)
            else:
                self._store.write(index, after)
        return {"loss": tf.reshape(loss, [1])}

    def evaluate(self, *batch: Tensor) -> dict[str, Tensor]:
        *x, y, mask = batch
        output, _ = self._source.call(self._store.read(), x, training=False, forms=self._forms)
        sums = {
            "loss_sum": self._loss.per_example(y, output) * mask,
            "metric_sum": self._loss.metric_per_example(y, output) * mask,
            "count": mask,
        }
        return {name: tf.reshape(tf.reduce_sum(values), [1]) for name, values in sums.items()}

    def infer(self, *x: Tensor) -> dict[str, Tensor]:
        return {"y": self._source.call(self._store.read(), x, training=False, forms=self._forms)[0]}


def build_inference(
    source: SourceModel, weights: Sequence[NDArray[np.float32]], kept_apart: Collection[int] = ()
) -> Function:
    """Return the function of the signature ``infer``, batch 1, with the given weights as constants.

    The converter folds constants into each other, such as batch normalisation into a convolution. A weight
    whose index is in ``kept_apart`` goes through a maximum with something that is always lower but not a
    constant, so that its values stay in the file as they are.
    """

    def infer(*x: Tensor) -> dict[str, Tensor]:
        low = tf.minimum(tf.reshape(tf.cast(x[0], tf.float32), [-1])[:1], _LOWEST)
        values = [tf.constant(weight) for weight in weights]
        values = [tf.maximum(value, low) if index in kept_apart else value for index, value in enumerate(values)]
        return {"y": source.call(values, x, training=False)[0]}

    return tf.function(infer, input_signature=input_specs(source, 1))


def convolutions(source: SourceModel, batch_size: int) -> list[Convolution]:
    """Return the geometry of every convolution of the model, in its order."""
    forms = Forms()
    _forward(source, batch_size, forms)
    return list(forms.asked)


def _forward(source: SourceModel, batch_size: int = 1, forms: Forms | None = None) -> Graph:
    """Trace the model, for its operations and the shape of its output."""

    def call(*x: Tensor) -> Tensor:
        return source.call([tf.constant(weight.value) for weight in source.weights], x, training=False, forms=forms)[0]

    return tf.function(call, input_signature=input_specs(source, batch_size)).get_concrete_function().graph

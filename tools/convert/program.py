"""The training program: five functions over one set of variables, ready to become TFLite signatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.convert.convolutions import Convolution, Forms
from tools.convert.gradients import override_map, require_plain_layout
from tools.convert.losses import Loss, LossOptions, choose_loss, output_kind
from tools.convert.optimizers import Optimizer, Step, clipped, train_inputs
from tools.convert.random_numbers import Randomness
from tools.convert.replay import Manner
from tools.convert.store import Store
from tools.convert.tf import Function, Graph, Module, Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from shared.bundle import TrainInput
    from tools.convert.source import SourceModel


_LOWEST = -3.0e38  # below every weight


@dataclass(frozen=True)
class Program:
    """What is to be converted: the module that owns the variables and one function per signature."""

    module: Module
    functions: dict[str, Function]
    train_inputs: tuple[TrainInput, ...]
    x_names: tuple[str, ...]
    label_shape: tuple[int, ...]
    label_dtype: str
    classes: int  # the size of the output's last dimension
    tokens: int  # how many different whole numbers an integer input may hold: rows of the smallest table


@dataclass(frozen=True)
class Learning:
    """What a training step does: the loss, the optimizer, and the bound on gradients (None: none)."""

    loss: Loss
    optimizer: Optimizer
    max_gradient_norm: float | None = None


def pick_loss(source: SourceModel, options: LossOptions) -> Loss:
    """Choose the loss from its name and the model's last operation."""
    output = _forward(source).outputs[0]
    return choose_loss(options, output_kind(output), int(output.shape[-1]))


def x_names(source: SourceModel) -> tuple[str, ...]:
    """Signature names of the inputs: ``x``, or ``x_<input name>`` where there are several."""
    single = len(source.inputs) == 1
    return ("x",) if single else tuple(f"x_{spec.name}" for spec in source.inputs)


def input_specs(source: SourceModel, batch_size: int) -> list[Tensor]:
    """Return one tf.TensorSpec per input, batch fixed."""
    named = zip(x_names(source), source.inputs, strict=True)
    return [tf.TensorSpec([batch_size, *spec.shape], spec.dtype, name=name) for name, spec in named]


def build_program(
    source: SourceModel, learning: Learning, batch_size: int, forms: Forms, largest_piece: int | None = None
) -> Program:
    """Write set_weights, get_weights, train, evaluate and infer.

    Convolutions are in the given forms, and the weights in pieces of at most ``largest_piece`` elements (``store``).
    """
    names = x_names(source)
    xs = input_specs(source, batch_size)
    forward = _forward(source, batch_size)
    require_plain_layout(forward)
    output = forward.outputs[0]
    sparse = learning.loss.sparse
    label_shape = tuple(output.shape.as_list()[:-1] if sparse else output.shape.as_list())
    label_dtype = "int32" if sparse else "float32"
    batch = [
        *xs,
        tf.TensorSpec(label_shape, label_dtype, name="y"),
        tf.TensorSpec([batch_size], tf.float32, name="mask"),
    ]
    inputs = train_inputs(learning.optimizer, learning.max_gradient_norm, draws=source.draws)
    further = [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in inputs]
    steps = _Steps(source, learning, forms, [spec.name for spec in inputs], largest_piece)
    flat = tf.TensorSpec([sum(weight.value.size for weight in source.weights)], tf.float32, name="weights")
    # Without AutoGraph errors come out as they were raised.
    bodies = {
        "set_weights": (steps.set_weights, [flat]),
        "get_weights": (steps.get_weights, []),
        "train": (steps.train, [*batch, *further]),
        "evaluate": (steps.evaluate, batch),
        "infer": (steps.infer, xs),
    }
    functions = {
        name: tf.function(body, input_signature=signature, autograph=False)
        for name, (body, signature) in bodies.items()
    }
    classes = int(output.shape[-1])
    return Program(steps.module, functions, inputs, names, label_shape, label_dtype, classes, _tokens(forward))


def _tokens(forward: Graph) -> int:
    """Return the rows of the smallest table that is looked up in; 2 if there is none, which any meaning allows."""
    tables = [op.inputs[0].shape for op in forward.get_operations() if op.type == "GatherV2"]
    rows = [int(shape[0]) for shape in tables if shape.rank == 2]
    return min(rows, default=2)


class _Steps:
    """The bodies of the five functions."""

    def __init__(
        self,
        source: SourceModel,
        learning: Learning,
        forms: Forms,
        inputs: Sequence[str],
        largest_piece: int | None,
    ) -> None:
        self._source = source
        self._loss = learning.loss
        self._optimizer = learning.optimizer
        self._forms = forms
        self._inputs = inputs
        self._store = Store(source, learning.optimizer, largest_piece)
        self.module = self._store.module

    def set_weights(self, weights: Tensor) -> dict[str, Tensor]:
        self._store.start(weights)
        return {"count": tf.constant([self._store.parameters], tf.int32)}

    def get_weights(self) -> dict[str, Tensor]:
        return {"weights": self._store.flat()}

    def train(self, *arguments: Tensor) -> dict[str, Tensor]:
        values = dict(zip(self._inputs, arguments[-len(self._inputs) :], strict=True))
        weights, step = self._store.read(), self._store.count()
        # Scaled where it starts, the gradient is the step: no further pass over the weights.
        slope = -values["lr"] if self._optimizer.scaled else tf.ones([1])
        batch = arguments[: -len(self._inputs)]
        loss, gradients, moved = self._differentiated(weights, batch, self._randomness(values, step), slope)
        if "max_gradient_norm" in values:
            bound = values["max_gradient_norm"] * tf.abs(slope)
            gradients = dict(zip(gradients, clipped(list(gradients.values()), bound), strict=True))
        number = None if step is None else step + 1.0
        for index, pieces in enumerate(self._store.pieces):
            for piece in pieces:
                if index not in gradients:
                    piece.variable.assign(piece.of(moved[index]))
                    continue
                # Read again: no piece waits in memory for its turn.
                before = weights[index] if piece.whole else tf.convert_to_tensor(piece.variable)
                slots = [tf.convert_to_tensor(slot) for slot in piece.slots]
                anchor = tf.convert_to_tensor(piece.anchor)
                one = Step(piece.of(gradients[index]), before, anchor, slots, values, number)
                moved_to, remembered = self._optimizer.move(one)
                for variable, value in zip([piece.variable, *piece.slots], [moved_to, *remembered], strict=True):
                    # A scalar became f32[1] beside the inputs of the step.
                    variable.assign(value if variable.shape.rank else tf.reshape(value, []))
        return {"loss": tf.reshape(loss, [1])}

    def _randomness(self, values: Mapping[str, Tensor], step: Tensor | None) -> Randomness | None:
        if not self._source.draws:
            return None
        # Whole numbers of 24 bits are exact in f32.
        return Randomness(tf.cast(tf.math.floormod(values["seed"], 1 << 24), tf.float32), step)

    def _differentiated(
        self, weights: Sequence[Tensor], batch: Sequence[Tensor], randomness: Randomness | None, slope: Tensor
    ) -> tuple[Tensor, dict[int, Tensor], Sequence[Tensor]]:
        """Return the loss, ``slope`` times its gradient by index of trained tensors, and all weights as moved."""
        *x, y, mask = batch
        trained = [index for index, weight in enumerate(self._source.weights) if weight.trainable]
        with tf.compat.v1.get_default_graph().gradient_override_map(override_map()):
            manner = Manner(randomness, self._forms, penalties=[])
            output, moved = self._source.call(weights, x, training=True, manner=manner)
            losses = self._loss.weighted(y, self._loss.elementwise(y, output)) * mask
            loss = tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(mask), 1.0)
            loss = tf.add_n([loss, *manner.penalties]) if manner.penalties else loss
            # GradientTape would ignore the override map.
            found = tf.gradients(
                loss,
                [weights[index] for index in trained],
                grad_ys=tf.reshape(slope, []),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        # An embedding's gradient is sparse.
        return loss, dict(zip(trained, map(tf.convert_to_tensor, found), strict=True)), moved

    def evaluate(self, *batch: Tensor) -> dict[str, Tensor]:
        *x, y, mask = batch
        output, _ = self._source.call(self._store.read(), x, training=False, manner=Manner(forms=self._forms))
        sums = {
            "loss_sum": self._loss.per_example(y, output) * mask,
            "metric_sum": self._loss.metric_per_example(y, output) * mask,
            "count": mask,
        }
        return {name: tf.reshape(tf.reduce_sum(values), [1]) for name, values in sums.items()}

    def infer(self, *x: Tensor) -> dict[str, Tensor]:
        return {"y": self._source.call(self._store.read(), x, training=False, manner=Manner(forms=self._forms))[0]}


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
        # A scalar has no dimension that could be broadcast.
        values = [
            tf.maximum(value, low if value.shape.rank else tf.reshape(low, [])) if index in kept_apart else value
            for index, value in enumerate(values)
        ]
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
        weights = [tf.constant(weight.value) for weight in source.weights]
        return source.call(weights, x, training=False, manner=Manner(forms=forms))[0]

    return tf.function(call, input_signature=input_specs(source, batch_size)).get_concrete_function().graph

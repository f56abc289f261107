"""Write a traced model again, operation by operation, with what TFLite can train.

Every model, whether Keras traced it or a SavedModel brought it, is a graph. Replaying it into the training program
gives each operation to one of three hands: a *replacement* forward form (``REPLACEMENTS``), the folding of what is
already known (shapes, loop counters), or a plain copy whose gradient is lowered where ``gradients.LOWERINGS`` has one.
Calls are replayed in place. Loops whose length is known are unrolled, with tensor lists as Python lists, so that
rolled recurrent layers become plain operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import BundleError
from tools.convert.convolutions import Forms
from tools.convert.emit import layer_of
from tools.convert.forms import REPLACEMENTS
from tools.convert.kinks import KINKS, Kink
from tools.convert.random_numbers import DRAWS, OTHER_DRAWS, Randomness
from tools.convert.reorder import REORDERED
from tools.convert.tf import Graph, Operation, Tensor, function_def_to_graph, tf

Value: TypeAlias = Any  # a Tensor, or a tuple of tensors that stands for a tensor list

MAX_ITERATIONS = 2048  # of one loop; each becomes operations of its own
_MAX_FOLDED = 4096  # elements: shapes and counters are small, weights are not
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf")
# Fourier transforms of complex numbers, which the converter takes for those of real ones.
_TRANSFORMS = tuple(f"{way}FFT{rank}" for way in ("", "I") for rank in ("", "2D", "3D", "ND"))


@dataclass(frozen=True)
class Manner:
    """How a model is written.

    Attributes:
        randomness: where layers draw from; None for a pass that must not draw.
        forms: how to write convolutions; None to leave them as they are.
        kinks: gets what decides on which side of a kink each value lies; None if nobody asks.
        penalties: gets what layers add to the loss (regularizers, ``add_loss``), scalars; None if nobody asks.
    """

    randomness: Randomness | None = None
    forms: Forms | None = None
    kinks: list[Kink] | None = None
    penalties: list[Tensor] | None = None


PLAIN = Manner()


def replay(graph: Graph, places: Mapping[str, Tensor], outputs: Sequence[Tensor], manner: Manner) -> list[Tensor]:
    """Write ``outputs`` of ``graph`` into the graph being built and return them there.

    Args:
        graph: the traced model.
        places: what to put in the place of tensors of ``graph``, by their names ("x:0").
        outputs: tensors of ``graph``.
        manner: how to write them.

    Raises:
        BundleError: "convert-control-flow" for a loop or branch that depends on data, "convert-random-layer".
    """
    library = {function.signature.name: function for function in graph.as_graph_def().library.function}
    return _Replay(library, manner, {}).run(graph, dict(places), outputs)


@dataclass
class _Replay:
    library: Mapping[str, Any]
    manner: Manner
    graphs: dict[str, Graph]
    known: dict[int, NDArray[Any]] = field(default_factory=dict)  # values of small tensors, by id
    kept: list[Tensor] = field(default_factory=list)  # keeps ids of ``known`` from being used again

    def run(self, graph: Graph, values: dict[str, Value], outputs: Sequence[Tensor]) -> list[Value]:
        for op in _needed(graph, values, outputs):
            results = [self._draw(op)] if op.type in DRAWS else self._one(op, [values[t.name] for t in op.inputs])
            values.update(zip((tensor.name for tensor in op.outputs), results, strict=True))
        return [values[tensor.name] for tensor in outputs]

    def _one(self, op: Operation, inputs: list[Value]) -> Sequence[Value]:
        kind = op.type
        if kind in _CALLS:
            return self._call(op.get_attr("f").name, inputs)
        if kind in _LOOPS:
            return self._loop(op, inputs)
        if kind in _BRANCHES:
            taken = "then_branch" if self._static(op, inputs[0]) else "else_branch"
            return self._call(op.get_attr(taken).name, inputs[1:])
        if kind == "Identity" and isinstance(inputs[0], tuple):
            return inputs
        return [_LISTS[kind](self, op, *inputs)] if kind in _LISTS else self._plain(op, inputs)

    def _plain(self, op: Operation, inputs: list[Value]) -> Sequence[Tensor]:
        if op.type in OTHER_DRAWS:
            raise BundleError(
                "convert-random-layer",
                f"layer {layer_of(op.name)} draws numbers in a way that devices do not have ({op.type})",
                "use Dropout, GaussianNoise, GaussianDropout or RandomFlip, or change the examples before training",
            )
        if op.type in _TRANSFORMS:
            raise BundleError(
                "convert-unsupported-op",
                f"layer {layer_of(op.name)}: TFLite has no builtin operator for {op.type}",
                "use tf.signal.rfft or a layer such as MelSpectrogram, or transform the examples before training",
            )
        if (folded := self._folded(op, inputs)) is not None:
            return [self._constant(value) for value in folded]
        if self.manner.kinks is not None and op.type in KINKS:
            self.manner.kinks.append(KINKS[op.type](op, inputs))
        replacement = REPLACEMENTS.get(op.type)
        if replacement:
            _require_shapes(op, inputs)
        replacement = replacement or REORDERED.get(op.type)
        replaced = replacement(op, inputs, self.manner.forms) if replacement else None
        return [replaced] if replaced is not None else _copy(op, inputs)

    def _draw(self, op: Operation) -> Tensor:
        layer = layer_of(op.name)
        if self.manner.randomness is None:
            raise BundleError(
                "convert-random-layer", f"layer {layer} draws random numbers where it may not", "remove the layer"
            )
        shape = op.outputs[0].shape
        if not shape.is_fully_defined():
            raise _data_dependent(op, "the shape of its random numbers")
        return self.manner.randomness.draw(DRAWS[op.type], shape.as_list())

    def _graph(self, name: str) -> Graph:
        if name not in self.graphs:
            self.graphs[name] = function_def_to_graph(self.library[name])
        return self.graphs[name]

    def _call(self, name: str, inputs: Sequence[Value]) -> list[Value]:
        called = self._graph(name)
        places = {tensor.name: value for tensor, value in zip(called.inputs, inputs, strict=True)}
        return self.run(called, places, called.outputs)

    def _loop(self, op: Operation, values: list[Value]) -> list[Value]:
        condition, body = (op.get_attr(name).name for name in ("cond", "body"))
        for _ in range(MAX_ITERATIONS):
            if not self._static(op, self._call(condition, values)[0]):
                return values
            values = self._call(body, values)
        raise BundleError(
            "convert-control-flow",
            f"layer {layer_of(op.name)} loops more than {MAX_ITERATIONS} times",
            "give the model shorter sequences",
        )

    def _static(self, op: Operation, tensor: Tensor) -> NDArray[Any]:
        if id(tensor) not in self.known:
            raise _data_dependent(op, "whether or how often a part of it runs")
        return self.known[id(tensor)]

    def static(self, op: Operation, tensor: Tensor) -> int:
        """Return a whole number that must be known before the program runs."""
        return int(self._static(op, tensor).reshape(-1)[0])

    def _constant(self, value: NDArray[Any]) -> Tensor:
        tensor = tf.constant(value)
        self.known[id(tensor)] = value
        self.kept.append(tensor)
        return tensor

    def _folded(self, op: Operation, inputs: list[Value]) -> list[NDArray[Any]] | None:
        """Return the outputs where they follow from shapes and constants alone."""
        if op.type == "Const":
            value = tf.make_ndarray(op.get_attr("value"))
            return [value] if value.size <= _MAX_FOLDED and value.dtype != object else None
        if op.type in _OF_SHAPE and inputs[0].shape.is_fully_defined():
            sizes = np.array(inputs[0].shape.as_list())
            return [np.asarray(_OF_SHAPE[op.type](sizes), op.outputs[0].dtype.as_numpy_dtype)]
        if not inputs or any(isinstance(value, tuple) or id(value) not in self.known for value in inputs):
            return None
        arrays = _computed(op, [self.known[id(value)] for value in inputs])
        return arrays if all(array.size <= _MAX_FOLDED for array in arrays) else None


_OF_SHAPE: dict[str, Callable[[NDArray[Any]], Any]] = {"Shape": lambda s: s, "Size": np.prod, "Rank": len}


def _needed(graph: Graph, values: Mapping[str, Value], outputs: Sequence[Tensor]) -> list[Operation]:
    """Return the operations that ``outputs`` depend on, each after its inputs; random draws need no inputs."""
    needed: set[str] = set()
    waiting = [tensor for tensor in outputs if tensor.name not in values]
    while waiting:
        op = waiting.pop().op
        if op.name not in needed:
            needed.add(op.name)
            waiting += [t for t in ([] if op.type in DRAWS else op.inputs) if t.name not in values]
    return [op for op in graph.get_operations() if op.name in needed]


def _copy(op: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Write the same operation for other inputs; a gradient override map that is in force applies to it."""
    if any(isinstance(value, tuple) for value in inputs):
        raise BundleError(
            "convert-unsupported-op",
            f"layer {layer_of(op.name)} keeps a list of tensors in a way that cannot be unrolled ({op.type})",
            "build the layer with unroll=True, or stack its outputs",
        )
    copied = tf.compat.v1.get_default_graph().create_op(
        op.type,
        list(inputs),
        [tensor.dtype for tensor in op.outputs],
        attrs={name: value for name, value in op.node_def.attr.items() if not name.startswith("_")},
        op_def=op.op_def,
        name=op.name,
    )
    return list(copied.outputs)


def _require_shapes(op: Operation, inputs: Sequence[Value]) -> None:
    """Refuse to write anew what has inputs of unknown shapes, and name where the first of them comes from."""
    unknown = next((tensor for tensor in inputs if not tensor.shape.is_fully_defined()), None)
    if unknown is None:
        return
    while cause := next((t for t in unknown.op.inputs if not t.shape.is_fully_defined()), None):
        unknown = cause
    made = unknown.op if unknown.op.type != "Placeholder" else op
    raise _data_dependent(made, f"the shape of what {made.type} returns")


def _computed(op: Operation, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the outputs for known inputs, remembered: every pass over an unrolled loop asks for the same sums."""
    attributes = tuple((name, value.SerializeToString()) for name, value in sorted(op.node_def.attr.items()))
    key = (op.type, attributes, *((array.dtype.str, array.shape, array.tobytes()) for array in inputs))
    if key not in _REMEMBERED:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            found = session.run(_copy(op, [tf.constant(value) for value in inputs]))
        _REMEMBERED[key] = [np.asarray(value) for value in found]
    return _REMEMBERED[key]


_REMEMBERED: dict[tuple[object, ...], list[NDArray[Any]]] = {}


def _data_dependent(op: Operation, what: str) -> BundleError:
    return BundleError(
        "convert-control-flow",
        f"layer {layer_of(op.name)}: {what} depends on the data",
        "give inputs a fixed length, and choose with masks instead of branches",
    )


def _reserve(replaying: _Replay, op: Operation, _shape: Tensor, count: Tensor) -> tuple[Value, ...]:
    return (None,) * replaying.static(op, count)


def _with_item(replaying: _Replay, op: Operation, items: Value, index: Tensor, item: Tensor) -> tuple[Value, ...]:
    place = replaying.static(op, index)
    return (*items[:place], item, *items[place + 1 :])


def _item(replaying: _Replay, op: Operation, items: Value, index: Tensor, _shape: Tensor) -> Tensor:
    found = items[replaying.static(op, index)]
    return tf.zeros(op.outputs[0].shape, op.outputs[0].dtype) if found is None else found


_LISTS: dict[str, Callable[..., Value]] = {
    "TensorListReserve": _reserve,
    "TensorListFromTensor": lambda _r, _op, tensor, _shape: tuple(tf.unstack(tensor)),
    "TensorListSetItem": _with_item,
    "TensorListGetItem": _item,
    "TensorListStack": lambda _r, _op, items, _shape: tf.stack(items),
}

"""Find the model: a ``.keras`` file, a SavedModel folder, or ``package.module:factory``.

All three become a ``SourceModel``: named inputs, named weights and a pure function of weights and inputs, which
replays the model's graph in the forms that TFLite can train.
"""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from shared.errors import BundleError
from tools.convert.boundary import naming
from tools.convert.random_numbers import DRAWS
from tools.convert.reads import weights_read
from tools.convert.refusals import (
    require_float32,
    require_inputs,
    require_model,
    require_trained,
    require_unbound,
)
from tools.convert.replay import PLAIN, Manner, replay
from tools.convert.tf import Function, Graph, KerasModel, Operation, Tensor, Variable, freeze, keras, tf

if TYPE_CHECKING:
    from numpy.typing import NDArray


_OLD_FILES = (".h5", ".hdf5")


class Call(Protocol):
    """The model as a pure function; see ``SourceModel``."""

    def __call__(
        self,
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,
        manner: Manner = PLAIN,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the output and the weights as the call leaves them."""
        ...


@dataclass(frozen=True)
class ModelInput:
    """One input: name, shape without the batch, TensorFlow dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weight:
    """One float variable of the model and its value in the source.

    Training ``moves`` it unless it is frozen: trained weights, and moments of batch norm.
    """

    path: str
    value: NDArray[np.float32]
    trainable: bool
    moves: bool


@dataclass(frozen=True)
class SourceModel:
    """A model to convert.

    ``call(weights, inputs, training)`` returns the one output, batch first, and the weights as the call
    leaves them (batch norm moves its moments); it touches no state. ``reference`` is what TensorFlow itself
    makes of the model; only the training pass of one that ``draws`` is replayed too, to draw the same numbers.
    """

    name: str
    inputs: tuple[ModelInput, ...]
    weights: tuple[Weight, ...]
    call: Call
    reference: Call
    draws: bool


def load_source(source: str) -> SourceModel:
    """Load SRC as described above.

    Raises:
        BundleError: "convert-source" if there is no model, "convert-trace" if its code fails, "convert-dynamic-shape",
            "convert-inputs", "convert-outputs", "convert-dtype" or "convert-tensors" if it cannot have a fixed training
            program.
    """
    keras.backend.clear_session()
    loaded = _loaded(source)
    require_trained(loaded.weights, loaded.name)
    return loaded


def _loaded(source: str) -> SourceModel:
    path = Path(source)
    if (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if path.suffix == ".keras" and path.is_file():
        return _keras(_read_keras(path), path.stem)
    if path.suffix in _OLD_FILES and path.is_file():
        raise _no_model(
            source,
            "it is an HDF5 file, not a .keras file",
            "load it where it was made, and save it again: model.save('model.keras')",
        )
    if ":" in source and not path.exists():
        model = _made(source)
        return _keras(model, model.name)
    kinds = "it is no .keras file, no SavedModel folder and no package.module:factory"
    raise _no_model(source, kinds if path.exists() else f"there is no such file, and {kinds}")


def load_keras(source: str) -> KerasModel:
    """Return the Keras model itself, of a ``.keras`` file or a factory.

    Raises:
        BundleError: "convert-source".
    """
    keras.backend.clear_session()
    path = Path(source)
    if path.suffix == ".keras" and path.is_file():
        return _read_keras(path)
    if ":" in source and not path.exists():
        return _made(source)
    raise _no_model(source, "it is no .keras file and no package.module:factory")


def _made(source: str) -> KerasModel:
    factory = load_object(source, "convert-source")
    module, _, attribute = source.partition(":")
    see = f'python -c "import {module}; {module}.{attribute}()" shows where'
    with naming("convert-source", f"{source} failed to make a model", see):
        model = factory()
    if not isinstance(model, keras.Model):
        raise _no_model(source, f"the factory returned {type(model).__name__}, expected a keras.Model")
    return model


def load_object(name: str, code: str) -> Callable[..., object]:
    """Import ``package.module:attribute``, the current folder included; raises BundleError with ``code``."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with naming(code, f"cannot import {name}", "give package.module:function"):
        found = getattr(importlib.import_module(module_name), attribute)
    if not callable(found):
        raise BundleError(code, f"{name} is {type(found).__name__}, not a function", "give package.module:function")
    return cast("Callable[..., object]", found)


def _no_model(source: str, why: str, remedy: str = "see `fedloom convert --help` for what is accepted") -> BundleError:
    return BundleError("convert-source", f"{source} is not a model: {why}", remedy)


def _read_keras(path: Path) -> KerasModel:
    if not zipfile.is_zipfile(path):
        raise _no_model(str(path), "it is no Keras file, whatever its name says", "write it with model.save(FILE)")
    with naming("convert-source", f"{path} is not a model", "see `fedloom convert --help` for what is accepted"):
        return keras.saving.load_model(path, compile=False)


def _keras(model: KerasModel, name: str) -> SourceModel:
    require_model(model, name)
    inputs = [
        _fixed(tensor.name, tensor.shape[1:], keras.backend.standardize_dtype(tensor.dtype)) for tensor in model.inputs
    ]
    require_inputs(inputs)
    require_unbound(model, name)
    floats = [variable for variable in model.variables if "float" in variable.dtype and 0 not in tuple(variable.shape)]
    with naming("convert-trace", f"{name} cannot be traced", "build its layers from TensorFlow operations"):
        graphs = _both(_stateless(model, floats), floats, inputs)
        read = weights_read(graphs, len(floats))
        frozen = [not floats[index].trainable and _passed_on(graphs[0], index) for index in read]
        floats = [floats[index] for index in read]
    weights = [
        Weight(variable.path, np.asarray(variable.numpy(), np.float32), bool(variable.trainable), moves=not still)
        for variable, still in zip(floats, frozen, strict=True)
    ]
    original = _stateless(model, floats)
    call, draws = _replayed(original), _draws(graphs[0])
    reference = _drawing_alike(original, call) if draws else original
    return SourceModel(name, tuple(inputs), tuple(weights), call, reference, draws)


def _both(original: Call, floats: Sequence[Variable], inputs: Sequence[ModelInput]) -> list[Graph]:
    """Return the graphs of a training pass and of an inference pass over one example."""
    batched = [tf.TensorSpec([1, *spec.shape], spec.dtype) for spec in inputs]
    specs = [tf.TensorSpec(variable.shape, tf.float32) for variable in floats]
    return [_traced(original, specs, batched, training=training) for training in (True, False)]


def _drawing_alike(original: Call, replayed: Call) -> Call:
    """The original, but for its random numbers in training: those can only be the same if it is replayed."""

    def call(
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,
        manner: Manner = PLAIN,
    ) -> tuple[Tensor, list[Tensor]]:
        chosen = replayed if training else original
        return chosen(weights, tensors, training=training, manner=manner)

    return call


def _stateless(model: KerasModel, floats: list[Variable]) -> Call:
    known = {id(variable) for variable in floats}
    others = {id(variable): variable.numpy() for variable in model.variables if id(variable) not in known}

    def call(
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,
        manner: Manner = PLAIN,  # Keras writes and draws by itself
    ) -> tuple[Tensor, list[Tensor]]:
        values = {id(variable): weight for variable, weight in zip(floats, weights, strict=True)}
        given = [
            [
                values[id(variable)] if id(variable) in values else tf.constant(others[id(variable)])
                for variable in group
            ]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        single = len(tensors) == 1 and not isinstance(getattr(model, "input", None), dict)
        arranged = tensors[0] if single else keras.tree.pack_sequence_as(model.input, list(tensors))
        outputs, moved, losses = model.stateless_call(*given, arranged, training=training, return_losses=True)
        if manner.penalties is not None:
            manner.penalties.extend(losses)
        (output,) = keras.tree.flatten(outputs)
        for variable, after in zip(model.non_trainable_variables, moved, strict=True):
            values[id(variable)] = after
        return output, [values[id(variable)] for variable in floats]

    return call


def _traced(original: Call, weights: Sequence[Tensor], tensors: Sequence[Tensor], *, training: bool) -> Graph:
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in (*weights, *tensors)]

    def call(*given: Tensor) -> list[Tensor]:
        manner = Manner(penalties=[])
        output, moved = original(given[: len(weights)], given[len(weights) :], training=training, manner=manner)
        return [output, *moved, *(manner.penalties or [])]

    return tf.function(call, autograph=False).get_concrete_function(*specs).graph


def _passed_on(traced: Graph, index: int) -> bool:
    """Say whether a training step leaves a weight as it is."""
    op: Operation = traced.outputs[1 + index].op
    while op.type == "Identity":
        op = op.inputs[0].op
    return bool(op is traced.inputs[index].op)


def _draws(graph: Graph) -> bool:
    definition = graph.as_graph_def()
    nodes = [definition.node, *(function.node_def for function in definition.library.function)]
    return any(node.op in DRAWS for group in nodes for node in group)


def _replayed(original: Call) -> Call:
    def call(
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,
        manner: Manner = PLAIN,
    ) -> tuple[Tensor, list[Tensor]]:
        graph = _traced(original, weights, tensors, training=training)
        given = [*weights, *tensors, *(outer for outer, _ in graph.captures)]
        places = {inner.name: value for inner, value in zip(graph.inputs, given, strict=True)}
        # An output that is an input comes back through its place.
        wanted = graph.outputs[: 1 + len(weights)] if manner.penalties is None else graph.outputs
        output, *rest = replay(graph, places, wanted, manner)
        if manner.penalties is not None:
            manner.penalties.extend(rest[len(weights) :])
        return output, rest[: len(weights)]

    return call


def _fixed(name: str, shape: Sequence[int | None], dtype: str) -> ModelInput:
    if any(size is None for size in shape):
        raise BundleError(
            "convert-dynamic-shape",
            f"input {name} has shape {[None, *shape]}: only the batch may be open",
            "fix the other sizes, for example keras.Input(shape=(100, 6))",
        )
    return ModelInput(name, tuple(int(size) for size in shape if size is not None), dtype)


def _saved_model(path: Path) -> SourceModel:
    with naming("convert-source", f"{path} cannot be loaded", "export it with model.export(path)"):
        loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default")
    if signature is None or len(signature.outputs) != 1:
        raise BundleError(
            "convert-outputs",
            f"{path} has no signature serving_default with one output",
            "export it with model.export(path)",
        )
    specs = sorted(signature.structured_input_signature[1].items())
    inputs = tuple(_fixed(name, spec.shape.as_list()[1:], spec.dtype.name) for name, spec in specs)
    require_inputs(inputs)
    return _inlined(path.name, signature, inputs)


def _inlined(name: str, signature: Function, inputs: tuple[ModelInput, ...]) -> SourceModel:
    frozen = freeze(signature, lower_control_flow=False)
    # A frozen variable is a constant with the name of the placeholder that stood for the variable.
    present = {op.name for op in frozen.graph.get_operations()}
    handles = {id(variable.handle): variable for variable in signature.variables if variable.dtype.is_floating}
    for variable in handles.values():
        require_float32(f"weight {variable.name} is", variable.dtype.name)
    captures = ((inner.op.name, handles.get(id(outer))) for outer, inner in signature.graph.captures)
    captured = {inner: variable for inner, variable in captures if variable is not None and inner in present}
    places = [*(f"{inner}:0" for inner in captured), *(_place(frozen, spec.name) for spec in inputs)]
    weights = (
        Weight(
            variable.name.split(":")[0],
            np.asarray(variable.numpy(), np.float32),
            bool(variable.trainable),
            moves=bool(variable.trainable),  # a SavedModel has no training pass in which moments would move
        )
        for variable in captured.values()
    )
    output = frozen.outputs[0].name
    imported = _imported(frozen.graph, places, output)
    return SourceModel(name, inputs, tuple(weights), *imported, draws=False)


def _place(frozen: Function, input_name: str) -> str:
    """Return the name of the frozen function's tensor for an input of the signature."""
    names = {tensor.op.name: str(tensor.name) for tensor in frozen.inputs}
    if input_name not in names:
        raise BundleError("convert-inputs", f"input {input_name} is not used by the model", "remove it")
    return names[input_name]


def _imported(graph: Graph, places: list[str], output: str) -> tuple[Call, Call]:
    """Return the graph of a SavedModel, which has one mode, replayed and as it is."""

    def replayed(
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,  # noqa: ARG001
        manner: Manner = PLAIN,
    ) -> tuple[Tensor, list[Tensor]]:
        mapping = dict(zip(places, [*weights, *tensors], strict=True))
        found = replay(graph, mapping, [graph.get_tensor_by_name(output)], manner)
        return found[0], list(weights)

    def original(
        weights: Sequence[Tensor],
        tensors: Sequence[Tensor],
        *,
        training: bool,  # noqa: ARG001
        manner: Manner = PLAIN,  # noqa: ARG001
    ) -> tuple[Tensor, list[Tensor]]:
        mapping = dict(zip(places, [*weights, *tensors], strict=True))
        definition = graph.as_graph_def()
        found = tf.graph_util.import_graph_def(definition, input_map=mapping, return_elements=[output], name="model")
        return found[0], list(weights)

    return replayed, original

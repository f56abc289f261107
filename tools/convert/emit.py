"""From TensorFlow functions to .tflite bytes: builtin operators only, errors that name layer and operation."""

from __future__ import annotations

import re
import tempfile
from typing import TYPE_CHECKING, cast

import flatbuffers

from shared.errors import BundleError
from shared.tflite_file import operators
from tools.convert.boundary import naming
from tools.convert.peephole import without_broadcast_subtractions
from tools.convert.schedule import order_late, read_again
from tools.convert.tf import Function, Module, quiet, schema, tf

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNNAMED = "(unnamed)"
_MOST_LAYERS = 5  # that an error names


def emit_training(module: Module, functions: Mapping[str, Function], *, frugal: bool = False) -> bytes:
    """Convert signatures that keep their weights in resource variables, which start empty.

    A ``frugal`` program rather reads a variable again than keep a copy.
    """
    tree = schema.ModelT.InitFromPackedBuf(_emit(module, functions, variables=True, quantize=False))
    _drop_initializer(tree)
    without_broadcast_subtractions(tree)
    if frugal:
        read_again(tree)
    order_late(tree)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def emit_inference(functions: Mapping[str, Function], *, quantize: bool) -> bytes:
    """Convert signatures with their weights as constants, int8 (dynamic range) if ``quantize``."""
    return _emit(tf.Module(), functions, variables=False, quantize=quantize)


def _emit(module: Module, functions: Mapping[str, Function], *, variables: bool, quantize: bool) -> bytes:
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    with tempfile.TemporaryDirectory(prefix="fedloom-convert-") as folder:
        # With custom gradients saved, every lowered gradient would be traced a second time as a function.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        with naming("convert-failed", "the program cannot be saved", "report this model"):
            tf.saved_model.save(module, folder, signatures=concrete, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(concrete))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = variables
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            # Per-channel dense layers become FULLY_CONNECTED version 12, which tflite-runtime 2.14 refuses.
            name = "_experimental_disable_per_channel_quantization_for_dense_layers"
            setattr(converter, name, True)
        try:
            with quiet():
                return cast("bytes", converter.convert())
        except Exception as error:
            raise _unsupported(str(error), concrete) from error


def _drop_initializer(tree: Module) -> None:
    """Remove the subgraph that fills the variables when the file is loaded, and the values in it.

    TensorFlow always writes it. Weights arrive by ``set_weights``, so it would only double the file's size.
    """
    call_once = schema.BuiltinOperator.CALL_ONCE
    codes = {i for i, code in enumerate(tree.operatorCodes) if code.builtinCode == call_once}
    initializers = set()
    for graph in tree.subgraphs:
        calls = [op for op in graph.operators if op.opcodeIndex in codes]
        initializers |= {op.builtinOptions.initSubgraphIndex for op in calls}
        graph.operators = [op for op in graph.operators if op.opcodeIndex not in codes]
    # The empty subgraph stays: other subgraphs are referred to by their number.
    for graph in (tree.subgraphs[index] for index in initializers):
        graph.operators, graph.tensors, graph.inputs, graph.outputs = [], [], [], []
    used = {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}
    used |= {metadata.buffer for metadata in tree.metadata or []}
    for index, buffer in enumerate(tree.buffers):
        if index not in used:
            buffer.data = None
    _drop_codes(tree, codes)


def _drop_codes(tree: Module, codes: set[int]) -> None:
    kept = [index for index in range(len(tree.operatorCodes)) if index not in codes]
    tree.operatorCodes = [tree.operatorCodes[index] for index in kept]
    for op in (op for graph in tree.subgraphs for op in graph.operators):
        op.opcodeIndex = kept.index(op.opcodeIndex)


def _unsupported(message: str, concrete: Mapping[str, Function]) -> BundleError:
    """Name the operation that has no builtin, and the layer it comes from."""
    listed = re.search(r"(?:Flex|Custom) ops: ([\w, ]+)", message)
    names = listed.group(1).split(", ") if listed else re.findall(r"'tf\.(\w+)' op", message)
    names = sorted({name.strip().removeprefix("Flex") for name in names})
    if not names:
        reason = next((line for line in message.splitlines() if line.strip()), "no message")
        return BundleError("convert-failed", f"TensorFlow's converter failed: {reason[:300]}", "report this model")
    places = "; ".join(f"{name} in layer {_layers(name, message, concrete)}" for name in names)
    return BundleError(
        "convert-unsupported-op",
        f"TFLite has no builtin operator for {places}",
        "replace the layer, or add a lowered gradient to tools/convert/gradients.py",
    )


def _layers(kind: str, message: str, concrete: Mapping[str, Function]) -> str:
    """Return the layers that have the operation: those whose it was if the converter says so, or else all."""
    operations = re.findall(rf'fused\["{kind}:", "([^"@]+)', message)
    graphs = [function.graph for function in concrete.values()]
    operations = operations or [op.name for graph in graphs for op in graph.get_operations() if op.type == kind]
    layers = list(dict.fromkeys(map(layer_of, operations))) or [_UNNAMED]
    if len(layers) > _MOST_LAYERS:
        layers = [*layers[:_MOST_LAYERS], f"{len(layers) - _MOST_LAYERS} others"]
    return " or ".join(filter(None, (", ".join(layers[:-1]), layers[-1])))


def layer_of(operation: str) -> str:
    """Return the layer of an operation: gradients/dense_1/Relu_grad/mul is of dense, as Keras counts calls."""
    scopes = [part for part in operation.split("/")[:-1] if not part.startswith("gradients")]
    if scopes[:1] == ["model"]:  # an imported SavedModel, whose scopes are its author's
        return "/".join(scopes[1:])
    return re.sub(r"_\d+$", "", scopes[0]) if scopes else _UNNAMED


def builtin_names(model: bytes) -> list[str]:
    """Return the sorted names of the operators in a .tflite file."""
    numbers = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
    return sorted({op.custom or str(numbers.get(op.builtin, op.builtin)) for op in operators(model)})

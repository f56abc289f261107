"""The full-integer twin: calibrated on representative examples, and patched like the others without TensorFlow.

Batch norm is folded into its neighbours, so each constant of the float model is explained by a formula of weights
(``shared/full_integer.py``). TensorFlow then quantizes the calibrated model, and each formula's place in the result
is taken over. That patching does exactly what TensorFlow's quantizer does is proven with other weights: patched
bytes must be those of a fresh quantization.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.bundle import INFER_INT8_FILE, Patch, TensorSpec, patch_model
from shared.errors import BundleError
from shared.full_integer import BiasPatch, Fold, constant_values
from shared.tflite_file import FLOAT32, INT8, INT32, Constant, constants
from tools.convert.batch_norms import batch_norms
from tools.convert.embeddings import embedding_tables
from tools.convert.emit import emit_inference
from tools.convert.program import build_inference
from tools.convert.representative import CODE
from tools.convert.tf import Tensor, calibrator, mlir_quantize, quiet, schema
from tools.convert.twins import distinctive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tools.convert.source import SourceModel

F32: TypeAlias = NDArray[np.float32]
_SEEDS = (20160217, 1712)  # of the weights that stand for all others
_CLOSE = np.float32(1e-5)  # relative: TensorFlow folds in f32 and in another order


@dataclass(frozen=True)
class Formula:
    """What a constant of the float model holds."""

    path: str
    order: tuple[int, ...]
    fold: Fold | None


def make_full_integer(
    source: SourceModel, tensors: Sequence[TensorSpec], examples: Mapping[str, NDArray[Any]]
) -> tuple[bytes, list[Patch]]:
    """Return infer_int8.tflite with the model's weights, inputs and outputs float32, and its patches.

    Args:
        source: the model.
        tensors: the manifest's tensors.
        examples: representative inputs by signature name, one array [n, ...] each.

    Raises:
        BundleError: "convert-representative" if the model has a weight that cannot be patched exactly, "bundle-weights"
        if the model's own weights cannot be folded.
    """
    calibrated = calibrate(source, tensors, examples)
    one, other = (distinctive(source, seed) for seed in _SEEDS)
    quantized = calibrated.quantize(one)
    patches = _patches(quantized, calibrated.formulas)
    patched = patch_model(quantized, tuple(patches), _flat(other), tuple(tensors))
    _require_exact(patched, calibrated.quantize(other), calibrated)
    own = _flat([weight.value for weight in source.weights])
    return patch_model(quantized, tuple(patches), own, tuple(tensors)), patches


@dataclass(frozen=True)
class Calibrated:
    """The float model with the ranges of its activations, and what each of its constants holds, by name.

    ``tables`` are the paths of its embeddings' tables.
    """

    model: bytes
    formulas: Mapping[str, Formula]
    tensors: tuple[TensorSpec, ...]
    tables: tuple[str, ...]

    def quantize(self, weights: Sequence[F32]) -> bytes:
        """Return what TensorFlow's quantizer makes of the model with these weights."""
        model = _with_weights(self.model, self.formulas, weights, self.tensors)
        # Per-channel dense layers become FULLY_CONNECTED version 12, which tflite-runtime 2.14 refuses.
        return _with_tensorflow(lambda: mlir_quantize(model, disable_per_channel_for_dense_layers=True))


def calibrate(source: SourceModel, tensors: Sequence[TensorSpec], examples: Mapping[str, NDArray[Any]]) -> Calibrated:
    """Fold the model and run it over the examples; arguments and errors as in ``make_full_integer``."""
    marks = distinctive(source, _SEEDS[0])
    function = build_inference(source, marks)
    named = {spec.path: mark for spec, mark in zip(tensors, marks, strict=True)}
    graph = function.get_concrete_function().graph
    norms = batch_norms(graph, named)
    model = emit_inference({"infer": function}, quantize=False)
    formulas = _formulas(model, named, norms)
    _require_all(tensors, formulas)
    own = _with_weights(model, formulas, [weight.value for weight in source.weights], tensors)
    return Calibrated(_with_ranges(own, examples), formulas, tuple(tensors), tuple(embedding_tables(graph, named)))


def _with_weights(
    floats: bytes, formulas: Mapping[str, Formula], weights: Sequence[F32], tensors: Sequence[TensorSpec]
) -> bytes:
    patches = [
        Patch(INFER_INT8_FILE, made.path, place.offset, "float32", made.order, fold=made.fold)
        for place in constants(floats)
        if (made := formulas.get(place.name))
    ]
    return patch_model(floats, tuple(patches), _flat(weights), tuple(tensors))


def _flat(values: Sequence[F32]) -> F32:
    return np.concatenate([value.reshape(-1) for value in values])


def _formulas(model: bytes, marks: Mapping[str, F32], norms: Sequence[Fold]) -> dict[str, Formula]:
    """Return what each constant of the float model holds, by its name; those that hold no weight are left out."""
    found = {}
    for place in constants(model):
        if place.type == FLOAT32:
            values = np.frombuffer(model, "<f4", place.size_bytes // 4, place.offset)
            if formula := _explained(values, marks, norms):
                found[place.name] = formula
    return found


def _explained(values: F32, marks: Mapping[str, F32], norms: Sequence[Fold]) -> Formula | None:
    tolerance = _CLOSE * np.abs(values).max(initial=0)
    for path, fold in _candidates(values.size, marks, norms):
        held = constant_values(path, fold, marks.__getitem__)
        for order in itertools.permutations(range(held.ndim)):
            if np.abs(held.transpose(order).reshape(-1) - values).max() <= tolerance:
                return Formula(path, order, fold)
    return None


def _candidates(size: int, marks: Mapping[str, F32], norms: Sequence[Fold]) -> Iterator[tuple[str, Fold | None]]:
    """Yield every formula that has ``size`` values, as a tensor's path and a fold."""
    fitting = {path: mark.shape for path, mark in marks.items() if mark.size == size}
    yield from ((path, None) for path in fitting)
    for norm in norms:
        length = marks[norm.mean].size
        for path, shape in fitting.items():
            last = len(shape) - 1
            for axes in ((last,), (last - 1,), (last - 1, last)) if last > 0 else ():
                if math.prod(shape[axis] for axis in axes) == length:
                    yield path, replace(norm, term="product", axes=axes)
        if length == size:
            yield norm.mean, norm
            biases = [path for path, shape in fitting.items() if len(shape) == 1 and path not in norm.paths()]
            yield from ((norm.mean, replace(norm, term="shift", bias=bias)) for bias in (None, *biases))


def _require_all(tensors: Sequence[TensorSpec], formulas: Mapping[str, Formula]) -> None:
    used = {made.path for made in formulas.values()}.union(*(f.fold.paths() for f in formulas.values() if f.fold))
    if lost := [spec.path for spec in tensors if spec.path not in used]:
        raise _inexact(f"weight {lost[0]}", "the converter merges it with another weight")


def _inexact(what: str, why: str) -> BundleError:
    return BundleError(
        CODE,
        f"{what} cannot be given new values in a full-integer model: {why}",
        "convert without --representative: the int8 model then computes in float with int8 weights (dynamic range)",
    )


def _with_ranges(model: bytes, examples: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the float model with the range of every activation over the examples."""
    count = len(next(iter(examples.values())))

    def samples() -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        for index in range(count):
            yield "infer", {name: array[index : index + 1] for name, array in examples.items()}

    return _with_tensorflow(
        lambda: calibrator.Calibrator(calibrator.add_intermediate_tensors(model), [], []).calibrate(samples)
    )


def _with_tensorflow(work: Callable[[], Any]) -> bytes:
    try:
        with quiet():
            return bytes(work())
    except Exception as error:  # TensorFlow's quantizer has no common class for what it cannot do
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(
            CODE,
            f"TensorFlow cannot make this model full-integer: {reason[:300]}",
            "convert without --representative: the int8 model then computes in float with int8 weights (dynamic range)",
        ) from error


def _patches(model: bytes, formulas: Mapping[str, Formula]) -> list[Patch]:
    """Return the patches of a quantized model, one per kernel with its bias, and per other constant."""
    graph = schema.ModelT.InitFromPackedBuf(model).subgraphs[0]
    places = {place.name: place for place in constants(model)}
    operations = {}
    for op in graph.operators:
        inputs = [graph.tensors[index] for index in op.inputs if index >= 0]
        if found := _operation(inputs, places):
            operations[found[0].name] = found
    biases = {bias.name for _, bias, _ in operations.values()}
    patches = []
    for name, place in places.items():
        made = formulas.get(name)
        if made and name in operations:
            _, bias, input_scale = operations[name]
            patches.append(_kernel_patch(place, made, bias, formulas.get(bias.name), input_scale))
        elif made and name not in biases:
            patches.append(_other_patch(model, place, made))
    return patches


def _operation(inputs: Sequence[Tensor], places: Mapping[str, Constant]) -> tuple[Constant, Constant, float] | None:
    """Return an operation's kernel, bias and its input's scale, if it has all of them."""
    held = [places.get(tensor.name.decode()) for tensor in inputs]
    kernel = next((place for place in held if place and place.type == INT8 and place.scales), None)
    bias = next((place for place in held if place and place.type == INT32 and place.scales), None)
    moving = [tensor for tensor, place in zip(inputs, held, strict=True) if place is None]
    if kernel is None or bias is None or len(moving) != 1:
        return None
    return kernel, bias, float(moving[0].quantization.scale[0])


def _kernel_patch(place: Constant, made: Formula, bias: Constant, shift: Formula | None, input_scale: float) -> Patch:
    inner = math.prod(place.shape[place.axis + 1 :]) if place.scales > 1 else math.prod(place.shape)
    beside = BiasPatch(bias.offset, bias.scale_offset, input_scale)
    if shift:
        beside = replace(beside, path=shift.path, fold=shift.fold)
    return Patch(
        INFER_INT8_FILE,
        made.path,
        place.offset,
        "int8",
        made.order,
        channels=place.scales,
        inner=inner,
        scale_offset=place.scale_offset,
        fold=made.fold,
        bias=beside,
    )


def _other_patch(model: bytes, place: Constant, made: Formula) -> Patch:
    """Return the patch of a constant that is no kernel with a bias."""
    patch = Patch(INFER_INT8_FILE, made.path, place.offset, "float32", made.order, fold=made.fold)
    if place.type == FLOAT32:
        return patch
    if place.type != INT8 or place.scales != 1 or not place.zero_point_offset:
        raise _inexact(f"weight {made.path}", f"it is stored as type {place.type} with {place.scales} scales")
    patch = replace(patch, dtype="int8", scale_offset=place.scale_offset, inner=math.prod(place.shape))
    if int.from_bytes(model[place.zero_point_offset : place.zero_point_offset + 8], "little"):
        return replace(patch, zero_point_offset=place.zero_point_offset)
    # A kernel without a bias; if the zero point is 0 by chance, the comparison with other weights will tell.
    return replace(patch, bias=BiasPatch(0, None, 1.0))


def _require_exact(patched: bytes, fresh: bytes, calibrated: Calibrated) -> None:
    """Compare what patching makes of other weights with what TensorFlow makes of them; name where they differ."""
    if patched == fresh:
        return
    if calibrated.tables:
        path = calibrated.tables[0]
        why = "what is looked up in its table keeps the table's scale"
        raise _inexact(f"embedding layer {path.rpartition('/')[0] or path} ({path})", why)
    where = next(_differing(patched, fresh, calibrated.formulas), None)
    raise _inexact(f"weight {where}" if where else "the model", "TensorFlow quantizes other weights in another way")


def _differing(patched: bytes, fresh: bytes, formulas: Mapping[str, Formula]) -> Iterator[str]:
    """Yield the paths of the weights that two models hold differently."""
    held = {place.name: _bytes_of(patched, place) for place in constants(patched)}
    for place in constants(fresh):
        made = formulas.get(place.name) or formulas.get(place.name[:-1])  # the quantizer's own copies end in a digit
        if made and _bytes_of(fresh, place) != held.get(place.name):
            yield made.path


def _bytes_of(model: bytes, place: Constant) -> tuple[bytes, bytes]:
    """Return the values and the scales of a constant."""
    scales = model[place.scale_offset : place.scale_offset + 4 * place.scales]
    return model[place.offset : place.offset + place.size_bytes], scales

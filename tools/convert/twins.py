"""The inference twins, and where each weight lies in them.

The converter transposes, merges and folds constants as it likes. So a twin is converted from distinctive
random weights, each tensor is found again by its values, and the model's own weights are then patched in the
way a device will do it.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.bundle import INFER_FILE, INFER_INT8_FILE, Patch, TensorSpec, patch_model
from shared.errors import BundleError
from shared.tflite_file import FLOAT32, INT8, Constant, constants, scale_places
from tools.convert.emit import emit_inference
from tools.convert.program import build_inference
from tools.convert.tf import Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tools.convert.source import SourceModel

F32: TypeAlias = NDArray[np.float32]


def make_twins(source: SourceModel, tensors: Sequence[TensorSpec]) -> tuple[dict[str, bytes], list[Patch]]:
    """Return infer.tflite and infer_int8.tflite with the model's weights, and their patches.

    Raises:
        BundleError: "convert-patch" if a weight cannot be found in a twin.
    """
    marks = distinctive(source)
    flat = np.concatenate([weight.value.reshape(-1) for weight in source.weights])
    marked = _convert(source, marks, ())
    apart: list[int] = []
    if lost := _lost(marked, tensors, marks):
        # Vectors are what gets folded into their neighbours; a kernel kept apart would lose its fast path.
        apart = [index for index in lost if marks[index].ndim < 2]
        marked = _convert(source, marks, apart)
    if lost := _lost(marked, tensors, marks):
        marked = _convert(source, marks, sorted({*apart, *lost}))
    if lost := _lost(marked, tensors, marks):
        raise BundleError(
            "convert-patch",
            f"{tensors[lost[0]].path} cannot be found in the inference files: the converter merged it",
            "remove the layer that is folded into its neighbour",
        )
    patches = [patch for name in marked for patch in _find_all(name, marked[name], tensors, marks)]
    files = {
        name: patch_model(model, tuple(p for p in patches if p.file == name), flat, tuple(tensors))
        for name, model in marked.items()
    }
    return files, patches


def _convert(source: SourceModel, marks: Sequence[F32], kept_apart: Collection[int]) -> dict[str, bytes]:
    # A weight that is kept apart is not quantized: TRANSPOSE_CONV takes no int8 weights beside float32 inputs.
    kinds = {INFER_FILE: (False, kept_apart), INFER_INT8_FILE: (True, {*kept_apart, *_transposed(source)})}
    return {
        name: emit_inference({"infer": build_inference(source, marks, apart)}, quantize=quantize)
        for name, (quantize, apart) in kinds.items()
    }


def _transposed(source: SourceModel) -> list[int]:
    """Return the indices of the weights that are kernels of transposed convolutions."""
    count = len(source.weights)
    specs = [tf.TensorSpec(weight.value.shape, tf.float32) for weight in source.weights]
    inputs = [tf.TensorSpec([1, *spec.shape], spec.dtype) for spec in source.inputs]

    def call(*given: Tensor) -> Tensor:
        return source.call(given[:count], given[count:], training=False)[0]

    graph = tf.function(call, input_signature=[*specs, *inputs], autograph=False).get_concrete_function().graph
    kernels = [op.inputs[1] for op in graph.get_operations() if op.type == "Conv2DBackpropInput"]
    return sorted({place for kernel in kernels for place in _weights_of(kernel, graph.inputs[:count])})


def _weights_of(kernel: Tensor, weights: Sequence[Tensor]) -> Iterator[int]:
    waiting, places = [kernel.op], {weight.op.name: place for place, weight in enumerate(weights)}
    while waiting:
        op = waiting.pop()
        if op.name in places:
            yield places[op.name]
        waiting += [tensor.op for tensor in op.inputs]


def _lost(marked: Mapping[str, bytes], tensors: Sequence[TensorSpec], marks: Sequence[F32]) -> list[int]:
    """Return the indices of the tensors that some twin lacks."""
    found = [{patch.path for patch in _find_all(name, model, tensors, marks)} for name, model in marked.items()]
    everywhere = set.intersection(*found)
    return [index for index, spec in enumerate(tensors) if spec.path not in everywhere]


def distinctive(source: SourceModel, seed: int = 20160217) -> list[F32]:
    """Return random values of both signs; positive where a weight is not trained, because it may be a variance.

    Each tensor reaches farther than the one before, so that no two have the same scale when they are quantized.
    """
    generator = np.random.default_rng(seed)
    result = []
    for index, weight in enumerate(source.weights):
        values = generator.uniform(0.1, 1.0, weight.value.shape) * (1.0 + 0.5 * index / len(source.weights))
        signs = generator.choice([-1.0, 1.0], weight.value.shape) if weight.trainable else 1.0
        result.append(np.asarray(values * signs, np.float32))
    return result


def _find_all(name: str, model: bytes, tensors: Sequence[TensorSpec], marks: Sequence[F32]) -> list[Patch]:
    places = constants(model)
    patches: list[Patch] = []
    for spec, mark in zip(tensors, marks, strict=True):
        found = [patch for place in places if (patch := _match(name, model, place, spec, mark))]
        # Tensors that share one buffer would give one patch each.
        patches += {patch.offset: patch for patch in found}.values()
    return patches


def _match(name: str, model: bytes, place: Constant, spec: TensorSpec, mark: F32) -> Patch | None:
    if math.prod(place.shape) != mark.size or place.type not in {FLOAT32, INT8}:
        return None
    if place.type == FLOAT32:
        stored, tolerance = np.frombuffer(model, "<f4", mark.size, place.offset), np.float32(0)
        channels, inner = 1, mark.size
    elif place.scales:
        channels, inner = _channels(place)
        scales = np.frombuffer(model, "<f4", place.scales, place.scale_offset)
        levels = np.frombuffer(model, np.int8, mark.size, place.offset).reshape(-1, channels, inner)
        stored, tolerance = (levels * scales[:, None]).reshape(-1), scales.max() * np.float32(0.51)
    else:
        return None
    for order in itertools.permutations(range(mark.ndim)):
        if np.abs(mark.transpose(order).reshape(-1) - stored).max() <= tolerance:
            if place.type == FLOAT32:
                return Patch(name, spec.path, place.offset, "float32", order)
            copies = _scale_copies(model, place)
            return Patch(name, spec.path, place.offset, "int8", order, channels, inner, place.scale_offset, copies)
    return None


def _scale_copies(model: bytes, place: Constant) -> tuple[int, ...]:
    """Return where else the scales of a constant stand: what is read from it keeps them, and nothing else has them."""
    own = model[place.scale_offset : place.scale_offset + 4 * place.scales]
    found = {start for start, count in scale_places(model) if model[start : start + 4 * count] == own}
    return tuple(sorted(found - {place.scale_offset}))


def _channels(place: Constant) -> tuple[int, int]:
    """Return how stored elements map to scales: the number of channels, and elements in a row of one."""
    if place.scales == 1:
        return 1, math.prod(place.shape)
    return place.scales, math.prod(place.shape[place.axis + 1 :])

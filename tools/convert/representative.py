"""Representative examples: the inputs whose ranges a full-integer twin is made for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import BundleError
from tools.convert.emit import layer_of
from tools.convert.program import input_specs, x_names
from tools.convert.tf import Tensor, tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tools.convert.source import ModelInput, SourceModel

CODE = "convert-representative"
_PROVEN_ON = 16  # examples


def read_representative(path: Path, source: SourceModel) -> dict[str, NDArray[Any]]:
    """Return one array [n, ...] per input by signature name; other arrays in the file, such as labels, are left.

    Raises:
        BundleError: "convert-representative" naming what was found and what is expected.
    """
    names = x_names(source)
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in names if name in stored}
            known = ", ".join(stored)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise _bad(path, f"it cannot be read as .npz ({error})", names) from error
    if missing := [name for name in names if name not in found]:
        raise _bad(path, f"it has {known or 'nothing'} and lacks {', '.join(missing)}", names)
    for name, spec in zip(names, source.inputs, strict=True):
        found[name] = _checked(path, name, found[name], spec)
    if len({len(array) for array in found.values()}) != 1:
        counts = ", ".join(f"{len(array)} of {name}" for name, array in found.items())
        raise _bad(path, f"it has {counts}, expected as many of each", names)
    if all(spec.dtype == "float32" for spec in source.inputs) and not any(np.ptp(array) for array in found.values()):
        raise _bad(path, f"every value of {' and '.join(names)} is the same, which has no range", names)
    _require_finite(path, source, found)
    return found


def _checked(path: Path, name: str, array: NDArray[Any], spec: ModelInput) -> NDArray[Any]:
    kind = np.floating if spec.dtype.startswith("float") else np.integer
    if array.ndim == 0 or array.shape[1:] != spec.shape or not len(array) or not np.issubdtype(array.dtype, kind):
        expected = f"{spec.dtype}[n, {', '.join(map(str, spec.shape))}] with n of 1 or more"
        raise _bad(path, f"{name} is {array.dtype}{list(array.shape)}, expected {expected}", (name,))
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype)
    if not np.isfinite(cast).all():
        raise _bad(path, f"{name} has values that are not finite in {spec.dtype}", (name,))
    if not np.array_equal(cast, array) and kind is np.integer:
        raise _bad(path, f"{name} has values that {spec.dtype} cannot hold", (name,))
    return cast


def _require_finite(path: Path, source: SourceModel, examples: Mapping[str, NDArray[Any]]) -> None:
    """Refuse examples on which the float model overflows: a range that is not finite makes the calibrator crash."""
    layers: list[str] = []

    def call(*x: Tensor) -> Tensor:
        source.call([tf.constant(w.value) for w in source.weights], x, training=False)
        computed = [
            tensor
            for op in tf.compat.v1.get_default_graph().get_operations()
            for tensor in op.outputs
            if tensor.dtype == tf.float32
        ]
        layers.extend(layer_of(tensor.op.name) for tensor in computed)
        return tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in computed])

    traced = tf.function(call, input_signature=input_specs(source, 1), autograph=False)
    for index in range(len(next(iter(examples.values())))):
        finite = np.asarray(traced(*(array[index : index + 1] for array in examples.values())))
        if not finite.all():
            layer = layers[int(np.argmin(finite))]
            what = f"example {index} gives layer {layer} values that are not finite"
            raise _bad(path, what, tuple(examples))


def _bad(path: Path, what: str, names: tuple[str, ...]) -> BundleError:
    return BundleError(
        CODE,
        f"{path}: {what}",
        f"write examples as the model takes them, numpy.savez(FILE, {', '.join(f'{name}=...' for name in names)}), "
        "or convert without --representative",
    )


def int8_case(source: SourceModel, examples: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return some examples and what TensorFlow makes of them, under the names that the proof reads."""
    few = {name: array[:_PROVEN_ON] for name, array in examples.items()}

    def call(*x: Tensor) -> Tensor:
        return source.reference([tf.constant(w.value) for w in source.weights], x, training=False)[0]

    outputs = np.asarray(tf.function(call)(*few.values()))
    return {**{f"int8/{name}": array for name, array in few.items()}, "int8/outputs": outputs}

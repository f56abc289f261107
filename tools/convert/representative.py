"""Representative examples: the inputs whose ranges a full-integer twin is made for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import BundleError
from tools.convert.program import x_names
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
    return found


def _checked(path: Path, name: str, array: NDArray[Any], spec: ModelInput) -> NDArray[Any]:
    kind = np.floating if spec.dtype.startswith("float") else np.integer
    if array.ndim == 0 or array.shape[1:] != spec.shape or not len(array) or not np.issubdtype(array.dtype, kind):
        expected = f"{spec.dtype}[n, {', '.join(map(str, spec.shape))}] with n of 1 or more"
        raise _bad(path, f"{name} is {array.dtype}{list(array.shape)}, expected {expected}", (name,))
    if not np.isfinite(array).all():
        raise _bad(path, f"{name} has values that are not finite", (name,))
    return array.astype(spec.dtype)


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

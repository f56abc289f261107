"""Arrays: ``examples.npz``, written by ``numpy.savez``.

It holds ``x`` (or ``x_<name>`` for each of several inputs), ``y``, and optionally ``held_out``, bool[n]:
examples that no training sees, on which models are judged. Whether shapes and labels fit the model is the trainer's
check.
"""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.protocol import Examples
from shared.errors import UsageError
from shared.examples import EXAMPLES_FILE

Arrays = dict[str, NDArray[Any]]
_DAMAGE: Final = (  # what NumPy and zipfile were seen to raise for files with flipped bits
    OSError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def read_npz(folder: Path) -> tuple[Examples, Examples]:
    """Return the examples to train on and the held-out ones.

    Raises:
        UsageError: ``examples-missing``, ``examples-unreadable``, ``examples-shape`` or ``examples-empty``.
    """
    path = folder / EXAMPLES_FILE
    arrays = _read(path)
    y = arrays.pop("y", None)
    held_out = arrays.pop("held_out", None)
    if y is None or y.ndim < 1 or not ("x" in arrays or any(name.startswith("x_") for name in arrays)):
        raise UsageError(
            "examples-shape", f"{path} lacks x or y.", "write it with numpy.savez(path, x=..., y=...), one row each"
        )
    inputs = {name: values for name, values in arrays.items() if name == "x" or name.startswith("x_")}
    for name, values in inputs.items():
        if values.ndim < 1 or len(values) != len(y):
            raise UsageError("examples-shape", f"{path}: {name} and y have different numbers of rows.")
    chosen = _held_out(held_out, len(y), path)
    train, rest = _select(inputs, y, ~chosen), _select(inputs, y, chosen)
    if not len(train):
        raise UsageError("examples-empty", f"{path} has no example to train on.", "collect data, then run again")
    return train, rest


def _read(path: Path) -> Arrays:
    try:
        with path.open("rb") as source:
            file = np.load(source, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UsageError("examples-unreadable", f"{path} is a single array.", "write it with numpy.savez")
            with file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UsageError(
            "examples-missing", f"There is no {path}.", f"put {EXAMPLES_FILE} there, or enrol with another --examples"
        ) from error
    except _DAMAGE as error:
        raise UsageError(
            "examples-unreadable",
            f"{path} cannot be read ({type(error).__name__}).",
            "write it with numpy.savez, plain arrays only, and move it there when it is complete",
        ) from error


def _held_out(flags: NDArray[Any] | None, count: int, path: Path) -> NDArray[np.bool_]:
    if flags is None:
        return np.zeros(count, dtype=np.bool_)
    if flags.dtype != np.bool_ or flags.shape != (count,):
        raise UsageError("examples-shape", f"{path}: held_out is {flags.dtype}{list(flags.shape)}, not bool[{count}].")
    return flags


def _select(inputs: Arrays, y: NDArray[Any], rows: NDArray[np.bool_]) -> Examples:
    chosen = {name: values[rows] for name, values in inputs.items()}
    return Examples(chosen["x"] if list(chosen) == ["x"] else chosen, y[rows])

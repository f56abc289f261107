"""Cut the data that ship in ``models/data`` from the full-size files in the folder that FEDLOOM_DATA names.

``python -m tools.cut_data`` writes the same bytes every time: draws have a fixed seed, and archives no clock.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.full_size import FOLDER_VARIABLE, full_size_file
from models.task import DATA_FOLDER
from shared.errors import FedloomError

Arrays = dict[str, NDArray[Any]]

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the date of every archive member
_ONE_SECOND: Final = 8000  # samples
_FASHION_EACH: Final = {"train": 1000, "test": 200}  # images of each class


def spoken_digits(full: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return every recording, cut after one second; silence at the end is not stored."""
    ends = np.cumsum(full["length"].astype(np.int64))
    kept = np.minimum(full["length"], _ONE_SECOND)
    parts = [full["wave"][end - length :][:keep] for end, length, keep in zip(ends, full["length"], kept, strict=True)]
    names = ("y", "user", "rec_index", "user_names", "fs_hz")
    return {"wave": np.concatenate(parts), "length": kept, **{name: full[name] for name in names}}


def fashion(full: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return as many images of each class, drawn at random."""
    generator = np.random.default_rng(1708)
    arrays: Arrays = {}
    for part, each in _FASHION_EACH.items():
        y = full[f"y_{part}"]
        rows = [generator.choice(np.flatnonzero(y == label), each, replace=False) for label in np.unique(y)]
        chosen = np.sort(np.concatenate(rows))
        arrays |= {f"x_{part}": full[f"x_{part}"][chosen], f"y_{part}": y[chosen]}
    return arrays


def shakespeare(full: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return everything."""
    return dict(full)


CUTS: Final[dict[str, tuple[str, Callable[[Mapping[str, NDArray[Any]]], Arrays]]]] = {
    "fsdd.npz": ("fsdd_wave_mulaw.npz", spoken_digits),
    "fashion_mnist.npz": ("fashion_mnist.npz", fashion),
    "shakespeare.npz": ("shakespeare_roles.npz", shakespeare),
}


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a compressed ``.npz`` that depends on the arrays alone."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as writer:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(values), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            writer.writestr(entry, member.getvalue())
    return archive.getvalue()


def main() -> int:
    """Write every subset."""
    try:
        for shipped, (name, cut) in CUTS.items():
            path = full_size_file(name, os.environ.get(FOLDER_VARIABLE))
            with np.load(path, allow_pickle=False) as full:
                data = to_bytes(cut(dict(full)))  # a file would be read again at every access
            (DATA_FOLDER / shipped).write_bytes(data)
            print(f"{shipped}: {len(data) / 1e6:.1f} MB")
    except FedloomError as error:
        print(f"cut_data: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

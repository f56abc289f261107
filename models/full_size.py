"""Full-size data sets, which do not ship: files in a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError

FOLDER_VARIABLE: Final = "FEDLOOM_DATA"


def read_full_size(name: str, folder: str | None, arrays: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read arrays of a full-size .npz file.

    Raises:
        UsageError: as ``full_size_file``, and ``full-size-file`` for a file that lacks one of them.
    """
    path = full_size_file(name, folder)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {array: stored[array] for array in arrays}
    except (OSError, ValueError, KeyError, BadZipFile, AttributeError, TypeError) as error:
        reason = (str(error).strip("'\"") or type(error).__name__).splitlines()[0]
        raise UsageError(
            "full-size-file",
            f"{path} is not the file that is meant: {reason}.",
            f"it needs the arrays {', '.join(arrays)}; models/data/README.md says where it is from",
        ) from error


def full_size_file(name: str, folder: str | None) -> Path:
    """Return the path of a full-size file.

    Args:
        name: of the file.
        folder: the value of the environment variable FEDLOOM_DATA.

    Raises:
        UsageError: ``full-size-unset``, ``full-size-folder`` or ``full-size-file``.
    """
    if not folder:
        raise UsageError(
            "full-size-unset",
            f"{name} does not come with Fedloom, and {FOLDER_VARIABLE} is not set.",
            f"set {FOLDER_VARIABLE} to the folder that has it, or choose a partition of the data that ship",
        )
    if not Path(folder).is_dir():
        raise UsageError(
            "full-size-folder",
            f"{FOLDER_VARIABLE} is {folder}, which is not a folder.",
            f"correct {FOLDER_VARIABLE}, or unset it and use the data that ship",
        )
    path = Path(folder) / name
    if not path.is_file():
        raise UsageError(
            "full-size-file",
            f"{FOLDER_VARIABLE} is {folder}, which lacks {name}.",
            f"put {name} there (models/data/README.md says where it is from), or use the data that ship",
        )
    return path

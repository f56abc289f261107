"""Full-size data sets, which do not ship: files in a folder of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.errors import UsageError

FOLDER_VARIABLE: Final = "FEDLOOM_DATA"


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

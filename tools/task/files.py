"""Examples as files: one example per file, in ``OWNER/CLASS/``; a folder for each owner, in it one for each class."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import UsageError

F32: TypeAlias = NDArray[np.float32]

_PCM_16_BYTES: Final = 2


def _array(path: Path) -> F32:
    with path.open("rb") as file:
        values = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are {values.dtype}")
    return np.asarray(values, np.float32)


def _table(path: Path) -> F32:
    return np.loadtxt(path, np.float32, delimiter=",", ndmin=2)


def _image(path: Path) -> F32:
    """Return f32[height, width, channels] from 0 to 1."""
    with Image.open(path) as image:
        deep = image.mode.startswith("I")  # grey with 16 bits, which Pillow would cut off at 255
        pixels = np.asarray(image if deep else image.convert("L" if image.mode in {"1", "L"} else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / np.float32(2**16 - 1 if deep else 255)


def _sound(path: Path) -> F32:
    """Return f32[samples] from -1 to 1."""
    with wave.open(str(path)) as sound:
        if (sound.getnchannels(), sound.getsampwidth()) != (1, _PCM_16_BYTES):
            raise ValueError("it is not mono with 16 bits a sample")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return samples.astype(np.float32) / np.float32(2**15)


_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    wave.Error,
    BadZipFile,
    Image.DecompressionBombError,
)
READERS: Final[Mapping[str, Callable[[Path], F32]]] = {
    ".npy": _array,
    ".csv": _table,
    ".png": _image,
    ".jpg": _image,
    ".jpeg": _image,
    ".wav": _sound,
}


def read_file(path: Path, shape: Sequence[int]) -> F32:
    """Read one example, f32 of ``shape``.

    Raises:
        UsageError: ``example-unreadable`` or ``example-shape``, naming the file.
    """
    try:
        values = READERS[path.suffix.lower()](path)
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError("example-unreadable", f"{path} cannot be read: {reason}.", "mend or remove it") from error
    if not _fits(values.shape, shape):
        raise UsageError(
            "example-shape",
            f"{path} holds {list(values.shape)}, the model takes {list(shape)}.",
            "cut or pad the examples to what the model takes, or give it another keras.Input",
        )
    if not np.isfinite(values).all():
        raise UsageError("example-unreadable", f"{path} holds infinite values or NaN.", "mend or remove it")
    return values.reshape(shape)


def _fits(found: Sequence[int], shape: Sequence[int]) -> bool:
    """Say whether values mean the same in ``shape``: apart from axes of one element, or laid out in a row."""
    if len(shape) == 1:
        return int(np.prod(found)) == shape[0]
    return [size for size in found if size != 1] == [size for size in shape if size != 1]


def folders(path: Path) -> list[Path]:
    """Return the folders in ``path`` by name, hidden ones left out."""
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def example_files(folder: Path) -> list[Path]:
    """Return the examples in a class's folder, in the order of their names.

    Raises:
        UsageError: ``example-unreadable`` for a kind of file that no reader reads.
    """
    files = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in READERS:
            known = ", ".join(READERS)
            raise UsageError(
                "example-unreadable", f"{path} is none of {known}.", "convert it, for instance with numpy.save"
            )
    return files

"""Pictures: a file that Pillow reads is one example, f32[height, width, channels]."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from edge_client.examples.declaration import Declaration
from edge_client.examples.rows import Row
from shared.errors import UsageError

MAX_PIXELS: Final = 50_000_000  # of one file; a small file can unfold into much memory


def picture_rows(path: Path, name: str, declared: Declaration) -> Iterator[Row]:
    """Return the one example of a file, whose folder is named like its label.

    Raises:
        ValueError: in words, if it is no such picture.
        UsageError: ``missing-package`` without Pillow, which devices without pictures do not need.
    """
    try:
        from PIL import Image  # noqa: PLC0415
    except ModuleNotFoundError as error:
        remedy = "pip install --require-hashes -r requirements/images.txt, or apt install python3-pil"
        raise UsageError("missing-package", "Pictures are read with Pillow, which is not installed.", remedy) from error
    shape = declared.images
    if shape is None:
        raise TypeError("a declaration of pictures has no size")
    y = np.int32(declared.label(path.parent.name))
    with path.open("rb") as file:
        try:
            with Image.open(file, formats=("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"it has more than {MAX_PIXELS} pixels")
                mode = "L" if shape.channels == 1 else "RGB"
                converted = image.convert(mode)
        except (SyntaxError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"it is no picture that can be read ({type(error).__name__})") from error
    if converted.size != (shape.width, shape.height):
        converted = converted.resize((shape.width, shape.height), Image.Resampling.BILINEAR)
    octets = np.asarray(converted, np.uint8).reshape(shape.height, shape.width, shape.channels)
    x = octets.astype(np.float32) / np.float32(shape.scale)
    yield Row({"x": x, "y": np.asarray(y)}, name, path.stat().st_mtime)

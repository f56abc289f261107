"""Files of the kernel below a root: absent, unreadable or odd ones are unknown, never an error."""

from __future__ import annotations

from pathlib import Path

_MAX_BYTES = 64 * 1024


def text_of(path: Path) -> str | None:
    """Return a file's text, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    except OSError:  # also those that drivers return: EIO, ENODEV, EAGAIN
        return None


def number_of(path: Path) -> int | None:
    """Return the whole number in a file, None where there is none."""
    text = text_of(path) or ""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else None  # 64 bits


def folders_in(path: Path) -> list[Path] | None:
    """Return what is in a folder, by name, None where it cannot be read."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return None

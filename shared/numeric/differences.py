"""The difference between two versions' weights files, compressed: int8 weights that moved little are near 0 in it."""

from __future__ import annotations

import zlib

import numpy as np

from shared.errors import UsageError

_LEVEL = 6


def make_difference(before: bytes, after: bytes) -> bytes | None:
    """Return ``after`` minus ``before``, octet by octet modulo 256, as zlib data (RFC 1950).

    None where that is no shorter than ``after``, or the two have different lengths.
    """
    if len(before) != len(after):
        return None
    changed = np.frombuffer(after, np.uint8) - np.frombuffer(before, np.uint8)
    packed = zlib.compress(changed.tobytes(), _LEVEL)
    return packed if len(packed) < len(after) else None


def apply_difference(before: bytes, difference: bytes) -> bytes:
    """Undo ``make_difference``; whoever calls checks the result by its hash.

    Raises:
        UsageError: ``bad-difference``; never more than ``before`` is unpacked.
    """
    unpacker = zlib.decompressobj()
    try:
        changed = unpacker.decompress(difference, len(before) + 1)
    except zlib.error as error:
        raise UsageError("bad-difference", "The difference is unreadable.") from error
    if len(changed) != len(before) or not unpacker.eof or unpacker.unused_data:
        raise UsageError("bad-difference", f"The difference is not one of {len(before)} bytes.")
    return (np.frombuffer(before, np.uint8) + np.frombuffer(changed, np.uint8)).tobytes()

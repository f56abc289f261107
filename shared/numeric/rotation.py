"""Spread an update evenly over its coordinates before rounding, so that few levels lose little; undone on the sum.

Random signs, then the Walsh-Hadamard transform H / sqrt(B) in blocks of B coordinates (Suresh et al.,
arXiv 1611.00429, section 3). Both keep the L2 norm, and both are linear: the sum of rotated updates is the rotated
sum. The signs follow from the session's id, so every member has the same ones, new in every cohort.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.numeric.clipping import ClippedUpdate
from shared.secagg.keys import derive
from shared.secagg.masking import keystream

LARGEST_BLOCK: Final = 4096
_SMALLEST_BLOCK: Final = 64
_LARGEST_PADDING: Final = 16  # at most the sixteenth part
_PIECE: Final = 2**15  # coordinates that are transformed at a time: 256 KiB stay in the cache
_TAIL_BITS: Final = 20  # at most 2^-20 of all vectors have a coordinate beyond ``spread``
_LN_2: Final = 0.6931471805599453
Values = npt.NDArray[np.float64]


def block_size(dimension: int) -> int:
    """Return B: the largest power of two up to 4096 that pads by at most a sixteenth, else the next one above d."""
    block = LARGEST_BLOCK
    while block >= _SMALLEST_BLOCK:
        if (-dimension % block) * _LARGEST_PADDING <= dimension:
            return block
        block //= 2
    return 1 << max(dimension - 1, 0).bit_length()


def rotated_size(dimension: int) -> int:
    """Return how many coordinates ``dimension`` become: the last block is padded with zeros."""
    return dimension + -dimension % block_size(dimension)


def spread(dimension: int) -> float:
    """Return the share of the L2 norm beyond which no rotated coordinate lies, but with probability 2^-20.

    Hoeffding's bound for a sum of random signs, and the union over all coordinates. Only operations that IEEE 754
    defines exactly: every member must get the same number.
    """
    size = rotated_size(dimension)
    return min(1.0, math.sqrt(2.0 * (_TAIL_BITS + 1 + size.bit_length()) * _LN_2 / block_size(dimension)))


def rotate(values: Values, sid: bytes, group: int) -> Values:
    """Return f64[rotated_size], a rotated copy of ``values``, f64[d].

    Args:
        values: to be rotated.
        sid: of the session.
        group: numbers the vectors of one session; each has signs of its own.
    """
    rotated = np.zeros(rotated_size(values.size))
    rotated[: values.size] = values
    _flip_signs(rotated, sid, group)
    _transform(rotated, block_size(values.size))
    return rotated


def rotated_update(update: ClippedUpdate, sid: bytes, group: int) -> ClippedUpdate:
    """Return ``update`` with its coordinates rotated, see ``rotate``."""
    return replace(update, raw=rotate(update.values, sid, group), scale=1.0)


def rotate_back(rotated: Values, dimension: int, sid: bytes, group: int) -> Values:
    """Return f64[dimension], of which ``rotated`` is the rotation; ``rotated`` is overwritten."""
    _transform(rotated, block_size(dimension))
    _flip_signs(rotated, sid, group)
    return rotated[:dimension]


def _flip_signs(values: Values, sid: bytes, group: int) -> None:
    key = derive(sid, sid, "fedloom/1/rotation", group)
    octets = keystream(key, "aes-256-ctr").update(bytes(-(-values.size // 8)))
    bits = np.unpackbits(np.frombuffer(octets, np.uint8), count=values.size, bitorder="little")
    np.negative(values, out=values, where=bits.view(np.bool_))


def _transform(values: Values, block: int) -> None:
    """Apply H / sqrt(block) to each block in place; it is its own inverse.

    H of r c rows is the Kronecker product of H of r and of c rows: two small matrix products per block.
    """
    rows = 1 << (block.bit_length() - 1) // 2
    columns = block // rows
    left, right = _hadamard(rows) / math.sqrt(block), _hadamard(columns)
    step = max(1, _PIECE // block) * block
    half = np.empty((min(step, values.size) // block, rows, columns))
    for start in range(0, values.size, step):
        piece = values[start : start + step].reshape(-1, rows, columns)
        between = half[: len(piece)]
        np.matmul(piece, right, out=between)
        np.matmul(left, between, out=piece)


@cache
def _hadamard(size: int) -> Values:
    """Return Sylvester's matrix, f64[size, size] of 1 and -1."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix

"""Several coordinates in each 64-bit word, packed before masking: mask bytes are wire bytes.

A word holds L lanes of b bits. Values are offset to be non-negative, so adding words adds lanes without borrow;
the grid keeps every lane of the *sum* below 2^b, so no lane carries into the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

LANES_PER_WORD: Final = {16: 4, 21: 3, 32: 2}
_ALIGNED: Final = {16: "<u2", 32: "<u4"}  # lanes that are numbers of their own in a word's octets
_PIECE: Final = 2**16  # coordinates
Steps = npt.NDArray[np.int16] | npt.NDArray[np.int32] | npt.NDArray[np.int64]


def words_for(dimension: int, lane_bits: int) -> int:
    """Return how many 64-bit words hold ``dimension`` lanes."""
    return -(-dimension // LANES_PER_WORD[lane_bits])


def pack(parts: Sequence[Steps], *, levels: int, lane_bits: int, further_words: int = 0) -> npt.NDArray[np.uint64]:
    """Offset by ``levels`` and pack one part after the other.

    Args:
        parts: whole numbers, each in ``-levels .. levels``; d altogether.
        levels: q of the grid.
        lane_bits: 16, 21 or 32.
        further_words: how many words, 0, to leave behind the lanes.

    Returns:
        u64[ceil(d / L) + further_words], lane 0 in the lowest bits; lanes beyond d are 0.

    Raises:
        ValueError: if a value lies outside the range; it would leak into its neighbours.
    """
    used = words_for(sum(part.size for part in parts), lane_bits)
    words = np.zeros(used + further_words, dtype="<u8")
    aligned = lane_bits in _ALIGNED
    lanes = words.view(_ALIGNED[lane_bits]) if aligned else np.zeros(used * LANES_PER_WORD[lane_bits], np.uint64)
    filled = 0
    for part in parts:
        for start in range(0, part.size, _PIECE):
            piece = part[start : start + _PIECE]
            if int(piece.min()) < -levels or int(piece.max()) > levels:
                raise ValueError(f"a coordinate lies outside -{levels} .. {levels}")
            np.add(piece, levels, out=lanes[filled : filled + piece.size], casting="unsafe")
            filled += piece.size
    if not aligned:
        words[:used] = _joined(lanes.reshape(-1, LANES_PER_WORD[lane_bits]), lane_bits)
    return words.astype(np.uint64, copy=False)


def _joined(table: npt.NDArray[np.uint64], lane_bits: int) -> npt.NDArray[np.uint64]:
    words = table[:, 0].copy()
    for lane in range(1, table.shape[1]):
        words += table[:, lane] << np.uint64(lane * lane_bits)
    return words


def pack_noised(values: npt.NDArray[np.int64], *, lane_bits: int) -> npt.NDArray[np.uint64]:
    """Pack numbers of any sign modulo 2^64, u64[ceil(d / L)].

    One device's noise may take a lane below 0 or beyond its width; it then borrows from the lanes above, and gives it
    back in the sum, whose lanes the caller keeps in range: adding words is adding ``sum of lane_i 2^(b i)``.
    """
    lanes = LANES_PER_WORD[lane_bits]
    padded = np.zeros(words_for(values.size, lane_bits) * lanes, dtype=np.int64)
    padded[: values.size] = values
    return _joined(padded.view(np.uint64).reshape(-1, lanes), lane_bits)


def unpack_noised_sum(
    words: npt.NDArray[np.uint64], *, dimension: int, lowest: int, lane_bits: int
) -> npt.NDArray[np.int64]:
    """Undo ``pack_noised`` on a sum, i64[dimension].

    Args:
        words: u64[ceil(d / L)], the sum.
        dimension: d.
        lowest: what each lane of the sum is at least; beyond ``lowest + 2^b - 1`` lanes come out wrong.
        lane_bits: 16, 21 or 32.
    """
    shifted = words.copy()
    for lane in range(LANES_PER_WORD[lane_bits]):
        shifted += np.uint64(-lowest) << np.uint64(lane * lane_bits)
    return _split(shifted, lane_bits)[:dimension] + lowest


def unpack_sum(
    words: npt.NDArray[np.uint64], *, dimension: int, levels: int, lane_bits: int, survivors: int
) -> npt.NDArray[np.int64]:
    """Undo ``pack`` on a sum of ``survivors`` packed vectors.

    Returns:
        i64[dimension], the sums of the devices' steps: lane minus ``survivors * levels``.

    Raises:
        ValueError: if a lane lies above ``2 * survivors * levels``, which honest vectors cannot produce.
    """
    sums = _split(words, lane_bits)[:dimension]
    if sums.size and int(sums.max()) > 2 * survivors * levels:
        raise ValueError("a lane of the sum is larger than its members can make it")
    return sums - survivors * levels


def _split(words: npt.NDArray[np.uint64], lane_bits: int) -> npt.NDArray[np.int64]:
    lanes = LANES_PER_WORD[lane_bits]
    mask = np.uint64(2**lane_bits - 1)
    table = np.empty((words.size, lanes), dtype=np.int64)
    for lane in range(lanes):
        table[:, lane] = ((words >> np.uint64(lane * lane_bits)) & mask).astype(np.int64)
    return table.reshape(-1)

"""Masked vectors are added as they arrive; memory is one vector, whatever the cohort's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.errors import BrokenState
from shared.limits import READ_PIECE_BYTES
from shared.secagg.masking import WORD_BYTES, Words, add_into


class VectorsLost(BrokenState):
    """What the members of a running cohort sent is gone: they contribute anew to another."""


class RunningSum:
    """The modular sum of the vectors added so far.

    Args:
        words: length of a vector in 64-bit words.
    """

    def __init__(self, words: int) -> None:
        self.total: Words = np.zeros(words, dtype=np.uint64)
        self.added: frozenset[int] = frozenset()

    def add(self, index: int, path: Path) -> None:
        """Add the vector in ``path`` in pieces; a member that is already in the sum is not added again.

        Raises:
            VectorsLost: ``vector-lost`` for a file that is gone or has another length.
        """
        if index in self.added:
            return
        if not path.is_file() or path.stat().st_size != self.total.size * WORD_BYTES:
            raise VectorsLost("vector-lost", f"The stored vector of member {index} is gone or damaged.")
        start = 0
        with path.open("rb") as file:
            while piece := file.read(READ_PIECE_BYTES):
                words = np.frombuffer(piece, dtype="<u8")
                add_into(self.total[start : start + words.size], words)
                start += words.size
        self.added |= {index}

"""Masked vectors are added as they arrive; memory is one vector, whatever the cohort's size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shared.errors import BrokenState
from shared.limits import READ_PIECE_BYTES
from shared.secagg.masking import WORD_BYTES, Words, add_into, subtract_from


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

    def add(self, index: int, path: Path, sha256: str) -> None:
        """Add the vector in ``path`` in pieces; a member that is already in the sum is not added again.

        Args:
            index: of the member.
            path: of its stored vector.
            sha256: hexadecimal, of the vector as it was acknowledged.

        Raises:
            VectorsLost: ``vector-lost`` for a file that is gone or damaged; nothing of it is in the sum then.
        """
        if index in self.added:
            return
        if not path.is_file() or path.stat().st_size != self.total.size * WORD_BYTES:
            raise _lost(index)
        found = self._apply(path, add_into)
        if found != sha256:
            if self._apply(path, subtract_from) != found:
                # Another reading was added than the one that was taken out: nothing may be made of this sum.
                self.total[:], self.added = 0, frozenset()
            raise _lost(index)
        self.added |= {index}

    def _apply(self, path: Path, operation: Callable[[Words, Words], None]) -> str:
        """Add or subtract a file's words in one pass, and return the hexadecimal SHA-256 of what was read."""
        start, digest = 0, hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(READ_PIECE_BYTES):
                digest.update(piece)
                words = np.frombuffer(piece, dtype="<u8")
                operation(self.total[start : start + words.size], words)
                start += words.size
        return digest.hexdigest()


def _lost(index: int) -> VectorsLost:
    return VectorsLost("vector-lost", f"The stored vector of member {index} is gone or damaged.")

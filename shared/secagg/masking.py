"""Add keystreams to a vector, and take them off the sum: the two halves cancel word by word modulo 2^64."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR

from shared.limits import MASK_PIECE_BYTES
from shared.secagg.keys import Exchange, derive

Words = npt.NDArray[np.uint64]
CipherName = Literal["aes-256-ctr", "chacha20"]
CIPHERS: tuple[CipherName, ...] = get_args(CipherName)
WORD_BYTES = 8
_COUNTER_START = bytes(16)  # one key makes one stream, so it may start at zero
BLOCK_BYTES = 16
_MASKS_AT_ONCE = 64


@dataclass(frozen=True)
class MaskedUpdate:
    """A vector that says nothing without the masks: each word is uniform modulo 2^64.

    Attributes:
        words: u64[m].
    """

    words: Words

    def to_bytes(self) -> bytes:
        """Return the little-endian octets that travel."""
        return self.words.astype("<u8", copy=False).tobytes()


@dataclass(frozen=True)
class Mask:
    """One keystream and its sign.

    Attributes:
        key: 32 octets.
        negative: whether it is subtracted.
    """

    key: bytes
    negative: bool

    def inverse(self) -> Mask:
        """Return the mask that cancels this one."""
        return Mask(self.key, not self.negative)


def self_mask(seed: bytes, sid: bytes, member: int) -> Mask:
    """Return the mask that only ``member`` knows until its shares are revealed."""
    return Mask(derive(seed, sid, "fedloom/1/self-mask", member), negative=False)


def pair_mask(secret: Exchange, public: bytes, sid: bytes, *, own: int, other: int) -> Mask:
    """Return the mask that two members share: added by the lower index, subtracted by the higher."""
    low, high = min(own, other), max(own, other)
    return Mask(derive(secret.with_public(public), sid, "fedloom/1/pair-mask", low, high), negative=own > other)


def keystream(key: bytes, cipher: CipherName) -> CipherContext:
    """Return a context that turns zeros into the one stream of ``key``.

    AES-256-CTR (NIST SP 800-38A, section 6.5) or ChaCha20 (RFC 8439, section 2.4), which is the faster one on boards
    without AES instructions; counter and nonce start at zero.
    """
    if cipher == "chacha20":
        return Cipher(ChaCha20(key, _COUNTER_START), mode=None).encryptor()
    return Cipher(AES(key), CTR(_COUNTER_START)).encryptor()


def apply_masks(words: Words, masks: Iterable[Mask], cipher: CipherName) -> None:
    """Add every mask to ``words`` in place, modulo 2^64.

    The keystream comes in pieces that stay in the cache, as do the words while many masks are added to them; its octets
    are read as little-endian words.
    """
    piece_words = MASK_PIECE_BYTES // WORD_BYTES
    zeros = memoryview(bytes(MASK_PIECE_BYTES))
    buffer = bytearray(MASK_PIECE_BYTES + BLOCK_BYTES)
    stream = np.frombuffer(buffer, dtype="<u8")
    waiting = iter(masks)
    while batch := list(itertools.islice(waiting, _MASKS_AT_ONCE)):
        streams = [(keystream(mask.key, cipher), np.subtract if mask.negative else np.add) for mask in batch]
        for start in range(0, words.size, piece_words):
            piece = words[start : start + piece_words]
            nothing, added = zeros[: piece.nbytes], stream[: piece.size]
            for generator, combine in streams:
                generator.update_into(nothing, buffer)
                combine(piece, added, out=piece)


def add_into(total: Words, addend: Words) -> None:
    """Add one masked vector to the running sum in place, modulo 2^64."""
    np.add(total, addend, out=total)


def subtract_from(total: Words, subtrahend: Words) -> None:
    """Undo ``add_into``."""
    np.subtract(total, subtrahend, out=total)

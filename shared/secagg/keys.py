"""Key pairs of one cohort, and every key that is derived from them.

A device has two X25519 keys per cohort, used nowhere else: the channel key seals shares; the mask key's secret is
revealed if the device drops out. They are never the same key and never derive the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolAbort
from shared.secagg.shares import random_secret
from shared.wire.canonical import transcript

KEY_BYTES = 32
_FIELD_PRIME = 2**255 - 19
_ANY_SECRET = b"\x01" * KEY_BYTES  # every scalar is a multiple of 8 and takes a low-order point to zero
Role = Literal["fedloom/1/seal", "fedloom/1/pair-mask", "fedloom/1/self-mask", "fedloom/1/graph", "fedloom/1/rotation"]


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair as raw octets.

    Attributes:
        secret: 32 octets below the Shamir prime, so that they can be shared.
        public: 32 octets.
    """

    secret: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> KeyPair:
        """Return a fresh key pair."""
        return cls.of(random_secret(random_bytes))

    @classmethod
    def of(cls, secret: bytes) -> KeyPair:
        """Return the key pair of ``secret``."""
        return cls(secret, X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def require_public_key(public: bytes) -> bytes:
    """Return ``public`` if it is the one encoding of a usable X25519 public key.

    Checked when a member joins, so that its key cannot stop the others later.

    Raises:
        ProtocolAbort: ``bad-public-key`` for a coordinate of 2^255 - 19 or more, which RFC 7748 reads as another
            key's, and for a low-order point.
    """
    if int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise ProtocolAbort("bad-public-key", "A member's public key is not in its shortest form.")
    agree(_ANY_SECRET, public)
    return public


class Exchange:
    """X25519 (RFC 7748) with one secret, 32 octets, which takes as long to load as an exchange takes."""

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)

    def with_public(self, public: bytes) -> bytes:
        """Return the shared secret, 32 octets.

        Raises:
            ProtocolAbort: ``bad-public-key`` for a low-order point, whose shared secret anyone can guess.
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ProtocolAbort("bad-public-key", "A member's public key is not a usable X25519 key.") from error


def agree(secret: bytes, public: bytes) -> bytes:
    """Return the shared secret of one exchange, see ``Exchange``."""
    return Exchange(secret).with_public(public)


def derive(secret: bytes, sid: bytes, role: Role, *indices: int) -> bytes:
    """Return a 32-octet key for one purpose of one cohort: HKDF-SHA256 (RFC 5869) with ``sid`` as its salt.

    Args:
        secret: X25519 shared secret, self-mask seed or graph seed.
        sid: 32 octets that bind plan, model, roster and graph.
        role: what the key is for.
        indices: the roster indices it belongs to: sender and receiver for a seal, smaller first for a pair mask,
            none for a graph.
    """
    return hkdf_sha256(secret, salt=sid, info=transcript(role, *indices), octets=KEY_BYTES)


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, octets: int) -> bytes:
    """Return ``octets`` octets of HKDF-SHA256 (RFC 5869).

    Raises:
        ValueError: for more than 255 hashes' length.
    """
    return HKDF(SHA256(), octets, salt=salt, info=info).derive(secret)

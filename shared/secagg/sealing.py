"""A pair of shares on its way from one member to another, through a server that must not read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from shared.errors import ProtocolAbort
from shared.secagg.keys import agree, derive
from shared.secagg.masking import CipherName
from shared.secagg.shares import SECRET_BYTES
from shared.wire.canonical import transcript

TAG_BYTES = 16
SEALED_BYTES = 2 * SECRET_BYTES + TAG_BYTES
_NONCE = bytes(12)  # each key seals one message, ever
_AEADS: Final[Mapping[CipherName, type[AESGCM | ChaCha20Poly1305]]] = {
    "aes-256-ctr": AESGCM,
    "chacha20": ChaCha20Poly1305,
}


@dataclass(frozen=True)
class SharePair:
    """What one member holds for another; it reveals at most one of the two, ever.

    Attributes:
        self_mask: share of the owner's self-mask seed, revealed if the owner survived.
        mask_key: share of the owner's mask secret, revealed if the owner dropped out.
    """

    self_mask: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def seal(
    pair: SharePair, *, secret: bytes, public: bytes, sid: bytes, sender: int, receiver: int, cipher: CipherName
) -> bytes:
    """Return 80 octets that only ``receiver`` opens, under a key of this direction and cohort."""
    key = derive(agree(secret, public), sid, "fedloom/1/seal", sender, receiver)
    plain, context = pair.self_mask + pair.mask_key, _context(sid, sender, receiver)
    return encrypt(plain, key=key, nonce=_NONCE, context=context, cipher=cipher)


def open_sealed(
    box: bytes, *, secret: bytes, public: bytes, sid: bytes, sender: int, receiver: int, cipher: CipherName
) -> SharePair:
    """Undo ``seal`` on the receiver's side.

    Raises:
        ProtocolAbort: ``bad-sealed-share`` if the box was made for another cohort, pair or direction, or altered.
    """
    key = derive(agree(secret, public), sid, "fedloom/1/seal", sender, receiver)
    try:
        plain = decrypt(box, key=key, nonce=_NONCE, context=_context(sid, sender, receiver), cipher=cipher)
    except (InvalidTag, ValueError) as error:
        raise ProtocolAbort("bad-sealed-share", f"The shares that member {sender} sent do not open.") from error
    if len(plain) != 2 * SECRET_BYTES:
        raise ProtocolAbort("bad-sealed-share", f"Member {sender} sent shares of a wrong size.")
    return SharePair(plain[:SECRET_BYTES], plain[SECRET_BYTES:])


def _context(sid: bytes, sender: int, receiver: int) -> bytes:
    return transcript("fedloom/1/sealed-shares", sid, sender, receiver)


def encrypt(plain: bytes, *, key: bytes, nonce: bytes, context: bytes, cipher: CipherName) -> bytes:
    """Return ``plain`` encrypted, with a tag of 16 octets after it that also covers ``context``.

    AES-256-GCM (NIST SP 800-38D), or ChaCha20-Poly1305 (RFC 8439, section 2.8) where masks are ChaCha20's.
    """
    return _AEADS[cipher](key).encrypt(nonce, plain, context)


def decrypt(box: bytes, *, key: bytes, nonce: bytes, context: bytes, cipher: CipherName) -> bytes:
    """Undo ``encrypt``.

    Raises:
        InvalidTag: if box, nonce or context were altered, or the box is shorter than a tag.
    """
    return _AEADS[cipher](key).decrypt(nonce, box, context)

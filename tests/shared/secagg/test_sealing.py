"""Sealed shares open for one receiver, from one sender, in one cohort, unaltered; else not at all."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ProtocolAbort
from shared.secagg.keys import KeyPair
from shared.secagg.masking import CIPHERS, CipherName
from shared.secagg.sealing import SEALED_BYTES, SharePair, open_sealed, seal
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

SID = b"i" * 32
SENDER, RECEIVER, OTHER = (KeyPair.generate(Randomness(name)) for name in ("sender", "receiver", "other"))
PAIR = SharePair(b"s" * 32, b"k" * 32)


def sealed(sid: bytes = SID, sender: int = 1, receiver: int = 2, cipher: CipherName = "aes-256-ctr") -> bytes:
    keys = {"secret": SENDER.secret, "public": RECEIVER.public}
    return seal(PAIR, **keys, sid=sid, sender=sender, receiver=receiver, cipher=cipher)


def opened(
    box: bytes,
    *,
    secret: bytes = RECEIVER.secret,
    public: bytes = SENDER.public,
    cipher: CipherName = "aes-256-ctr",
) -> SharePair:
    return open_sealed(box, secret=secret, public=public, sid=SID, sender=1, receiver=2, cipher=cipher)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_the_receiver_opens_what_the_sender_sealed(cipher: CipherName) -> None:
    box = sealed(cipher=cipher)
    assert len(box) == SEALED_BYTES == 80
    assert opened(box, cipher=cipher) == PAIR


def test_a_box_of_the_other_cipher_does_not_open() -> None:
    for cipher, other in (CIPHERS, CIPHERS[::-1]):
        with refused("bad-sealed-share", ProtocolAbort):
            opened(sealed(cipher=cipher), cipher=other)


def test_the_box_shows_neither_share() -> None:
    assert PAIR.self_mask not in sealed()
    assert PAIR.mask_key not in sealed()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"sender": 2, "receiver": 1}, id="other direction"),
        pytest.param({"sender": 0}, id="other sender"),
        pytest.param({"receiver": 3}, id="other receiver"),
        pytest.param({"sid": b"j" * 32}, id="other cohort"),
    ],
)
def test_a_box_made_for_something_else_does_not_open(change: dict[str, Any], cipher: CipherName) -> None:
    with refused("bad-sealed-share", ProtocolAbort):
        opened(sealed(**change, cipher=cipher), cipher=cipher)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("length", [0, 15, 16, 63, 79, 81])
def test_a_box_of_another_length_does_not_open(length: int, cipher: CipherName) -> None:
    with refused("bad-sealed-share", ProtocolAbort):
        opened((sealed(cipher=cipher) + b"\0")[:length], cipher=cipher)


def test_another_receiver_or_another_senders_key_does_not_open_it() -> None:
    with refused("bad-sealed-share", ProtocolAbort):
        opened(sealed(), secret=OTHER.secret)
    with refused("bad-sealed-share", ProtocolAbort):
        opened(sealed(), public=OTHER.public)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_flipped_bit_is_found(cipher: CipherName) -> None:
    box = sealed(cipher=cipher)
    for octet in range(len(box)):
        flipped = bytearray(box)
        flipped[octet] ^= 1 << octet % 8
        with refused("bad-sealed-share", ProtocolAbort):
            opened(bytes(flipped), cipher=cipher)


@pytest.mark.parametrize("length", [0, 31])
def test_well_sealed_shares_of_a_wrong_size_are_refused(length: int) -> None:
    short = SharePair(b"s" * 32, b"k" * length)
    keys = {"secret": SENDER.secret, "public": RECEIVER.public}
    box = seal(short, **keys, sid=SID, sender=1, receiver=2, cipher="aes-256-ctr")
    with refused("bad-sealed-share", ProtocolAbort):
        opened(box)


def test_shares_are_not_printed() -> None:
    assert "sss" not in repr(PAIR)
    assert "kkk" not in repr(PAIR)

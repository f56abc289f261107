"""Sealed shares open for one receiver, from one sender, in one cohort, unaltered; else not at all."""

from __future__ import annotations

import pytest

from shared.errors import ProtocolAbort
from shared.secagg.keys import KeyPair
from shared.secagg.sealing import SEALED_BYTES, SharePair, open_sealed, seal
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

SID = b"i" * 32
SENDER, RECEIVER, OTHER = (KeyPair.generate(Randomness(name)) for name in ("sender", "receiver", "other"))
PAIR = SharePair(b"s" * 32, b"k" * 32)


def sealed(sid: bytes = SID, sender: int = 1, receiver: int = 2) -> bytes:
    return seal(PAIR, secret=SENDER.secret, public=RECEIVER.public, sid=sid, sender=sender, receiver=receiver)


def opened(box: bytes, *, secret: bytes = RECEIVER.secret, public: bytes = SENDER.public) -> SharePair:
    return open_sealed(box, secret=secret, public=public, sid=SID, sender=1, receiver=2)


def test_the_receiver_opens_what_the_sender_sealed() -> None:
    assert len(sealed()) == SEALED_BYTES == 80
    assert opened(sealed()) == PAIR


def test_the_box_shows_neither_share() -> None:
    assert PAIR.self_mask not in sealed()
    assert PAIR.mask_key not in sealed()


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(sealed(sender=2, receiver=1), id="other direction"),
        pytest.param(sealed(sender=0), id="other sender"),
        pytest.param(sealed(receiver=3), id="other receiver"),
        pytest.param(sealed(sid=b"j" * 32), id="other cohort"),
        pytest.param(sealed()[:-1], id="cut"),
        pytest.param(sealed() + b"\0", id="longer"),
        pytest.param(b"", id="empty"),
        pytest.param(bytes(15), id="shorter than a tag"),
    ],
)
def test_another_box_does_not_open(box: bytes) -> None:
    with refused("bad-sealed-share", ProtocolAbort):
        opened(box)


def test_another_receiver_or_another_senders_key_does_not_open_it() -> None:
    with refused("bad-sealed-share", ProtocolAbort):
        opened(sealed(), secret=OTHER.secret)
    with refused("bad-sealed-share", ProtocolAbort):
        opened(sealed(), public=OTHER.public)


def test_every_flipped_bit_is_found() -> None:
    box = sealed()
    for octet in range(len(box)):
        flipped = bytearray(box)
        flipped[octet] ^= 1 << octet % 8
        with refused("bad-sealed-share", ProtocolAbort):
            opened(bytes(flipped))


@pytest.mark.parametrize("length", [0, 31])
def test_well_sealed_shares_of_a_wrong_size_are_refused(length: int) -> None:
    short = SharePair(b"s" * 32, b"k" * length)
    box = seal(short, secret=SENDER.secret, public=RECEIVER.public, sid=SID, sender=1, receiver=2)
    with refused("bad-sealed-share", ProtocolAbort):
        opened(box)


def test_shares_are_not_printed() -> None:
    assert "sss" not in repr(PAIR)
    assert "kkk" not in repr(PAIR)

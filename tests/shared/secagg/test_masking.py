"""Masks: uniform alone, gone together."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from shared.limits import MASK_PIECE_BYTES
from shared.secagg.keys import KeyPair
from shared.secagg.masking import Mask, MaskedUpdate, Words, add_into, apply_masks, pair_mask, self_mask
from shared.secagg.parameters import CohortRules
from tests.shared.cohort_simulation import CohortSimulation, Randomness, binding_for

SID = b"i" * 32
PIECE_WORDS = MASK_PIECE_BYTES // 8
RULES = CohortRules(min_survivors=2, largest=5, corrupt_share=0.0, dropout_share=0.4)


def chi_squared(words: Words) -> float:
    """Return the statistic of the octets' histogram: 255 degrees of freedom, mean 255, deviation 22.6."""
    counts = np.bincount(np.frombuffer(MaskedUpdate(words).to_bytes(), dtype=np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def one_masked_vector(words: Words, cohort: str) -> Words:
    simulation = CohortSimulation(3, RULES, binding=binding_for(cohort))
    simulation.run_to("share")
    return simulation.sessions[0].mask(simulation.inbox(0), words).words


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1])
def test_a_masked_vector_alone_is_uniform(value: int) -> None:
    words = np.full(50_000, value, dtype=np.uint64)
    assert chi_squared(words) > 10_000  # the statistic does see what is not uniform
    masked = one_masked_vector(words, "cohort-a")
    assert 255 - 5 * 22.6 < chi_squared(masked) < 255 + 5 * 22.6
    for shift in (0, 31, 63):  # single bits of the words too: 50,000 throws of a coin, five deviations
        ones = int(((masked >> np.uint64(shift)) & np.uint64(1)).sum())
        assert abs(ones - 25_000) < 5 * 112


def test_the_same_update_in_two_cohorts_differs_everywhere() -> None:
    """Were a keystream used twice, the difference would show the update."""
    first = one_masked_vector(np.zeros(50_000, dtype=np.uint64), "cohort-a")
    second = one_masked_vector(np.zeros(50_000, dtype=np.uint64), "cohort-b")
    assert chi_squared(first - second) < 255 + 5 * 22.6


@given(
    st.integers(2, 6),
    st.sampled_from([0, 1, 2, PIECE_WORDS - 1, PIECE_WORDS, PIECE_WORDS + 1, 2 * PIECE_WORDS + 3]),
    st.integers(0, 2**32),
)
def test_pair_masks_cancel_in_the_sum(members: int, size: int, seed: int) -> None:
    keys = [KeyPair.generate(Randomness(f"{seed} {i}")) for i in range(members)]
    total = np.zeros(size, dtype=np.uint64)
    for own in range(members):
        vector = np.full(size, own, dtype=np.uint64)
        others = [other for other in range(members) if other != own]
        apply_masks(
            vector, [pair_mask(keys[own].secret, keys[other].public, SID, own=own, other=other) for other in others]
        )
        add_into(total, vector)
    np.testing.assert_array_equal(total, np.full(size, sum(range(members)), dtype=np.uint64))


def test_a_mask_and_its_inverse_cancel_and_wrap() -> None:
    words = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    before = words.copy()
    mask = self_mask(b"seed" * 8, SID, 3)
    apply_masks(words, [mask])
    assert not np.array_equal(words, before)
    apply_masks(words, [mask.inverse()])
    np.testing.assert_array_equal(words, before)


@pytest.mark.parametrize("size", [1, PIECE_WORDS, PIECE_WORDS + 1, 3 * PIECE_WORDS])
def test_the_keystream_is_one_aes_256_ctr_stream(size: int) -> None:
    """Pieces are an optimisation: the whole equals one call, read as little-endian words."""
    key = bytes(range(32))
    expected = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8 * size))
    words = np.zeros(size, dtype=np.uint64)
    apply_masks(words, [Mask(key, negative=False)])
    assert MaskedUpdate(words).to_bytes() == expected
    assert words[0] == int.from_bytes(expected[:8], "little")


def test_both_ends_derive_one_pair_mask_with_opposite_signs() -> None:
    low, high = KeyPair.generate(Randomness("low")), KeyPair.generate(Randomness("high"))
    ours = pair_mask(low.secret, high.public, SID, own=2, other=7)
    theirs = pair_mask(high.secret, low.public, SID, own=7, other=2)
    assert ours == theirs.inverse()
    assert not ours.negative
    assert pair_mask(low.secret, high.public, SID, own=2, other=8).key != ours.key

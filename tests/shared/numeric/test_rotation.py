"""The rotation loses nothing, keeps norms, and leaves no coordinate that stands out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.numeric.rotation import LARGEST_BLOCK, block_size, rotate, rotate_back, rotated_size, spread

SID = b"session" * 4 + b"1234"
SIZES = [1, 2, 3, 7, 64, 65, 100, 600, 1000, 4096, 4097, 5000, 50_000]


def random_values(seed: int, size: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=size)


@given(st.integers(0, 2**32), st.sampled_from(SIZES), st.integers(0, 1))
def test_what_is_rotated_back_is_what_was_rotated(seed: int, size: int, group: int) -> None:
    values = random_values(seed, size)
    rotated = rotate(values, SID, group)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(values), rel=1e-12)
    np.testing.assert_allclose(
        rotate_back(rotated, size, SID, group), values, atol=1e-12 * float(np.linalg.norm(values))
    )


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100, 256])
def test_rows_are_orthonormal(size: int) -> None:
    matrix = np.array([rotate(row, SID, 0) for row in np.eye(size)])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


@given(st.integers(0, 2**32), st.sampled_from(SIZES))
def test_the_sum_of_rotated_vectors_is_the_rotated_sum(seed: int, size: int) -> None:
    vectors = [random_values(seed + device, size) for device in range(3)]
    together = np.sum([rotate(vector, SID, 0) for vector in vectors], axis=0)
    np.testing.assert_allclose(rotate_back(together, size, SID, 0), np.sum(vectors, axis=0), atol=1e-10)


@given(st.sampled_from(SIZES), st.data())
def test_a_spike_is_spread_over_its_block(size: int, data: st.DataObject) -> None:
    spike = np.zeros(size)
    spike[data.draw(st.integers(0, size - 1))] = 1.0
    magnitudes = np.abs(rotate(spike, SID, 0))
    block = block_size(size)
    assert np.count_nonzero(magnitudes > 0) == block
    assert magnitudes.max() == pytest.approx(1 / np.sqrt(block))


@pytest.mark.parametrize("size", [5000, 50_000])
def test_no_coordinate_of_an_adverse_vector_leaves_the_spread(size: int) -> None:
    """One over all coordinates is a row of H: without random signs, one coordinate would hold all of a block."""
    flat = np.full(size, 1 / np.sqrt(size))
    for number in range(50):
        assert np.abs(rotate(flat, number.to_bytes(32, "big"), 0)).max() <= spread(size)


def test_sessions_and_groups_have_signs_of_their_own() -> None:
    values = np.ones(4096)
    rotated = [rotate(values, sid, group) for sid in (SID, bytes(32)) for group in (0, 1)]
    for one in range(4):
        for other in range(one):
            correlation = float(rotated[one] @ rotated[other]) / 4096
            assert abs(correlation) < 5 / np.sqrt(4096)


@given(st.integers(0, 10**7))
def test_only_a_sixteenth_is_padding_in_blocks_of_a_power_of_two(dimension: int) -> None:
    size, block = rotated_size(dimension), block_size(dimension)
    assert block & (block - 1) == 0
    assert block <= LARGEST_BLOCK
    assert size % block == 0
    assert dimension <= size < dimension + block
    if dimension >= 1024:
        assert size - dimension <= dimension / 16


@pytest.mark.parametrize(
    ("dimension", "block"), [(1, 1), (7, 8), (600, 1024), (1000, 1024), (5000, 1024), (10**6, 4096)]
)
def test_blocks_are_the_specified_ones(dimension: int, block: int) -> None:
    assert block_size(dimension) == block

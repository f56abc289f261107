"""Ways to divide examples: every example goes to exactly one device, and the same seed divides alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.partitions import dirichlet, divide, iid, two_shard
from shared.examples import Examples

LABELS = st.lists(st.integers(0, 9), max_size=200).map(lambda values: np.array(values, np.int32))
DEVICES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)


@given(LABELS, DEVICES, SEEDS, st.floats(0.05, 100))
def test_every_example_goes_to_exactly_one_device(
    y: np.ndarray[tuple[int], np.dtype[np.int32]], devices: int, seed: int, alpha: float
) -> None:
    for parts in (iid(y, devices, seed), two_shard(y, devices, seed), dirichlet(y, devices, alpha, seed)):
        assert len(parts) == devices
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))


@given(LABELS, DEVICES, SEEDS, st.floats(0.05, 100))
def test_the_seed_decides(y: np.ndarray[tuple[int], np.dtype[np.int32]], devices: int, seed: int, alpha: float) -> None:
    for one, again in zip(dirichlet(y, devices, alpha, seed), dirichlet(y, devices, alpha, seed), strict=True):
        np.testing.assert_array_equal(one, again)


@given(DEVICES, SEEDS, st.integers(1, 20))
def test_two_shards_have_at_most_four_classes_and_equal_sizes(devices: int, seed: int, each: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 2 * devices * each)).astype(np.int32)
    for part in two_shard(y, devices, seed):
        assert len(part) == 10 * each * 2
        # A shard is no longer than two classes where there are at least ten; ten devices have one class per shard.
        if devices >= 5:
            assert len(np.unique(y[part])) <= 4
        if devices % 5 == 0:
            assert len(np.unique(y[part])) <= 2


def test_small_alpha_makes_devices_unlike_and_large_alpha_alike() -> None:
    y = np.repeat(np.arange(10), 500).astype(np.int32)

    def largest_share(alpha: float) -> float:
        parts = dirichlet(y, 10, alpha, 1)
        return float(np.mean([np.bincount(y[part]).max() / len(part) for part in parts if len(part)]))

    assert largest_share(0.05) > 0.5
    assert largest_share(1000.0) < 0.15


@given(LABELS, DEVICES, SEEDS, st.floats(0, 0.9))
def test_devices_hold_out_their_own_examples(
    y: np.ndarray[tuple[int], np.dtype[np.int32]], devices: int, seed: int, share: float
) -> None:
    parts = iid(y, devices, seed)
    divided = divide(Examples(np.arange(len(y)), y), parts, share, seed)
    assert list(divided) == list(range(1, devices + 1))
    for rows, (train, held_out) in zip(parts, divided.values(), strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([np.asarray(train.x), np.asarray(held_out.x)])), rows)
        assert len(held_out) == round(len(rows) * share)
        np.testing.assert_array_equal(y[np.asarray(train.x, np.int64)], train.y)

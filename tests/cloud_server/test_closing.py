"""From a cohort's sum to the next weights, against NumPy; the running sum against Python integers."""

from __future__ import annotations

import io
import os
from pathlib import Path, PosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloud_server.aggregation.closing import step_weights
from cloud_server.aggregation.running_sum import RunningSum, VectorsLost
from shared.bundle import TensorSpec
from shared.layout import Layout
from shared.limits import READ_PIECE_BYTES
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.plan import Plan, Server, Update
from shared.wire.canonical import sha256
from tests.shared.refusals import refused

DIMENSION: Final = 7
LAYOUT: Final = Layout.of([TensorSpec("w", (DIMENSION,), 0, DIMENSION, "shared")])
finite = st.floats(-10, 10, width=32)


def aggregate_of(values: npt.NDArray[np.float64], weight_sum: int, survivors: int) -> AggregateSum:
    return AggregateSum(values, weight_sum, 0, Evaluation(0.0, 0, 0), survivors)


@given(
    hnp.arrays(np.float32, (4, DIMENSION), elements=finite),
    hnp.arrays(np.float32, DIMENSION, elements=finite),
    st.lists(st.integers(1, 50), min_size=4, max_size=4),
    st.integers(1, 32),
)
def test_mean_is_the_mean_weighted_by_examples(
    updates: npt.NDArray[np.float32], master: npt.NDArray[np.float32], examples: list[int], max_weight: int
) -> None:
    plan = Plan("t", update=Update(max_weight=max_weight), server=Server("mean", 0.5))
    weights = np.minimum(examples, max_weight)
    sent = updates.astype(np.float64) * (weights / max_weight)[:, None]  # what devices add up
    got = step_weights(master, aggregate_of(sent.sum(axis=0), int(weights.sum()), 4), plan, LAYOUT)
    expected = master + 0.5 * np.average(updates.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    assert got.dtype == np.float32


@given(hnp.arrays(np.float32, (4, DIMENSION), elements=finite), hnp.arrays(np.float32, DIMENSION, elements=finite))
def test_sum_is_the_textbook_step(updates: npt.NDArray[np.float32], master: npt.NDArray[np.float32]) -> None:
    plan = Plan("t", server=Server("sum", 0.1))
    got = step_weights(master, aggregate_of(updates.astype(np.float64).sum(axis=0), 4, 4), plan, LAYOUT)
    np.testing.assert_allclose(got, master + 0.1 * updates.astype(np.float64).sum(axis=0), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e40])
def test_weights_that_are_no_numbers_are_not_published(value: float) -> None:
    values = np.zeros(DIMENSION)
    values[3] = value
    with refused("not-finite"), np.errstate(over="ignore"):
        step_weights(np.zeros(DIMENSION, np.float32), aggregate_of(values, 4, 4), Plan("t"), LAYOUT)


@pytest.mark.parametrize("words", [1, READ_PIECE_BYTES // 8, READ_PIECE_BYTES // 8 + 1, READ_PIECE_BYTES // 4 + 3])
def test_vectors_are_added_modulo_two_to_the_64_each_once(tmp_path: Path, words: int) -> None:
    random = np.random.default_rng(words)
    vectors = [random.integers(0, 2**64, words, dtype=np.uint64) for _ in range(3)]
    running = RunningSum(words)
    for index, vector in enumerate(vectors):
        data = vector.astype("<u8").tobytes()
        (tmp_path / str(index)).write_bytes(data)
        running.add(index, tmp_path / str(index), sha256(data).hex())
        running.add(index, tmp_path / str(index), sha256(data).hex())
    for place in (0, words // 2, words - 1):
        assert int(running.total[place]) == sum(int(vector[place]) for vector in vectors) % 2**64
    assert running.added == {0, 1, 2}


def test_a_stored_vector_of_another_length_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(16))
    running = RunningSum(3)
    with refused("vector-lost", VectorsLost):
        running.add(0, tmp_path / "short", sha256(bytes(16)).hex())
    assert running.added == frozenset()


class Unsteady(PosixPath):
    """A file that a failing disk reads differently each time."""

    def open(self, *_: object, **__: object) -> io.BytesIO:  # type: ignore[override]
        return io.BytesIO(os.urandom(self.stat().st_size))


@pytest.mark.parametrize("place", [0, READ_PIECE_BYTES, -1])
def test_a_vector_with_a_bit_that_the_disk_turned_is_not_added(tmp_path: Path, place: int) -> None:
    words = READ_PIECE_BYTES // 8 + 3
    first, second = (np.random.default_rng(seed).bytes(8 * words) for seed in (1, 2))
    (tmp_path / "first").write_bytes(first)
    damaged = bytearray(second)
    damaged[place] ^= 0x10
    (tmp_path / "second").write_bytes(damaged)
    running = RunningSum(words)
    running.add(0, tmp_path / "first", sha256(first).hex())
    with refused("vector-lost", VectorsLost):
        running.add(1, tmp_path / "second", sha256(second).hex())
    assert running.added == {0}
    assert running.total.tobytes() == first  # as if nobody had looked at the other one
    (tmp_path / "second").write_bytes(second)
    running.add(1, tmp_path / "second", sha256(second).hex())
    assert running.added == {0, 1}


def test_a_disk_that_reads_differently_each_time_leaves_nothing_in_the_sum(tmp_path: Path) -> None:
    """What was added of it cannot be taken out again: whoever goes on begins anew, and misses no device's vector."""
    data = bytes(range(24))
    (tmp_path / "first").write_bytes(data)
    (tmp_path / "second").write_bytes(data)
    running = RunningSum(3)
    running.add(0, tmp_path / "first", sha256(data).hex())
    with refused("vector-lost", VectorsLost):
        running.add(1, Unsteady(tmp_path / "second"), sha256(data).hex())
    assert running.added == frozenset()
    assert not running.total.any()


ROLES: Final = Layout.of(
    [
        TensorSpec("kernel", (2,), 0, 2, "shared"),
        TensorSpec("norm/moving_mean", (2,), 2, 2, "statistic"),
        TensorSpec("norm/moving_variance", (2,), 4, 2, "statistic", 0.0),
        TensorSpec("head", (1,), 6, 1, "local"),
    ]
)


@pytest.mark.parametrize("server", [Server("mean", 0.5), Server("sum", 0.5)])
def test_statistics_become_the_plain_mean_and_no_variance_is_negative(server: Server) -> None:
    """Neither the learning rate nor a sum moves moments; the head stays where it was converted."""
    plan = Plan("t", update=Update(max_weight=1), server=server)
    moved = np.array([2.0, -4.0, 2.0, -6.0])
    total = AggregateSum(np.array([2.0, 4.0]), 2, 0, Evaluation(0.0, 0, 0), 2, moved)
    got = step_weights(np.ones(DIMENSION, np.float32), total, plan, ROLES)
    shared = [1.5, 2.0] if server.combine == "mean" else [2.0, 3.0]
    assert got.tolist() == [*shared, 2.0, -1.0, 2.0, 0.0, 1.0]

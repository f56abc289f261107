"""Dividing a flat vector by role and joining it again; what a version starts from."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from shared.bundle import Role, TensorSpec
from shared.errors import UsageError
from shared.layout import Layout
from shared.numeric.starting_weights import read_start, write_start
from tests.shared.refusals import refused

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(get_args(Role))), min_size=1, max_size=8)


def tensors_of(drawn: list[tuple[tuple[int, ...], Role]]) -> tuple[TensorSpec, ...]:
    specs, offset = [], 0
    for number, (shape, role) in enumerate(drawn):
        specs.append(TensorSpec(f"tensor/{number}", shape, offset, math.prod(shape), role))
        offset += math.prod(shape)
    return tuple(specs)


@given(TENSORS)
def test_every_coordinate_is_in_the_part_of_its_role_and_comes_back(drawn: list[tuple[tuple[int, ...], Role]]) -> None:
    tensors = tensors_of(drawn)
    layout, size = Layout.of(tensors), sum(spec.size for spec in tensors)
    vector = np.arange(size, dtype=np.float32)
    joined = np.full(size, np.nan, np.float32)
    parts = zip(get_args(Role), (layout.shared, layout.statistics, layout.local), strict=True)
    for role, part in parts:
        expected = [vector[spec.offset : spec.offset + spec.size] for spec in tensors if spec.role == role]
        assert part.take(vector).tolist() == np.concatenate([vector[:0], *expected]).tolist()
        assert part.size == len(part.take(vector))
        joined = part.replace(joined, part.take(vector))
    assert joined.tolist() == vector.tolist()
    assert layout.shared.size + layout.statistics.size + layout.local.size == size


@given(TENSORS, st.integers(0, 2**32))
def test_local_values_are_in_no_file_that_changes(drawn: list[tuple[tuple[int, ...], Role]], seed: int) -> None:
    tensors = tensors_of(drawn)
    layout = Layout.of(tensors)
    weights = np.random.default_rng(seed).normal(size=sum(spec.size for spec in tensors)).astype(np.float32)
    wire, local = write_start(weights, tensors)
    names = {name.removesuffix("#scale") for name in load(wire)}
    assert names == {spec.path for spec in tensors if spec.role != "local"}
    start = read_start(wire, local, tensors)
    assert layout.local.take(start).tolist() == layout.local.take(weights).tolist()
    assert (local is None) == (layout.local.size == 0)


def test_values_of_another_size_are_not_joined() -> None:
    layout = Layout.of(tensors_of([((2,), "shared"), ((3,), "local")]))
    with pytest.raises(ValueError, match="3 places"):
        layout.local.replace(np.zeros(5), np.zeros(2))


@pytest.mark.parametrize("data", [None, b"", b"no tensors"])
def test_missing_initial_values_are_refused(data: bytes | None) -> None:
    tensors = tensors_of([((2,), "shared"), ((3,), "local")])
    wire, _ = write_start(np.zeros(5, np.float32), tensors)
    with refused("bad-weights", UsageError):
        read_start(wire, data, tensors)

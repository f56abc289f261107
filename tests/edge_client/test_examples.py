"""Reading a device's data: what is accepted, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_client.examples import read_examples
from shared.errors import UsageError
from tests.shared.refusals import refused

NOW_S = 1_800_000_000.0
X, Y = np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(4)
HELD_OUT = np.array([False, True, False, True])


def test_held_out_examples_are_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "examples.npz", x=X, y=Y, held_out=HELD_OUT)
    train, held_out = read_examples(tmp_path, NOW_S)
    assert train.y.tolist() == [0, 2]
    assert held_out.y.tolist() == [1, 3]
    np.testing.assert_array_equal(train.inputs()["x"], X[[0, 2]])


def test_without_flags_everything_is_for_training(tmp_path: Path) -> None:
    np.savez(tmp_path / "examples.npz", x_left=X, x_right=X, y=Y)
    train, held_out = read_examples(tmp_path, NOW_S)
    assert (len(train), len(held_out)) == (4, 0)
    assert set(train.inputs()) == {"x_left", "x_right"}


def test_missing(tmp_path: Path) -> None:
    with refused("examples-missing"):
        read_examples(tmp_path, NOW_S)


@pytest.mark.parametrize(
    ("code", "arrays"),
    [
        ("examples-shape", {"x": X}),
        ("examples-shape", {"y": Y}),
        ("examples-shape", {"x": X[:3], "y": Y}),
        ("examples-shape", {"x": X, "y": Y, "held_out": np.zeros(4)}),
        ("examples-shape", {"x": X, "y": Y, "held_out": np.zeros(3, bool)}),
        ("examples-shape", {"x": np.float32(1), "y": Y}),
        ("examples-empty", {"x": X, "y": Y, "held_out": np.ones(4, bool)}),
        ("examples-empty", {"x": X[:0], "y": Y[:0]}),
        ("examples-unreadable", {"x": X, "y": np.array([{}], dtype=object)}),
    ],
)
def test_mistakes(
    tmp_path: Path, code: str, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> None:
    np.savez(tmp_path / "examples.npz", **arrays)
    with refused(code):
        read_examples(tmp_path, NOW_S)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x80\x04N."])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "examples.npz").write_bytes(content)
    with refused("examples-unreadable"):
        read_examples(tmp_path, NOW_S)


def test_a_single_array(tmp_path: Path) -> None:
    with (tmp_path / "examples.npz").open("wb") as file:
        np.save(file, X)
    with refused("examples-unreadable"):
        read_examples(tmp_path, NOW_S)


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_bits_have_one_name(tmp_path: Path, compressed: bool) -> None:  # noqa: FBT001
    path = tmp_path / "examples.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, y=Y)
    whole = path.read_bytes()
    codes: set[str] = set()
    for position in range(8 * len(whole)):
        if position % 3 == 0:
            data = bytearray(whole)
            data[position // 8] ^= 1 << position % 8
            path.write_bytes(data)
            try:
                read_examples(tmp_path, NOW_S)
            except UsageError as error:
                codes.add(error.code)
    assert "examples-unreadable" in codes
    assert codes <= {"examples-unreadable", "examples-shape", "examples-empty"}

"""The data of task ``activity``: real, whole, and split so that no window is on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.activity import load
from shared.examples import Examples, write_examples


@pytest.mark.parametrize("strangers", [(9, 10), (1, 2), (4, 5)])
def test_people_held_out_are_on_no_device(strangers: tuple[int, int]) -> None:
    data = load(strangers)
    assert set(data.devices) == set(range(1, 11)) - set(strangers)
    test = {window.tobytes() for window in np.asarray(data.test.x)}
    for parts in data.devices.values():
        assert not test & {window.tobytes() for part in parts for window in np.asarray(part.x)}


def test_split_keeps_a_gap_between_training_and_held_out() -> None:
    train, held_out = load().devices[1]
    assert 0.75 < len(train) / (len(train) + len(held_out)) < 0.87
    # Neighbours overlap by half: no first half of a held-out window is the second half of a training window.
    seconds = {window[50:].tobytes() for window in np.asarray(train.x)}
    firsts = {window[:50].tobytes() for window in np.asarray(held_out.x)}
    assert not seconds & firsts
    assert set(np.unique(train.y)) == set(np.unique(held_out.y)) == set(range(7))


def test_windows_are_scaled_to_unit_order() -> None:
    x = np.asarray(load().devices[3][0].x)
    assert x.dtype == np.float32
    assert x.shape[1:] == (100, 6)
    spread = x.std(axis=(0, 1))
    assert ((spread > 0.1) & (spread < 3)).all()


def test_a_devices_folder_holds_its_own_examples(tmp_path: Path) -> None:
    train, held_out = load().devices[4]
    write_examples(tmp_path / "four", train, held_out)
    with np.load(tmp_path / "four" / "examples.npz", allow_pickle=False) as stored:
        assert int(stored["held_out"].sum()) == len(held_out)
        np.testing.assert_array_equal(stored["x"][~stored["held_out"]], np.asarray(train.x))
        np.testing.assert_array_equal(stored["y"][stored["held_out"]], held_out.y)


def test_examples_by_input_name_are_kept_apart(tmp_path: Path) -> None:
    parts = [Examples({"x_a": np.full((2, 1), i), "x_b": np.zeros((2, 3))}, np.zeros(2)) for i in (0, 1)]
    write_examples(tmp_path, parts[0], parts[1])
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["x_a"][:, 0], [0, 0, 1, 1])

"""What the demo shows: counts that are right, pictures that are pictures, a text that its seed decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.examples import Examples
from tools.demo.exhibits import confusion, draw_confusion, draw_strip, write_text

PNG = b"\x89PNG"
CLASSES = ("a", "b", "c")


def test_rows_of_the_confusion_matrix_are_what_was_said(tmp_path: Path) -> None:
    y, answers = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(confusion(y, answers, 3), [[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    draw_confusion(tmp_path / "confusion.png", y, answers, CLASSES, "three letters")
    assert (tmp_path / "confusion.png").read_bytes().startswith(PNG)


def test_a_strip_can_have_fewer_images_than_places(tmp_path: Path) -> None:
    examples = Examples(np.zeros((2, 4, 4, 1), np.float32), np.array([0, 2]))
    draw_strip(tmp_path / "strip.png", examples, np.array([0, 1]), CLASSES, seed=1)
    assert (tmp_path / "strip.png").read_bytes().startswith(PNG)


def test_a_model_that_knows_the_alphabet_writes_it() -> None:
    """Each symbol is followed by the next one, whether the prompt is shorter than what the model reads or not."""

    def next_symbol(
        x: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.eye(5, dtype=np.float32)[(x + 1) % 5] * 100
        return logits

    assert write_text(next_symbol, "abcde", 3, "b", 9, seed=1) == "cdeabcdea"
    assert write_text(next_symbol, "abcde", 3, "abcd", 3, seed=1) == "eab"


def test_the_seed_decides_the_text() -> None:
    def unsure(x: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros((*x.shape, 5), np.float32)

    one, again, other = (write_text(unsure, "abcde", 3, "a", 40, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert set(one) == set("abcde")

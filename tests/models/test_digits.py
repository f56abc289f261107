"""The images of task ``digits``: scaled, as many of each class, none on both sides, nobody's identity in the file."""

from __future__ import annotations

import numpy as np

from models.digits import DATA_FILE, load
from models.task import DATA_FOLDER


def test_images_are_scaled_and_every_class_is_as_frequent() -> None:
    for examples, each in zip(load(), (600, 200), strict=True):
        x = np.asarray(examples.x)
        assert x.shape == (10 * each, 28, 28, 1)
        assert x.dtype == np.float32
        assert examples.y.dtype == np.int32
        assert (x.min(), x.max()) == (0.0, 1.0)
        np.testing.assert_array_equal(np.bincount(examples.y), np.full(10, each))


def test_no_test_image_is_trained_on() -> None:
    train, test = ({image.tobytes() for image in np.asarray(examples.x)} for examples in load())
    assert not train & test


def test_the_file_does_not_say_who_wrote_a_digit() -> None:
    with np.load(DATA_FOLDER / DATA_FILE, allow_pickle=False) as stored:
        assert set(stored) == {"x_train", "y_train", "x_test", "y_test"}

"""A task of one's own: what is read from folders, and what is said when they are wrong."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import UsageError
from shared.plan import Plan
from tools.task.files import read_file
from tools.task.new import Found, write_task
from tools.task.own import OwnTask, load_task, missing_classes, read_task, require_licence, write_devices

OWNERS, CLASSES, SHAPE = ("ada", "ben", "cleo", "dora", "emil"), ("no", "yes"), (4, 2)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for number, owner in enumerate(OWNERS):
        for label, name in enumerate(CLASSES):
            place = folder / owner / name
            place.mkdir(parents=True)
            for index in range(10):
                np.save(place / f"{index}.npy", np.full(SHAPE, 100 * number + 10 * label + index, np.float32))
    return folder


@pytest.fixture
def folder(tmp_path: Path, examples: Path) -> Path:
    return write_task("doors", tmp_path, Found(tmp_path / "m.keras", examples, SHAPE, 2), "CC0, nobody")


def refused(code: str, call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.remedy
    return f"{caught.value} {caught.value.remedy}"


def edit(folder: Path, key: str, value: str) -> OwnTask:
    path = folder / "task.toml"
    lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    return read_task(folder)


def test_what_is_written_is_read_and_divided(folder: Path) -> None:
    task = read_task(folder)
    owned = load_task(task)
    assert (task.classes, task.input_shape, task.test_owners) == (CLASSES, SHAPE, ("emil",))
    assert list(owned.devices) == list(OWNERS[:-1])
    assert list(owned.strangers) == ["emil"]
    train, held = owned.devices["ben"]
    assert (len(train), len(held)) == (16, 4)
    values = np.asarray(train.x)[:, 0, 0]
    assert sorted(values[train.y == 1]) == [110, 111, 112, 113, 114, 115, 116, 117]  # the last ones are held out
    assert sorted(np.asarray(held.x)[:, 0, 0]) == [108, 109, 118, 119]
    plan = Plan.from_toml((folder / "plan.toml").read_text())
    assert (plan.task, plan.cohort.min_survivors, plan.cohort.largest) == ("doors", 3, 4)


@pytest.mark.parametrize("suffix", ["csv", "png", "jpg", "wav"])
def test_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_text("1,2\n3,4\n")
        np.testing.assert_array_equal(read_file(path, (2, 2)), [[1, 2], [3, 4]])
    elif suffix == "wav":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 3, "NONE", ""))
            sound.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
        np.testing.assert_array_equal(read_file(path, (3,)), [0, 0.5, -1])
    else:
        Image.fromarray(np.full((3, 5, 3), 255, np.uint8)).save(path)
        np.testing.assert_allclose(read_file(path, (3, 5, 3)), 1)


def test_an_owner_who_lacks_a_class_is_a_note(folder: Path, examples: Path) -> None:
    for path in (examples / "ada" / "yes").iterdir():
        path.unlink()
    task = read_task(folder)
    assert missing_classes(task, load_task(task)) == ["ada has no example of yes"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.npy", b"nonsense"), ("a.csv", b"1,x"), ("a.wav", b""), ("a.txt", b"1")]
)
def test_a_file_that_cannot_be_read_is_named(folder: Path, examples: Path, name: str, content: bytes) -> None:
    (examples / "ben" / "no" / name).write_bytes(content)
    assert name in refused("example-unreadable", lambda: load_task(read_task(folder)))


def test_examples_of_another_shape_or_value_are_named(folder: Path, examples: Path) -> None:
    path = examples / "cleo" / "yes" / "3.npy"
    np.save(path, np.zeros((5, 2), np.float32))
    assert "[5, 2]" in refused("example-shape", lambda: load_task(read_task(folder)))
    np.save(path, np.full(SHAPE, np.nan, np.float32))
    refused("example-unreadable", lambda: load_task(read_task(folder)))


def test_as_many_numbers_in_another_shape_are_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4))
    refused("example-shape", lambda: read_file(path, (4, 3)))
    assert read_file(path, (3, 4, 1)).shape == (3, 4, 1)
    np.testing.assert_array_equal(read_file(path, (12,)), np.arange(12))


def test_one_error_names_several_files(folder: Path, examples: Path) -> None:
    for name in "123":
        (examples / "ben" / "no" / f"{name}.npy").write_bytes(b"nonsense")
    told = refused("example-unreadable", lambda: load_task(read_task(folder)))
    assert all(f"{name}.npy" in told for name in "123")


def test_grey_with_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    Image.fromarray(shades).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_file(tmp_path / "a.png", (3, 4)), shades / np.float32(65535), atol=1e-6)


def test_values_that_are_no_real_numbers_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3, np.complex64))
    assert "complex64" in refused("example-unreadable", lambda: read_file(tmp_path / "a.npy", (3,)))
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    refused("example-unreadable", lambda: read_file(tmp_path / "b.npy", (3,)))


def test_something_is_held_out_of_every_class_with_two_examples(folder: Path, examples: Path) -> None:
    for path in sorted((examples / "ada" / "yes").iterdir())[2:]:
        path.unlink()
    owned = load_task(read_task(folder))
    assert list(owned.devices["ada"][1].y).count(1) == 1


def test_who_takes_no_part_any_more_is_no_device(folder: Path, tmp_path: Path) -> None:
    owned = load_task(read_task(folder))
    write_devices(tmp_path / "devices", owned)
    changed = load_task(edit(folder, "test_owners", '["ada"]'))
    write_devices(tmp_path / "devices", changed)
    assert sorted(path.name for path in (tmp_path / "devices").iterdir()) == list(OWNERS[1:])


@pytest.mark.parametrize("licence", ['"TODO"', '" "'])
def test_a_licence_that_says_nothing_is_refused(folder: Path, licence: str) -> None:
    refused("task-licence", lambda: require_licence(edit(folder, "licence", licence)))


def test_a_folder_that_is_no_class_is_named(folder: Path, examples: Path) -> None:
    (examples / "dora" / "perhaps").mkdir()
    assert "perhaps" in refused("task-labels", lambda: load_task(read_task(folder)))


def test_owners_who_are_not_there_and_too_few_owners(folder: Path) -> None:
    assert "'zoe'" in refused("task-owners", lambda: load_task(edit(folder, "test_owners", '["zoe"]')))
    refused("task-owners", lambda: load_task(edit(folder, "test_owners", '["ada", "ben", "cleo"]')))


def test_a_missing_folder_of_examples(folder: Path) -> None:
    refused("examples-missing", lambda: load_task(edit(folder, "examples", '"../elsewhere"')))


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("held_out_share", "1.5", "task-file"),
        ("classes", '["one"]', "task-file"),
        ("batch_size", '"many"', "task-file"),
        ("batch_size", "0", "task-file"),
        ("classes", "[0, 1]", "task-file"),
        ("input_shape", "[4.0]", "task-file"),
        ("loss", "", "task-file"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, key: str, value: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        edit(folder, key, value)
    assert caught.value.code == code


def test_new_refuses_what_cannot_become_a_task(tmp_path: Path, examples: Path, folder: Path) -> None:
    found = Found(tmp_path / "m.keras", examples, SHAPE, 2)
    refused("task-exists", lambda: write_task(folder.name, tmp_path, found, ""))
    three = Found(found.model, examples, SHAPE, 3)
    assert "no, yes" in refused("task-labels", lambda: write_task("other", tmp_path, three, ""))
    nowhere = Found(found.model, tmp_path / "nowhere", SHAPE, 2)
    refused("examples-missing", lambda: write_task("other", tmp_path, nowhere, ""))
    assert not (tmp_path / "other").exists()


def test_without_a_licence_the_task_waits_for_one(tmp_path: Path, examples: Path) -> None:
    folder = write_task("gates", tmp_path, Found(tmp_path / "m.keras", examples, SHAPE, 2), "")
    task = read_task(folder)
    load_task(task)  # examples can be checked before
    refused("task-licence", lambda: require_licence(task))

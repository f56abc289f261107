"""Every task: its data fit its model, nothing is on two sides, its papers are there, and what is wrong is named."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import shakespeare, spoken_digits
from models.digits import load_every_writer
from models.full_size import full_size_file
from models.registry import TASKS, get_task
from models.task import (
    DATA_FOLDER,
    Budget,
    Task,
    TaskData,
    load_data,
    missing_classes,
    require_fit,
    require_licence,
)
from shared.errors import UsageError
from shared.examples import Examples
from shared.plan import Plan

EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
MOST_BYTES = 30e6


def rows(examples: Examples) -> set[bytes]:
    return {row.tobytes() for row in np.asarray(examples.x)}


def small(task: Task, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]], y: list[int]) -> TaskData:
    examples = Examples(x, np.array(y, np.int32))
    return TaskData({task.owners[0]: (examples, examples)}, examples)


@EVERY
def test_data_fit_the_model_and_no_owner_is_on_both_sides(task: Task) -> None:
    data = load_data(task)
    assert set(data.devices) == set(task.owners) - set(task.test_owners)
    assert len(data.devices) >= task.devices
    for train, held_out in data.devices.values():
        assert len(train) > len(held_out) > 0
        assert np.isfinite(np.asarray(train.x)).all()
    assert len(data.test) > 0


@pytest.mark.parametrize("name", ["spoken_digits", "fashion", "digits"])
def test_no_example_is_both_trained_on_and_judged(name: str) -> None:
    data = load_data(get_task(name))
    trained = [rows(train) for train, _ in data.devices.values()]
    judged = [rows(data.test), *(rows(held_out) for _, held_out in data.devices.values())]
    assert sum(map(len, trained)) == len(set().union(*trained)), "two devices share an example"
    assert not set().union(*trained) & set().union(*judged)


@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_images_are_from_0_to_1(name: str) -> None:
    x = np.asarray(load_data(get_task(name)).test.x)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0.0, 1.0)


def test_takes_held_out_are_of_every_digit_and_waves_are_sound() -> None:
    data = spoken_digits.load()
    for train, held_out in data.devices.values():
        np.testing.assert_array_equal(np.bincount(train.y), np.full(10, 45))
        np.testing.assert_array_equal(np.bincount(held_out.y), np.full(10, 5))
    x = np.asarray(data.test.x)
    assert x.dtype == np.float32
    assert np.abs(x).max() <= 1
    assert abs(x.mean()) < 0.01
    assert 0.001 < x.std() < 0.5


def test_mu_law_is_decoded() -> None:
    octets = np.arange(256, dtype=np.uint8)
    samples = spoken_digits.decode(octets)
    assert samples[128] == 0
    assert (np.diff(samples) >= 0).all()
    encoded = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256) * 127.5 + 128
    np.testing.assert_allclose(encoded[1:], octets[1:], atol=0.01)
    assert samples.min() == -1


def test_the_character_after_each_is_what_follows_in_the_text() -> None:
    data = shakespeare.load()
    for train, held_out in data.devices.values():
        for part in (train, held_out):
            x = np.asarray(part.x)
            assert x.dtype == part.y.dtype == np.int32
            np.testing.assert_array_equal(x.reshape(-1)[1:], part.y.reshape(-1)[:-1])
    hamlet = "".join(shakespeare.SYMBOLS[symbol] for symbol in np.asarray(data.devices[66][0].x).reshape(-1))
    assert "frailty, thy name is woman" in hamlet.lower()


def test_roles_have_the_names_that_the_file_gives_them() -> None:
    with np.load(DATA_FOLDER / shakespeare.DATA_FILE, allow_pickle=False) as stored:
        names = {owner: str(stored["role_names"][owner]).title() for owner in shakespeare.ROLES}
        assert bytes(np.unique(stored["text"])).decode() == shakespeare.SYMBOLS
    for owner, name in names.items():
        assert name.split()[-1][:3] in shakespeare.ROLES[owner] or name == "King Henry"


def test_files_are_what_the_checksums_say_and_have_licence_and_source() -> None:
    listed = dict(line.split()[::-1] for line in (DATA_FOLDER / "SHA256SUMS").read_text().splitlines())
    shipped = {path.name: path for path in DATA_FOLDER.glob("*.npz")}
    assert set(listed) == set(shipped) == {task.data_file for task in TASKS.values()}
    readme = (DATA_FOLDER / "README.md").read_text()
    for name, path in shipped.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
        licence = path.with_suffix(".LICENSE")
        assert f"| `{name}` |" in readme
        assert licence.name in readme
        assert licence.stat().st_size > 100
    assert sum(path.stat().st_size for path in DATA_FOLDER.iterdir()) <= MOST_BYTES


@EVERY
def test_the_card_says_what_a_user_asks(task: Task) -> None:
    card = task.card.read_text()
    for word in ("Data", "Licence", "Intended use", "Limits", "Accuracy", "parameters", task.plan.name):
        assert word in card, word
    assert Path(task.data_file).stem in card


@EVERY
def test_plan_and_simulation_train_alike(task: Task) -> None:
    plan = Plan.from_toml(task.plan.read_text())
    training, update, budgets = plan.training, plan.update, task.budgets
    assert training.method == "fedavg"
    assert Budget(plan.stop.rounds, training.epochs, training.learning_rate) == budgets.federated
    assert update.max_l2_norm == budgets.bounds.max_l2_norm
    assert update.max_weight == budgets.bounds.max_weight
    assert plan.server.learning_rate == budgets.bounds.server_learning_rate


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="activity"):
        get_task("weather")


def test_unknown_partition_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="writers") as raised:
        load_data(get_task("digits"), "by-hand")
    assert raised.value.code == "task-partition"


def test_data_without_a_licence_are_not_used(tmp_path: Path) -> None:
    task = get_task("fashion")
    with pytest.raises(UsageError, match=r"fashion_mnist\.LICENSE") as raised:
        require_licence(task, tmp_path)
    assert (raised.value.code, bool(raised.value.remedy)) == ("task-licence", True)
    (tmp_path / "fashion_mnist.LICENSE").write_text("")
    with pytest.raises(UsageError):
        require_licence(task, tmp_path)
    (tmp_path / "fashion_mnist.LICENSE").write_text("Somebody's, under the MIT licence, unchanged in all its parts.")
    require_licence(task, tmp_path)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_outside_the_classes_are_named(label: int) -> None:
    task = get_task("digits")
    data = small(task, np.zeros((2, 28, 28, 1), np.float32), [0, label])
    broken = replace(task, load=lambda _: data)
    with pytest.raises(UsageError, match=f"{label}.*0 to 9") as raised:
        load_data(broken)
    assert raised.value.code == "task-labels"


def test_examples_of_another_shape_are_named() -> None:
    task = get_task("digits")
    flat = Examples(np.zeros((3, 784), np.float32), np.zeros(3, np.int32))
    with pytest.raises(UsageError, match=r"device 1 are \[3, 784\]") as raised:
        require_fit(task, flat, task.name_of(1))
    assert raised.value.code == "task-shape"
    with pytest.raises(UsageError):
        require_fit(task, Examples(np.zeros((3, 28, 28, 1), np.float32), np.zeros((3, 1), np.int32)), "the test set")


def test_an_owner_without_a_class_is_only_a_note() -> None:
    task = get_task("digits")
    data = small(task, np.zeros((9, 28, 28, 1), np.float32), list(range(9)))
    assert missing_classes(task, data) == ["device 1 has no example of '9'"]
    assert missing_classes(get_task("spoken_digits"), spoken_digits.load()) == []
    two = small(task, np.zeros((1, 28, 28, 1), np.float32), [9])
    assert missing_classes(task, two) == [
        "device 1 has no example of '0', '1', '2', '3', '4', '5', '6', '7' and 1 more"
    ]


def test_full_size_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for folder, code in ((None, "unset"), ("", "unset"), (nowhere, "folder"), (str(tmp_path), "file")):
        with pytest.raises(UsageError, match=r"mnist\.npz|nowhere") as raised:
            load_data(get_task("digits"), "writers", folder)
        assert raised.value.code == f"full-size-{code}"
        assert raised.value.remedy
    (tmp_path / "mnist.npz").write_bytes(b"here")
    assert full_size_file("mnist.npz", str(tmp_path)) == tmp_path / "mnist.npz"
    with pytest.raises(UsageError, match="is not the file that is meant") as raised:
        load_data(get_task("digits"), "writers", str(tmp_path))
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(3))  # as another library ships it
    with pytest.raises(UsageError, match="user_train") as raised:
        load_data(get_task("digits"), "writers", str(tmp_path))
    assert raised.value.code == "full-size-file"


def test_by_writer_every_device_has_one_writer_and_the_test_has_others(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    writers = np.repeat(np.arange(12, dtype=np.uint16), np.arange(20, 44, 2))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for part, first in (("train", 0), ("test", 100)):
        x = np.repeat((writers * 5 + first)[:, None], 784, 1).reshape(-1, 28, 28).astype(np.uint8)
        arrays |= {f"x_{part}": x, f"y_{part}": generator.integers(0, 10, len(writers)).astype(np.uint8)}
        arrays[f"user_{part}"] = writers
    np.savez(tmp_path / "mnist.npz", **arrays)
    data = load_data(get_task("digits"), "writers", str(tmp_path))
    seen = [set(np.unique(np.asarray(part.x))) for pair in data.devices.values() for part in pair]
    assert len(data.devices) == 10
    assert all(len(shades) == 1 for shades in seen)
    sizes = [len(train) + len(held_out) for train, held_out in data.devices.values()]
    assert sizes == sorted(range(24, 44, 2), reverse=True)
    assert len(data.test) == len(writers)
    everybody = load_every_writer(str(tmp_path))
    assert sorted(len(train) for train, _ in everybody.devices.values()) == list(range(20, 44, 2))
    assert all(len(np.unique(np.asarray(train.x))) == 1 for train, _ in everybody.devices.values())
    assert not any(len(held_out) for _, held_out in everybody.devices.values())
    assert len(everybody.test) == len(writers)

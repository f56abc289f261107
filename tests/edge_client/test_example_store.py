"""Applications record examples: at once, durably, within the owner's bounds, and only what the model takes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_client.examples import ExampleStore, expect, read_examples
from edge_client.examples.declaration import RECORDED_FILE
from edge_client.examples.recorded import Layout
from shared.bundle import ArraySpec
from shared.errors import BrokenState, FedloomError, UsageError
from tests.shared.refusals import refused

NOW_S = 1_800_000_000.0
ALL = "held_out_percent = 0\n"


def keep(folder: Path, **bounds: float) -> None:
    lines = "".join(f"{name} = {bound}\n" for name, bound in bounds.items())
    (folder / "examples.toml").write_text(f'reader = "recorded"\n{ALL}[keep]\n{lines}', "utf-8")


def labels(folder: Path) -> list[int]:
    train, held_out = read_examples(folder, NOW_S)
    return sorted([*train.y.tolist(), *held_out.y.tolist()])


def test_what_is_recorded_is_trained_on(tmp_path: Path) -> None:
    with ExampleStore(tmp_path) as store:
        for number in range(20):
            store.record([[number, 0.5]], number)
        assert len(store) == 20
    train, held_out = read_examples(tmp_path, NOW_S)
    x = train.inputs()["x"]
    assert (x.dtype.str, x.shape[1:], train.y.dtype.str) == ("<f4", (1, 2), "<i4")
    assert x[:, 0, 0].tolist() == train.y.tolist()
    assert labels(tmp_path) == [*range(20)]
    assert len(held_out) < len(train)


def test_an_application_may_say_what_is_held_out_and_name_inputs(tmp_path: Path) -> None:
    with ExampleStore(tmp_path) as store:
        for number in range(4):
            store.record({"x_left": [1.0], "x_right": [2, 3]}, [0.0, float(number)], held_out=number == 3)
    train, held_out = read_examples(tmp_path, NOW_S)
    assert (len(train), held_out.y.tolist()) == (3, [[0.0, 3.0]])
    assert {name: values.dtype.kind for name, values in train.inputs().items()} == {"x_left": "f", "x_right": "i"}


@pytest.mark.parametrize(
    ("x", "y", "code"),
    [
        ([1.0, 2.0, 3.0], 0, "examples-shape"),
        ([[1.0, 2.0]], 0, "examples-shape"),
        ([1.0, float("nan")], 0, "examples-values"),
        (["a", "b"], 0, "examples-shape"),
        ({"z": [1.0, 2.0]}, 0, "examples-shape"),
        ({}, 0, "examples-shape"),
        ([1.0, 2.0], [0, 1], "examples-shape"),
        ([1.0, 2.0], "walk", "examples-shape"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path, x: object, y: object, code: str) -> None:
    with ExampleStore(tmp_path) as store:
        store.record([1.0, 2.0], 0)
        with refused(code, UsageError):
            store.record(x, y)  # type: ignore[arg-type]
        assert len(store) == 1


def test_the_model_says_what_is_recorded(tmp_path: Path) -> None:
    with ExampleStore(tmp_path) as store:
        store.record([1.0], 7)
        expect(tmp_path, [ArraySpec("x", (16, 2), "float32")], ArraySpec("labels", (16,), "int32"))
        with refused("examples-shape", UsageError):
            store.record([1.0], 7)
        store.record([1, 2], 8)  # whole numbers that float32 has
        with refused("examples-shape", UsageError):
            store.record([2**24 + 1, 2], 8)  # and some that it has not
    train, held_out = read_examples(tmp_path, NOW_S)
    assert [*train.y.tolist(), *held_out.y.tolist()] == [8]  # the older one does not fit the model


def test_of_too_many_the_newest_stay(tmp_path: Path) -> None:
    keep(tmp_path, newest=3)
    with ExampleStore(tmp_path) as store:
        for number in range(10):
            store.record([1.0], number)
        assert len(store) == 3
    assert labels(tmp_path) == [7, 8, 9]


def test_examples_take_no_more_room_than_wanted(tmp_path: Path) -> None:
    keep(tmp_path, megabytes=0.01)
    with ExampleStore(tmp_path) as store:
        for number in range(50):
            store.record(np.zeros(249, np.float32), number)  # 1,000 octets with the label
    assert labels(tmp_path) == [*range(40, 50)]


def test_old_examples_go_unless_the_clock_was_not_set(tmp_path: Path) -> None:
    keep(tmp_path, days=30)
    times = iter([0.0, NOW_S, NOW_S + 10 * 86400, NOW_S + 35 * 86400, NOW_S])
    with ExampleStore(tmp_path, clock=lambda: next(times)) as store:
        for number in range(5):
            store.record([1.0], number)
        kept = [row[0] for row in store._database.execute("SELECT id FROM example ORDER BY id")]
    assert kept == [1, 3, 4, 5]  # the one from 1970 has no age; the last came when the clock had jumped back


KILLED = """
import sys
from edge_client.examples import ExampleStore
store = ExampleStore(sys.argv[1])
for number in range(100000):
    store.record([float(number)] * 50, number)
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_recorded_survives_a_kill(tmp_path: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout.read().split()[:-1])])
    kept = labels(tmp_path)
    assert kept[: last + 1] == [*range(last + 1)]


def test_several_record_while_another_one_reads(tmp_path: Path) -> None:
    ExampleStore(tmp_path).close()
    script = KILLED.replace("100000", "40").replace("number)\n", "int(sys.argv[2]) + number)\n")
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(base)], stdout=subprocess.DEVNULL)
        for base in (0, 100, 200)
    ]
    while any(process.poll() is None for process in processes):
        with ExampleStore(tmp_path) as store:
            len(store)
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert labels(tmp_path) == [base + number for base in (0, 100, 200) for number in range(40)]


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_store_is_named_or_gives_whole_examples(recorded: bytes, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # repeatable
    data = bytearray(recorded)
    place = chance.randrange(len(data))
    match seed % 3:
        case 0:
            data[place] ^= 1 << chance.randrange(8)
        case 1:
            del data[place:]
        case _:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
    (tmp_path / RECORDED_FILE).write_bytes(data)
    codes = []
    try:
        train, _ = read_examples(tmp_path, NOW_S)
        assert train.inputs()["x"].shape[1:] == (40,)
    except FedloomError as error:
        codes.append(error.code)
    assert set(codes) <= {"examples-damaged", "examples-empty", "examples-shape"}


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("recorded")
    with ExampleStore(folder) as store:
        for number in range(60):
            store.record(np.full(40, number, np.float32), number)
    with closing(sqlite3.connect(folder / RECORDED_FILE)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / RECORDED_FILE).read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused("examples-not-writable", UsageError):
        ExampleStore(tmp_path / "file" / "below")
    (tmp_path / RECORDED_FILE).write_bytes(b"this is no database at all, but text" * 100)
    with refused("examples-damaged", BrokenState):
        ExampleStore(tmp_path)


def test_others_do_not_read_what_is_recorded(tmp_path: Path) -> None:
    ExampleStore(tmp_path).close()
    assert (tmp_path / RECORDED_FILE).stat().st_mode & 0o007 == 0
    assert os.access(tmp_path / RECORDED_FILE, os.W_OK)


@given(st.data())
def test_layouts_bring_back_what_they_packed(data: st.DataObject) -> None:
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    values = {
        name: data.draw(arrays.arrays(data.draw(st.sampled_from(["<f4", "<i4", "<u1"])), shapes))
        for name in ("x_a", "x_b", "y")
    }
    layout = Layout.of(values)
    assert Layout.from_text(layout.to_text()) == layout
    back = layout.unpack(layout.pack(values))
    for name, one in values.items():
        np.testing.assert_array_equal(back[name], one)

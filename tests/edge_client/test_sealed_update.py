"""A sealed update: what is sealed comes out again, for what it was made for, and for nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_client.contribution import TrainedUpdate
from edge_client.sealed_files import SealedFiles
from edge_client.sealed_update import Binding, Marks, open_sealed, seal
from edge_client.state_folder import StateFolder
from edge_client.trainer.protocol import TrainingDiverged
from shared.errors import BrokenState
from shared.examples import Examples
from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.secagg.masking import CIPHERS, CipherName
from tests.shared.refusals import refused

BINDING = Binding("point", bytes(32), 3, bytes(range(32)), "device-a", 7, 1_800_000_000.25, 1_800_086_400.25)
KEY = bytes(range(32))
OTHERS: dict[str, Any] = {
    "task": "line",
    "plan_sha256": b"\x01" * 32,
    "version": 4,
    "model_sha256": bytes(32),
    "device": "device-b",
    "entry": 8,
    "made_at_s": 1_800_000_000.5,
    "expires_at_s": 1_900_000_000.0,
}
FINITE = st.floats(-1e6, 1e6, width=32)
VALUES = st.integers(0, 40).flatmap(lambda size: arrays(np.float32, size, elements=FINITE))


def trained_update(update: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None) -> TrainedUpdate:
    values = np.linspace(-1, 1, 50, dtype=np.float32) if update is None else update
    update_part, statistics = (
        clip(LocalUpdate(part, 5), max_l2_norm=0.3, max_weight=3) for part in (values, values[:2])
    )
    return TrainedUpdate(update_part, statistics, Evaluation(1 / 3, 4, 9), 5, 0.1, np.zeros(0, np.float32))


def examples(*numbers: float) -> Examples:
    return Examples(np.array(numbers, np.float32).reshape(-1, 1), np.zeros(len(numbers), np.int32))


MARKS = Marks.of(examples(1, 2, 2, 3), bytes(16))


def box(cipher: CipherName = "aes-256-ctr") -> bytes:
    return seal(trained_update(), MARKS, BINDING, key=KEY, cipher=cipher)


@run_with(max_examples=60, deadline=None)
@given(
    update=VALUES,
    loss=st.none() | st.floats(0, 1e300),
    counts=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
    failed=st.booleans(),
    cipher=st.sampled_from(CIPHERS),
    key=st.binary(min_size=32, max_size=32),
)
def test_what_is_sealed_comes_out_to_the_last_bit(
    update: np.ndarray[tuple[int], np.dtype[np.float32]],
    loss: float | None,
    counts: tuple[int, int],
    failed: bool,  # noqa: FBT001  # hypothesis gives it by name
    cipher: CipherName,
    key: bytes,
) -> None:
    failure = TrainingDiverged("training-diverged", "é", "lower it") if failed else None
    before = dataclasses.replace(
        trained_update(update), evaluation=Evaluation(1 / 3, *counts), mean_loss=loss, failure=failure
    )
    sealed = seal(before, MARKS, BINDING, key=key, cipher=cipher)
    after, marks = open_sealed(sealed, BINDING, key=key, cipher=cipher)
    for name in ("update", "statistics"):
        one, other = getattr(before, name), getattr(after, name)
        assert one.raw.tobytes() == other.raw.tobytes()
        assert dataclasses.replace(one, raw=other.raw) == other
    assert (after.evaluation, after.examples, after.mean_loss) == (before.evaluation, 5, loss)
    assert (after.failure is not None) == failed
    assert after.failure is None or after.failure.to_json() == {
        "code": "training-diverged",
        "message": "é",
        "try": "lower it",
    }
    assert marks == MARKS


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Binding)])
def test_it_opens_for_nothing_else(name: str) -> None:
    other = dataclasses.replace(BINDING, **{name: OTHERS[name]})
    with refused("sealed-update-damaged", BrokenState):
        open_sealed(box(), other, key=KEY, cipher="aes-256-ctr")


def test_a_bit_at_any_of_200_places_and_every_cut_is_noticed() -> None:
    sealed = box()
    for place in np.linspace(0, len(sealed) - 1, 200).astype(int):
        for other in (
            sealed[:place] + bytes([sealed[place] ^ 1 << place % 8]) + sealed[place + 1 :],
            sealed[:place],
            sealed[:place] + bytes(len(sealed) - place - 1) + b"\x01",
        ):
            with refused("sealed-update-damaged", BrokenState):
                open_sealed(other, BINDING, key=KEY, cipher="aes-256-ctr")
    for place in range(32):
        other = KEY[:place] + bytes([KEY[place] ^ 128]) + KEY[place + 1 :]
        with refused("sealed-update-damaged", BrokenState):
            open_sealed(sealed, BINDING, key=other, cipher="aes-256-ctr")
    with refused("sealed-update-damaged", BrokenState):
        open_sealed(sealed, BINDING, key=b"", cipher="aes-256-ctr")


def test_nothing_of_the_update_can_be_read_in_it() -> None:
    values = np.frombuffer(b"marker--" * 8, np.float32)
    sealed = seal(trained_update(values), MARKS, BINDING, key=KEY, cipher="chacha20")
    assert b"marker" not in sealed
    assert b"point" not in sealed


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_marks_find_every_example_that_is_gone(before: list[int], after: list[int]) -> None:
    left = list(after)
    gone = False
    for number in before:
        gone |= number not in left
        if number in left:
            left.remove(number)
    marks = Marks.of(examples(*before), b"salt" * 4)
    assert marks.are_all_in(examples(*after)) is not gone


def test_marks_tell_labels_and_types_apart() -> None:
    marks = Marks.of(examples(1, 2), bytes(16))
    same = examples(1, 2)
    assert marks.are_all_in(same)
    assert not marks.are_all_in(Examples(same.x, np.array([0, 1], np.int32)))
    assert not marks.are_all_in(Examples(np.array([[1], [2]], np.float64), same.y))
    assert Marks.of(same, b"\x01" * 16).hashes != marks.hashes


def test_files_are_the_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    files = SealedFiles(folder)
    assert files.read() is None
    files.keep(KEY, box())
    assert files.read() == (KEY, box())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    (tmp_path / ".sealed_update.key.123.new").write_bytes(KEY)
    with folder.sealing_key_file.open("rb") as still_open:
        files.destroy()
        assert still_open.read() == bytes(len(KEY)), "the key is overwritten where it was"
    assert list(tmp_path.iterdir()) == []
    assert not files.are_there()
    files.destroy()


def test_a_link_in_the_place_of_the_key_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / "state").mkdir()
    folder = StateFolder(tmp_path / "state")
    folder.sealing_key_file.symlink_to(other)
    SealedFiles(folder).destroy()
    assert other.read_bytes() == b"precious"
    assert not folder.sealing_key_file.is_symlink()

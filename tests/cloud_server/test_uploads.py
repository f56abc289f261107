"""Uploads on disk: bytes are only ever added, other bytes refused, one upload per member, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_server.storage.blobs import UploadStore
from cloud_server.storage.incoming import Incoming
from shared.errors import Conflict
from shared.wire.canonical import sha256
from tests.shared.refusals import refused

COHORT, DEVICE, VECTOR = "cohort-1", "device-1", b"a masked vector"


def incoming(folder: Path, vector: bytes = VECTOR) -> Incoming:
    return UploadStore(folder).incoming(COHORT, DEVICE, sha256(vector).hex())


def test_a_whole_upload_is_kept_and_nothing_else(tmp_path: Path) -> None:
    store, upload = UploadStore(tmp_path), incoming(tmp_path)
    upload.write(0, VECTOR)
    assert upload.sync() == len(VECTOR)
    upload.keep(len(VECTOR))
    assert store.path(COHORT, DEVICE).read_bytes() == VECTOR
    assert [path.name for path in tmp_path.iterdir()] == [COHORT]
    store.remove(COHORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(len(VECTOR)))
def test_it_goes_on_at_any_byte_and_repeats_are_welcome(tmp_path: Path, cut: int) -> None:
    incoming(tmp_path).write(0, VECTOR[:cut])
    again = incoming(tmp_path)
    assert again.sync() == cut
    again.write(cut // 2, VECTOR[cut // 2 :])
    again.write(0, VECTOR[: cut + 1])
    assert again.content_sha256() == again.sha256
    again.keep(len(VECTOR))
    assert UploadStore(tmp_path).path(COHORT, DEVICE).read_bytes() == VECTOR


def test_other_bytes_another_vector_and_a_gap_change_nothing(tmp_path: Path) -> None:
    upload = incoming(tmp_path)
    upload.write(0, VECTOR[:9])
    with refused("different-repeat", Conflict):
        upload.write(3, b"other")
    with refused("different-repeat", Conflict):
        incoming(tmp_path, b"another vector").write(0, b"another")
    with refused("different-repeat", Conflict):
        incoming(tmp_path, b"another vector").held_bytes()
    with refused("wrong-offset", Conflict):
        upload.write(10, VECTOR[10:])
    with refused("wrong-offset", Conflict):
        upload.keep(len(VECTOR))
    assert upload.held_bytes() == 9
    upload.write(9, VECTOR[9:])
    assert upload.content_sha256() == upload.sha256


def test_what_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    upload = incoming(tmp_path)
    upload.write(0, VECTOR)
    upload.cut(4)
    assert upload.held_bytes() == 4
    upload.write(4, VECTOR[4:])
    assert upload.content_sha256() == upload.sha256
    upload.cut(0)
    assert list(tmp_path.iterdir()) == []
    incoming(tmp_path, b"another vector").write(0, b"another vector")


def test_halves_go_with_their_cohort_alone(tmp_path: Path) -> None:
    store = UploadStore(tmp_path)
    incoming(tmp_path).write(0, VECTOR[:5])
    other = store.incoming("cohort-2", DEVICE, sha256(VECTOR).hex())
    other.write(0, VECTOR[:7])
    assert store.cohorts() == [COHORT, "cohort-2"]
    store.remove(COHORT)
    assert store.cohorts() == ["cohort-2"]
    assert other.held_bytes() == 7

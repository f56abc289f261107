"""Uploads on disk: one at a time per member, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_server.storage.blobs import UploadStore
from shared.errors import TryLater
from tests.shared.refusals import refused

COHORT, DEVICE = "cohort-1", "device-1"


def test_a_finished_upload_is_kept_and_nothing_else(tmp_path: Path) -> None:
    store = UploadStore(tmp_path)
    with store.incoming(COHORT, DEVICE) as file:
        file.write(b"vector")
        file.flush()
        store.keep(COHORT, DEVICE)
    assert store.path(COHORT, DEVICE).read_bytes() == b"vector"
    assert [path.name for path in tmp_path.iterdir()] == [COHORT]
    store.remove(COHORT)
    assert list(tmp_path.iterdir()) == []


def _break_off(store: UploadStore) -> None:
    with store.incoming(COHORT, DEVICE) as file:
        file.write(b"half a vector")
        raise ConnectionResetError


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        _break_off(UploadStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_member_has_one_upload_at_a_time(tmp_path: Path) -> None:
    store = UploadStore(tmp_path)
    with store.incoming(COHORT, DEVICE) as file:
        with refused("upload-in-progress", TryLater), store.incoming(COHORT, DEVICE):
            pass
        with store.incoming(COHORT, "device-2") as other:
            other.write(b"other")
        file.write(b"first")
        file.flush()
        store.keep(COHORT, DEVICE)
        with store.incoming(COHORT, DEVICE) as again:
            again.write(b"again")
    assert store.path(COHORT, DEVICE).read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == [COHORT]


def test_what_a_killed_process_left_is_written_over_and_goes_with_the_cohort(tmp_path: Path) -> None:
    store = UploadStore(tmp_path)
    left = tmp_path / f"{COHORT}.{DEVICE}.part"
    left.write_bytes(b"a long vector of which half arrived")
    assert store.cohorts() == [COHORT]
    with store.incoming(COHORT, DEVICE) as file:
        file.write(b"short")
        file.flush()
        store.keep(COHORT, DEVICE)
    assert store.path(COHORT, DEVICE).read_bytes() == b"short"
    left.write_bytes(b"left again")
    store.remove(COHORT)
    assert list(tmp_path.iterdir()) == []

"""Writes that the disk refuses: a named error, and the old content stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from edge_client.durable import replace_durably, write_durably
from shared.errors import TryLater
from tests.shared.refusals import refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_the_old_content_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def fail(_descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    with refused("disk-write-failed", TryLater):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with refused("disk-write-failed", TryLater):
        write_durably(tmp_path / "nowhere" / "file", b"")
    with refused("disk-write-failed", TryLater):
        replace_durably(tmp_path / "a", tmp_path / "b")

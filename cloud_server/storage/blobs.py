"""Files named by their SHA-256 in a folder: the same content is stored once, and never changes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cloud_server.settings import sync_folder, write_private
from shared.errors import BrokenState, Missing, TryLater
from shared.wire.canonical import sha256

_PART: Final = ".part"


@dataclass(frozen=True)
class BlobStore:
    """A folder of content-addressed files."""

    folder: Path

    def path(self, digest: str) -> Path:
        """Return where the file of that hexadecimal SHA-256 is.

        Raises:
            Missing: ``blob-unknown``.
        """
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise Missing("blob-unknown", "There is no file of that hash.")
        path = self.folder / digest[:2] / digest
        if not path.is_file():
            raise Missing("blob-unknown", "There is no file of that hash.")
        return path

    def put(self, data: bytes) -> str:
        """Store ``data`` durably and return its hexadecimal SHA-256."""
        digest = sha256(data).hex()
        path = self.folder / digest[:2] / digest
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            sync_folder(self.folder)
            write_private(path, data)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the file's bytes.

        Raises:
            Missing: ``blob-unknown``.
            BrokenState: ``blob-damaged`` if the disk returned something else than was stored.
        """
        data = self.path(digest).read_bytes()
        if sha256(data).hex() != digest:
            raise BrokenState("blob-damaged", f"The stored file {digest} is damaged.", "restore it from a backup")
        return data


@dataclass(frozen=True)
class UploadStore:
    """Masked vectors of running cohorts, one file per member, gone when the cohort is over."""

    folder: Path

    def path(self, cohort: str, device: str) -> Path:
        """Return where a member's vector is or will be; both names are made by the server."""
        return self.folder / cohort / device

    def _part(self, cohort: str, device: str) -> Path:
        return self.folder / f"{cohort}.{device}{_PART}"

    @contextmanager
    def incoming(self, cohort: str, device: str) -> Iterator[BinaryIO]:
        """Open an empty file for a member's upload; it is gone at the end unless ``keep`` was called.

        A member has one at a time, so that nobody fills the disk; what a killed process left is written over.

        Raises:
            TryLater: ``upload-in-progress``.
        """
        path = self._part(cohort, device)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            if not _locked(file, path):
                raise TryLater("upload-in-progress", "This device's vector is being received already.")
            file.truncate(0)
            try:
                yield file
            finally:
                if _is_at(file, path):
                    path.unlink(missing_ok=True)

    def keep(self, cohort: str, device: str) -> None:
        """Move what is ``incoming``, already synced, to its place, durably."""
        path = self.path(cohort, device)
        path.parent.mkdir(exist_ok=True)
        self._part(cohort, device).replace(path)
        sync_folder(path.parent)
        sync_folder(self.folder)

    def cohorts(self) -> list[str]:
        """Return the cohorts that have vectors here."""
        names = {path.name if path.is_dir() else path.name.split(".")[0] for path in self.folder.iterdir()}
        return sorted(names)

    def remove(self, cohort: str) -> None:
        """Delete every vector of a cohort that is over."""
        for part in self.folder.glob(f"{cohort}.*{_PART}"):
            part.unlink(missing_ok=True)
        folder = self.folder / cohort
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _locked(file: BinaryIO, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is_at(file, path)  # whoever held the lock before may have moved or deleted it meanwhile


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False

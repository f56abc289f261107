"""Files named by their SHA-256 in a folder: the same content is stored once, and never changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloud_server.settings import sync_folder, write_private
from shared.errors import BrokenState, Missing
from shared.wire.canonical import sha256


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

    def keep(self, temporary: Path, cohort: str, device: str) -> None:
        """Move a finished upload, already synced, to its place, durably."""
        path = self.path(cohort, device)
        path.parent.mkdir(exist_ok=True)
        temporary.replace(path)
        sync_folder(path.parent)
        sync_folder(self.folder)

    def cohorts(self) -> list[str]:
        """Return the cohorts that have vectors here."""
        return [path.name for path in self.folder.iterdir() if path.is_dir()]

    def remove(self, cohort: str) -> None:
        """Delete every vector of a cohort that is over."""
        folder = self.folder / cohort
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

"""Files named by their SHA-256 in a folder: the same content is stored once, and never changes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cloud_server.settings import sync_folder, write_private
from cloud_server.storage.incoming import PART, Incoming, alone
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
        path = self.folder / digest[:2] / digest
        if not _is_digest(digest) or not path.is_file():
            raise Missing("blob-unknown", "There is no file of that hash.")
        return path

    def put(self, data: bytes) -> str:
        """Store ``data`` durably and return its hexadecimal SHA-256."""
        digest = sha256(data).hex()
        path = self.folder / digest[:2] / digest
        path.parent.mkdir(exist_ok=True)
        sync_folder(self.folder)
        if path.is_file() and path.read_bytes() == data:
            sync_folder(path.parent)  # who put it there may have failed before this
        else:
            write_private(path, data)
        return digest

    def put_difference(self, before: str, after: str, data: bytes) -> None:
        """Store durably what leads from one file to another, both given by their hashes."""
        path = self._difference(before, after)
        path.parent.mkdir(exist_ok=True)
        write_private(path, data)

    def difference_path(self, before: str, after: str) -> Path:
        """Return where the difference between two files is.

        Raises:
            Missing: ``no-difference``.
        """
        if _is_digest(before) and _is_digest(after) and (path := self._difference(before, after)).is_file():
            return path
        raise Missing("no-difference", "There is no difference between these files.", "fetch the whole file")

    def _difference(self, before: str, after: str) -> Path:
        return self.folder / after[:2] / f"{after}.from.{before}"

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

    def incoming(self, cohort: str, device: str, whole_sha256: str) -> Incoming:
        """Return a member's upload that is on its way, or could be; the hash is hexadecimal."""
        return Incoming(self.folder, cohort, device, whole_sha256)

    def cohorts(self) -> list[str]:
        """Return the cohorts that have vectors here."""
        return sorted({path.name.split(".")[0] for path in self.folder.iterdir()})

    def remove(self, cohort: str) -> None:
        """Delete every vector of a cohort that is over, also what came of those that never arrived whole."""
        with alone(self.folder):
            for part in self.folder.glob(f"{cohort}.*{PART}"):
                shutil.rmtree(part)
        if (folder := self.folder / cohort).is_dir():
            shutil.rmtree(folder)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")

"""Uploads on their way: what arrived of each member's vector is kept, so that a broken connection costs nothing.

A member has one upload, whose whole content its hash declares. Bytes are only ever added: what is there already is
compared, so any number of requests may bring the same bytes at once, and one that fell silent is in nobody's way.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_server.beside import beside_other_requests
from cloud_server.settings import PRIVATE_MODE, sync_folder
from shared.errors import Conflict
from shared.limits import READ_PIECE_BYTES

PART: Final = ".part"  # a folder per member; the one file in it has the name of the declared hash


@dataclass(frozen=True)
class Incoming:
    """One member's upload.

    Attributes:
        uploads: the folder of all uploads.
        cohort: the cohort's id.
        device: the member's pseudonym.
        sha256: hexadecimal, of the whole vector, as the member declared it.
    """

    uploads: Path
    cohort: str
    device: str
    sha256: str

    @property
    def _folder(self) -> Path:
        return self.uploads / f"{self.cohort}.{self.device}{PART}"

    @property
    def _path(self) -> Path:
        return self._folder / self.sha256

    @property
    def _kept(self) -> Path:
        return self.uploads / self.cohort / self.device

    def held_bytes(self) -> int:
        """Return how many bytes are here.

        Raises:
            Conflict: ``different-repeat`` if the member declared another vector before.
        """
        self._require_declared()
        return self._path.stat().st_size if self._path.exists() else 0

    def sync(self) -> int:
        """Return how many bytes are here and will be after a power cut; raises as ``held_bytes``.

        Where the disk cannot write them, all of them are forgotten: it does not try again, but says that it did.
        """
        return beside_other_requests(self._sync) if self.held_bytes() else 0

    def _sync(self) -> int:
        try:
            with self._path.open("rb") as file:
                held = os.fstat(file.fileno()).st_size
                os.fsync(file.fileno())
        except OSError:
            self.cut(0)
            raise
        sync_folder(self._folder)
        sync_folder(self.uploads)
        return held

    def write(self, offset: int, piece: bytes) -> None:
        """Add ``piece``, the bytes from ``offset`` on; what of it is here already must be the same.

        Raises:
            Conflict: ``wrong-offset`` where bytes before it are missing, ``different-repeat`` for other bytes.
        """
        with alone(self.uploads):
            held = self.held_bytes()
            if held < offset:
                raise wrong_offset(held)
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                file.seek(offset)
                again = file.read(min(held - offset, len(piece)))
                if again != piece[: len(again)]:
                    raise _different()
                rest = memoryview(piece)[len(again) :]
                while rest:
                    rest = rest[file.write(rest) :]

    def content_sha256(self) -> str:
        """Return the hexadecimal hash of what is here."""
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while piece := file.read(READ_PIECE_BYTES):
                digest.update(piece)
                time.sleep(0)  # other requests of this process go on
        return digest.hexdigest()

    def cut(self, size_bytes: int) -> None:
        """Forget all but the first bytes."""
        with alone(self.uploads):
            if size_bytes == 0 and self._folder.exists():
                shutil.rmtree(self._folder)
            elif self._path.exists():
                os.truncate(self._path, min(size_bytes, self._path.stat().st_size))

    def keep(self, size_bytes: int) -> None:
        """Move the whole vector, already synced, to its place, durably.

        Raises:
            Conflict: ``wrong-offset`` if it is not whole any more.
        """
        with alone(self.uploads):
            if (held := self.held_bytes()) != size_bytes:
                raise wrong_offset(held)
            self._kept.parent.mkdir(exist_ok=True)
            self._path.replace(self._kept)
            self._folder.rmdir()
        sync_folder(self._kept.parent)
        sync_folder(self.uploads)

    def _require_declared(self) -> None:
        if self._folder.exists() and {path.name for path in self._folder.iterdir()} - {self.sha256}:
            raise _different()


@contextmanager
def alone(uploads: Path) -> Iterator[None]:
    """Hold the lock of all uploads for a moment; nothing inside may wait for anybody."""
    descriptor = os.open(uploads, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # gevent may close it later
        os.close(descriptor)


def wrong_offset(held_bytes: int) -> Conflict:
    """Return the error for bytes that do not join what is here."""
    return Conflict(
        "wrong-offset", f"The vector is here up to byte {held_bytes}.", "go on there; GET says how far it came"
    )


def _different() -> Conflict:
    return Conflict(
        "different-repeat",
        "This device already sent other bytes for step vector; the first ones stay.",
        "a second agent may run with the same identity: stop one of them",
    )

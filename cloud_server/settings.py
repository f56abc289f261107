"""Where the aggregator keeps things on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BrokenState, UsageError
from shared.wire.signed import SigningKey

PRIVATE_MODE = 0o600
FOLDER_MODE = 0o700


@dataclass(frozen=True)
class DataFolder:
    """The folder given by ``--data``; everything in it belongs to one aggregator.

    Attributes:
        path: the folder, readable by its owner only.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Create the folder and its parts where they are missing."""
        folder = cls(path.resolve())
        try:
            for part in (folder.path, folder.blobs, folder.uploads, folder.keys):
                part.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                "bad-data-folder", f"{path} cannot be used ({type(error).__name__}).", "give --data a folder of its own"
            ) from error
        return folder

    @classmethod
    def existing(cls, path: Path) -> DataFolder:
        """Return a folder that ``task create`` or ``serve`` made.

        Raises:
            UsageError: ``no-data``, so that a mistyped folder does not become a new deployment.
        """
        if not (path / "server.db").is_file():
            raise UsageError("no-data", f"{path} is not an aggregator's folder.", "check --data")
        return cls.open(path)

    @property
    def database(self) -> Path:
        """SQLite file of the aggregator."""
        return self.path / "server.db"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.path / "blobs"

    @property
    def uploads(self) -> Path:
        """Masked vectors of cohorts that are not over."""
        return self.path / "uploads"

    @property
    def keys(self) -> Path:
        """Signing keys and TLS files of the aggregator."""
        return self.path / "keys"

    @property
    def metrics(self) -> Path:
        """Counts of the processes that run; worth nothing once they have ended."""
        return self.path / "metrics"

    @property
    def authority(self) -> Path:
        """Key, codes and certificates of the enrolment authority."""
        return self.path / "authority"


def write_private(path: Path, data: bytes) -> None:
    """Write ``data`` so that only the owner reads it, durably and whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in ``path`` survive power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_or_create_key(path: Path) -> SigningKey:
    """Return the Ed25519 key in ``path``, making one where there is none.

    Raises:
        BrokenState: ``bad-key-file`` when the file is there but is no key; it is never replaced silently.
    """
    if not path.exists():
        write_private(path, SigningKey.generate(os.urandom).secret)
    secret = path.read_bytes()
    if len(secret) != 32:
        raise BrokenState("bad-key-file", f"{path.name} is damaged.", "restore it from a backup")
    return SigningKey(secret)

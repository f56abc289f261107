"""Where the aggregator keeps things on disk."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BrokenState, UsageError
from shared.wire.signed import SigningKey

AUTHORITY_KEY_FILE = "authority.key"
PRIVATE_MODE = 0o600
NEW_SUFFIX = ".new"  # of what a killed process was writing
FOLDER_MODE = 0o700


@dataclass(frozen=True)
class DataFolder:
    """The folder given by ``--data``; everything in it belongs to one aggregator.

    Attributes:
        path: the folder, readable by its owner only.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, *, to_restore: bool = False) -> DataFolder:
        """Create the folder and its parts where they are missing.

        Args:
            path: of the folder.
            to_restore: whether it is opened to have a backup restored into it.

        Raises:
            UsageError: ``bad-data-folder`` for one that cannot be used, or a separate authority's;
                ``restore-unfinished``.
        """
        folder = cls(path.resolve())
        if (folder.path / AUTHORITY_KEY_FILE).exists():
            raise UsageError(
                "bad-data-folder", f"{path} is an enrolment authority's.", "give the aggregator a folder of its own"
            )
        if not to_restore:
            folder._require_whole()
        try:
            for part in (folder.path, folder.blobs, folder.uploads, folder.keys):
                part.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                "bad-data-folder", f"{path} cannot be used ({type(error).__name__}).", "give --data a folder of its own"
            ) from error
        return folder

    def remove_if_empty(self) -> None:
        """Take back a folder that was made in vain; what holds a file stays."""
        below = [path for path in self.path.rglob("*") if path.is_dir()]
        for path in [*sorted(below, reverse=True), self.path]:
            with suppress(OSError):
                path.rmdir()

    @classmethod
    def existing(cls, path: Path) -> DataFolder:
        """Return a folder that ``task create`` or ``serve`` made.

        Raises:
            UsageError: ``no-data``, so that a mistyped folder does not become a new deployment.
        """
        folder = cls(path.resolve())
        folder._require_whole()
        if not folder.has_database():
            raise UsageError("no-data", f"{path} is not an aggregator's folder.", "check --data")
        return cls.open(path)

    def has_database(self) -> bool:
        """Say whether there is a database, or the address of one."""
        return self.database.is_file() or self.database_url_file.is_file()

    def _require_whole(self) -> None:
        """Refuse what a restore that broke off has left: its keys with an empty database would be another deployment.

        Raises:
            UsageError: ``restore-unfinished``.
        """
        if self.restoring.exists() and not self.has_database():
            raise UsageError(
                "restore-unfinished",
                f"A backup was being restored into {self.path}, and that broke off.",
                "run the same `fedloom-server db restore` again; with --database, give an empty one",
            )

    @property
    def restoring(self) -> Path:
        """A note that a restore began; it means nothing once there is a database."""
        return self.path / "restore.unfinished"

    @property
    def database(self) -> Path:
        """SQLite file of the aggregator, where it uses no other database."""
        return self.path / "server.db"

    @property
    def database_url_file(self) -> Path:
        """Address of the PostgreSQL database, where ``db use`` named one; it may hold a password."""
        return self.keys / "database.url"

    @property
    def object_store_file(self) -> Path:
        """Address and credentials of the object store, where ``blobs use`` named one."""
        return self.keys / "object_store.json"

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
    # A name of its own for each writer: two processes may store the same content at once. Only the owner may read it.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=NEW_SUFFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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

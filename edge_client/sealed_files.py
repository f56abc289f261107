"""The two files of a sealed update: what is encrypted, and the key that is destroyed first. Read without NumPy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_client.durable import naming_disk_errors, sync_folder, write_durably
from edge_client.journal import Journal, State
from edge_client.state_folder import StateFolder
from shared.errors import TryLater
from shared.limits import MAX_SEALED_UPDATE_BYTES

_MAX_KEY_BYTES = 4096  # that are read or overwritten of a file which may be anything


class SealedFiles:
    """Where a device keeps a trained update that waits, one at most."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder.path
        self._key, self._box = folder.sealing_key_file, folder.sealed_update_file

    def keep(self, key: bytes, box: bytes) -> None:
        """Write both, the key first; on the disk when this returns.

        Raises:
            TryLater: ``disk-write-failed``.
        """
        write_durably(self._key, key)
        write_durably(self._box, box)

    def read(self) -> tuple[bytes, bytes] | None:
        """Return key and box, None where one is gone or cannot be read."""
        try:
            with self._key.open("rb") as key, self._box.open("rb") as box:
                return key.read(_MAX_KEY_BYTES), box.read(MAX_SEALED_UPDATE_BYTES + 1)
        except OSError:
            return None

    def are_there(self) -> bool:
        """Say whether anything of an update is on the disk, half-written files included."""
        return self._key.exists() or self._box.exists() or bool(self._half_written())

    def destroy(self) -> None:
        """Overwrite and delete the key, then delete the rest.

        A file system may keep old blocks of either, as flash does: whoever could read those of the key and of the
        update could open it.

        Raises:
            TryLater: ``disk-write-failed``.
        """
        with naming_disk_errors(self._key):
            _overwrite(self._key)
            for path in (self._key, *self._half_written(), self._box):
                path.unlink(missing_ok=True)
            sync_folder(self._folder)

    def _half_written(self) -> list[Path]:
        names = (self._key.name, self._box.name)
        return [path for name in names for path in self._folder.glob(f".{name}.*.new")]


def _overwrite(path: Path) -> None:
    if path.is_symlink() or not path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        file.write(bytes(min(_MAX_KEY_BYTES, os.fstat(descriptor).st_size)))
        os.fsync(descriptor)


def withdraw_update(folder: StateFolder, journal_id: str | None, now_s: float) -> bool:
    """Destroy the update that waits, at the owner's word, and say whether there was one.

    A running agent is told by the journal: what it has of it in memory is let go of before any of it is sent.

    Raises:
        TryLater: ``disk-write-failed``.
        BrokenState: ``journal-damaged``.
    """
    with _opened(folder, journal_id) as journal:
        waited = journal.sealed.withdraw()
        SealedFiles(folder).destroy()
        with suppress(TryLater), folder.lock():
            _drop(journal, now_s, "update-withdrawn")
    return waited


def drop_update(folder: StateFolder, journal_id: str | None, now_s: float, reason: str) -> None:
    """Destroy the update that waits while no agent is at work: the caller holds the folder; raises as above."""
    with _opened(folder, journal_id) as journal:
        _drop(journal, now_s, reason)
    SealedFiles(folder).destroy()


def _drop(journal: Journal, now_s: float, reason: str) -> None:
    if (waiting := journal.sealed.waiting) is not None:
        journal.record(waiting.entry, State.ABANDONED, now_s, reason=reason)


@contextmanager
def _opened(folder: StateFolder, journal_id: str | None) -> Iterator[Journal]:
    journal = Journal(folder.journal_file, journal_id)
    try:
        yield journal
    finally:
        journal.close()

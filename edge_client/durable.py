"""Files that survive a power cut: either the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shared.errors import TryLater


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Give errors of the operating system in the block a name.

    Raises:
        TryLater: ``disk-write-failed``.
    """
    try:
        yield
    except OSError as error:
        raise TryLater(
            "disk-write-failed",
            f"{path} cannot be written: {error.strerror or type(error).__name__}.",
            "free some space, and check that the disk is sound and writable; it is tried again later",
        ) from error


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` in one step that is on the disk when this returns.

    Raises:
        TryLater: ``disk-write-failed``; the old content stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    with naming_disk_errors(path):
        partial.unlink(missing_ok=True)  # left by a process of the same number that was killed
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)  # whatever the umask takes away
                _give_to_its_owner(descriptor, path)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def _give_to_its_owner(descriptor: int, path: Path) -> None:
    """Let a file that root writes be whose the one before was, or the folder: the agent itself is another user."""
    if os.geteuid() == 0:
        before = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, before.st_uid, before.st_gid)


def replace_durably(partial: Path, path: Path) -> None:
    """Move a finished file to its name; both are on the disk when this returns; raises as ``write_durably``."""
    with naming_disk_errors(path):
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in ``folder`` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files named by their SHA-256: the same content is stored once, and never changes. Here: in a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cloud_server.settings import NEW_SUFFIX, sync_folder, write_private
from cloud_server.storage.incoming import PART, Incoming, alone
from shared.errors import BrokenState, Missing
from shared.limits import MIN_FREE_BYTES
from shared.wire.canonical import sha256

DIFFERENCE_MARK: Final = ".from."


@dataclass(frozen=True)
class Content:
    """A stored file that is open for reading.

    Attributes:
        file: at its beginning; whoever has it closes it.
        size_bytes: of the whole.
    """

    file: BinaryIO
    size_bytes: int


@dataclass(frozen=True)
class Stored:
    """What a look at everything that is stored finds.

    Attributes:
        name: in the store; the part after the slash is a hash, or ``AFTER.from.BEFORE`` for a difference.
        modified_s: seconds since the epoch, when it was last put.
    """

    name: str
    modified_s: float

    @property
    def digest(self) -> str:
        """The hash of the file, or of the one that a difference leads to; other text for a killed writer's remains."""
        name = self.name.rpartition("/")[2]
        return name if name.endswith(NEW_SUFFIX) else name.partition(DIFFERENCE_MARK)[0]

    @property
    def is_difference(self) -> bool:
        """Whether it leads from one file to another."""
        return DIFFERENCE_MARK in self.name


class BlobStore(Protocol):
    """Files named by their SHA-256; every method raises OSError while the store does not work."""

    def __hash__(self) -> int:
        """What was read of a store is remembered by it."""
        ...

    @property
    def kind(self) -> str:
        """What it is, for people."""
        ...

    def put(self, data: bytes) -> str:
        """Store ``data`` durably, as new even if it is there already, and return its hexadecimal SHA-256."""
        ...

    def get(self, digest: str) -> bytes:
        """Return a file's bytes.

        Raises:
            Missing: ``blob-unknown``.
            BrokenState: ``blob-damaged`` if something else came back than was stored.
        """
        ...

    def open(self, digest: str) -> Content:
        """Open the file of that hexadecimal SHA-256; raises ``blob-unknown`` (Missing)."""
        ...

    def put_difference(self, before: str, after: str, data: bytes) -> None:
        """Store durably what leads from one file to another, both given by their hashes."""
        ...

    def open_difference(self, before: str, after: str) -> Content:
        """Open the difference between two files; raises ``no-difference`` (Missing)."""
        ...

    def stored(self) -> Iterator[Stored]:
        """Yield everything that is stored, remains of writers that were killed included."""
        ...

    def remove(self, name: str, put_before_s: float) -> bool:
        """Delete what ``stored`` named, unless it was put (again) since, and say whether it was deleted."""
        ...

    def missing(self) -> str:
        """Say what keeps files from being stored, empty if nothing does."""
        ...


@dataclass(frozen=True)
class FolderBlobs:
    """A folder of content-addressed files."""

    folder: Path

    @property
    def kind(self) -> str:
        """See ``BlobStore``."""
        return "folder of blobs"

    def path(self, digest: str) -> Path:
        """Return where the file of that hexadecimal SHA-256 is.

        Raises:
            Missing: ``blob-unknown``.
        """
        if not is_digest(digest) or not (path := self.folder / blob_name(digest)).is_file():
            raise blob_unknown()
        return path

    def put(self, data: bytes) -> str:
        """See ``BlobStore``."""
        digest = sha256(data).hex()
        path = self.folder / blob_name(digest)
        self._make_room(path)
        if path.is_file() and path.read_bytes() == data and self._renew(path):
            sync_folder(path.parent)  # who put it there may have failed before this
        else:
            write_private(path, data)
        return digest

    def get(self, digest: str) -> bytes:
        """See ``BlobStore``."""
        return checked(digest, self.path(digest).read_bytes())

    def open(self, digest: str) -> Content:
        """See ``BlobStore``."""
        return _opened(self.path(digest))

    def put_difference(self, before: str, after: str, data: bytes) -> None:
        """See ``BlobStore``."""
        path = self.folder / difference_name(before, after)
        self._make_room(path)
        write_private(path, data)

    def open_difference(self, before: str, after: str) -> Content:
        """See ``BlobStore``."""
        if is_digest(before) and is_digest(after) and (path := self.folder / difference_name(before, after)).is_file():
            return _opened(path)
        raise no_difference()

    def stored(self) -> Iterator[Stored]:
        """See ``BlobStore``."""
        for path in self.folder.glob("??/*"):
            with suppress(FileNotFoundError):
                yield Stored(f"{path.parent.name}/{path.name}", path.stat().st_mtime)

    def remove(self, name: str, put_before_s: float) -> bool:
        """See ``BlobStore``."""
        path = self.folder / name
        with alone(self.folder), suppress(FileNotFoundError):
            if path.stat().st_mtime < put_before_s:
                path.unlink()
                return True
        return False

    def missing(self) -> str:
        """See ``BlobStore``."""
        return lack_of_room(self.folder)

    def _renew(self, path: Path) -> bool:
        """Let a file count as put now, and say whether it was still there."""
        with alone(self.folder), suppress(FileNotFoundError):
            os.utime(path)
            return True
        return False

    def _make_room(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        sync_folder(self.folder)


def _opened(path: Path) -> Content:
    file = path.open("rb")
    return Content(file, os.fstat(file.fileno()).st_size)


def lack_of_room(folder: Path) -> str:
    """Say why files cannot be added to ``folder``, empty if they can."""
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return f"cannot be used ({type(error).__name__})"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    return "" if free_bytes >= MIN_FREE_BYTES else f"has {free_bytes} bytes left, {MIN_FREE_BYTES} are needed"


def blob_name(digest: str) -> str:
    """Return the name of a file in a store."""
    return f"{digest[:2]}/{digest}"


def difference_name(before: str, after: str) -> str:
    """Return the name of a difference in a store."""
    return f"{after[:2]}/{after}{DIFFERENCE_MARK}{before}"


def blob_unknown() -> Missing:
    """Return the error for a hash that nothing has."""
    return Missing("blob-unknown", "There is no file of that hash.")


def no_difference() -> Missing:
    """Return the error for two files without a difference."""
    return Missing("no-difference", "There is no difference between these files.", "fetch the whole file")


def checked(digest: str, data: bytes) -> bytes:
    """Return ``data``; raises ``blob-damaged`` (BrokenState) if it is not what was stored."""
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


def is_digest(text: str) -> bool:
    """Say whether a text is a hexadecimal SHA-256."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")

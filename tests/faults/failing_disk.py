"""A disk whose n-th call fails, for everything in this process: Python's own calls and those inside SQLite.

    with failing_disk(folder) as disk:
        disk.fail(n, errno.ENOSPC)     the n-th change below the folder from now on fails, and all until ``mend``
        ...
        disk.mend()

The addresses of the C library's functions, which the dynamic linker wrote into every loaded program part, are replaced
by functions of this module, as LD_PRELOAD would do it, but in a process that runs already and with no compiler.
Like Linux, a failed fsync loses what was written to the file since the last one; nobody may rely on a second try.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.linked_calls import replaced

_INT, _LONG, _TEXT, _POINTER = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_char_p, ctypes.c_void_p
Signature = tuple[Any, ...]  # result, then arguments
_WRITE: Final[Signature] = (_LONG, _INT, _POINTER, _LONG)
_PWRITE: Final[Signature] = (_LONG, _INT, _POINTER, _LONG, ctypes.c_int64)
_READ, _PREAD = _WRITE, _PWRITE
# By name: its signature, and whether its first argument is a descriptor, a path, or a folder's descriptor and a path.
CHANGES: Final[Mapping[str, tuple[Signature, str]]] = {
    "write": (_WRITE, "descriptor"),
    "pwrite64": (_PWRITE, "descriptor"),
    "fsync": ((_INT, _INT), "descriptor"),
    "fdatasync": ((_INT, _INT), "descriptor"),
    "ftruncate64": ((_INT, _INT, ctypes.c_int64), "descriptor"),
    "truncate64": ((_INT, _TEXT, ctypes.c_int64), "path"),
    "open64": ((_INT, _TEXT, _INT, _INT), "path"),
    "open": ((_INT, _TEXT, _INT, _INT), "path"),
    "openat64": ((_INT, _INT, _TEXT, _INT, _INT), "at"),
    "rename": ((_INT, _TEXT, _TEXT), "path"),
    "mkdir": ((_INT, _TEXT, _INT), "path"),
    "rmdir": ((_INT, _TEXT), "path"),
    "unlink": ((_INT, _TEXT), "path"),
    "unlinkat": ((_INT, _INT, _TEXT, _INT), "at"),
}
READS: Final[Mapping[str, tuple[Signature, str]]] = {
    "read": (_READ, "descriptor"),
    "pread64": (_PREAD, "descriptor"),
}
_CREATING: Final = frozenset({"open64", "open", "openat64"})  # opening what is there changes nothing
_NEED_NO_ROOM: Final = frozenset({"unlink", "unlinkat", "rmdir", "truncate64"})  # work on a full disk, too
_SYNCING: Final = frozenset({"fsync", "fdatasync"})
_JOURNALED: Final = (".db", ".db-wal", ".db-shm", ".anchor")  # what these lost, SQLite writes again by itself


@dataclass
class Disk:
    """What happens to calls below a folder.

    Attributes:
        folder: of the files.
        count: calls since ``fail``.
        failed: the names of those that failed.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.count = 0
        self.failed: list[str] = []
        self._first = 0
        self._times = 0
        self._error = errno.EIO
        self._reads = False
        self._synced: dict[tuple[int, int], int] = {}

    def fail(self, first: int, error: int, *, times: int = 1 << 30, reads: bool = False) -> None:
        """Let the ``first``-th call from now on fail with ``error``, and the following ones.

        Args:
            first: from 1.
            error: of ``errno``.
            times: how many fail.
            reads: whether reads count, and fail, too.
        """
        self.count, self.failed, self._first, self._times, self._error = 0, [], first, times, error
        self._reads = reads

    def mend(self) -> None:
        """Let everything work again."""
        self._first = 0

    def asked(self, name: str, path: str, descriptor: int | None) -> int:
        """Count a call, and return the error that it must fail with, 0 if none."""
        if not self._first or (not path.startswith(f"{self.folder}/") and path != str(self.folder)):
            return 0
        if (name in READS and not self._reads) or (name in _NEED_NO_ROOM and self._error == errno.ENOSPC):
            return 0
        self.count += 1
        if not self._first <= self.count < self._first + self._times:
            return 0
        self.failed.append(name)
        if name in _SYNCING and descriptor is not None and not path.endswith(_JOURNALED):
            self._lose(descriptor)
        return self._error

    def succeeded(self, name: str, descriptor: int | None) -> None:
        """Note what a call that worked made durable."""
        if name in _SYNCING and descriptor is not None:
            found = os.fstat(descriptor)
            self._synced[found.st_dev, found.st_ino] = found.st_size

    def _lose(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return
        durable = self._synced.get((found.st_dev, found.st_ino), 0)
        with Path(f"/proc/self/fd/{descriptor}").open("r+b", buffering=0) as file:
            file.seek(durable)
            _REAL["write"](file.fileno(), bytes(max(0, found.st_size - durable)), max(0, found.st_size - durable))


_REAL: dict[str, Callable[..., int]] = {}


@contextmanager
def failing_disk(folder: Path) -> Iterator[Disk]:
    """Stand between this process and the calls that concern ``folder``."""
    disk = Disk(folder.resolve())
    library = ctypes.CDLL(None, use_errno=True)
    replacements, kept = {}, []
    for name, (signature, subject) in {**CHANGES, **READS}.items():
        kind = ctypes.CFUNCTYPE(*signature, use_errno=True)
        address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        _REAL[name] = kind(address)
        standing_in = kind(_stand_in(disk, name, subject))
        kept.append(standing_in)
        replacements[name] = ctypes.cast(standing_in, ctypes.c_void_p).value or 0
    with replaced(replacements):
        yield disk
    kept.clear()


def _stand_in(disk: Disk, name: str, subject: str) -> Callable[..., int]:
    real = _REAL[name]

    def call(*arguments: Any) -> int:  # noqa: ANN401  # C's
        descriptor = arguments[0] if subject == "descriptor" else None
        if disk._first and not (name in _CREATING and not arguments[-2] & os.O_CREAT):
            error = disk.asked(name, _path(subject, arguments), descriptor)
            if error:
                ctypes.set_errno(error)
                return -1
        result = real(*arguments)
        if result == 0 and name in _SYNCING:
            disk.succeeded(name, descriptor)
        return result

    return call


def _path(subject: str, arguments: tuple[Any, ...]) -> str:
    try:
        if subject == "descriptor":
            return str(Path(f"/proc/self/fd/{arguments[0]}").readlink())
        if subject == "path":
            return str(Path.cwd() / os.fsdecode(arguments[0]))
        folder = Path(f"/proc/self/fd/{arguments[0]}").readlink() if arguments[0] >= 0 else Path.cwd()
        return str(folder / os.fsdecode(arguments[1]))
    except OSError:  # no such descriptor: the call itself will say so
        return ""

"""The audit log: what operators and drivers did, which devices enrolled; each entry's hash covers the one before.

The last hashes are also appended to a file outside the database, the anchor. A database that does not contain what its
anchor names is an older copy: it would lower versions and forget what of a privacy budget was spent, so nothing
serves from it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, desc, insert, select

from cloud_server.settings import PRIVATE_MODE, sync_folder
from cloud_server.storage.database import lock_last
from cloud_server.storage.schema import audit
from shared.errors import BrokenState, UsageError
from shared.wire.canonical import Json, decode, encode, sha256, transcript

ANCHOR_FILE: Final = "audit.anchor"
_DOMAIN: Final = "fedloom/1/audit"
_ANCHORED_AT_ONCE: Final = 1000
_LONGEST_LINE_BYTES: Final = 100


@dataclass(frozen=True)
class Head:
    """Where a chain ends: number and hash of its last entry; 0 and nothing before the first."""

    number: int = 0
    sha256: bytes = b""


def record(
    connection: Connection,
    now_s: float,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Json] | None = None,
) -> None:
    """Append an entry in the caller's transaction.

    Args:
        connection: of the transaction that does what is recorded.
        now_s: the time.
        actor: ``operator``, ``operator:NAME``, ``driver``, ``server`` or ``device``.
        action: a verb in the past, such as ``task-created``.
        subject: what it was done to.
        detail: nothing secret.
    """
    lock_last(connection)  # entries have an order
    last = head(connection)
    entry = {
        "number": last.number + 1,
        "at_ms": int(now_s * 1000),
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": encode(dict(detail or {})),
    }
    connection.execute(insert(audit).values(**entry, sha256=_hash(last.sha256, entry)))


def head(connection: Connection) -> Head:
    """Return the end of the chain."""
    query = select(audit.c.number, audit.c.sha256).order_by(desc(audit.c.number)).limit(1)
    row = connection.execute(query).one_or_none()
    return Head() if row is None else Head(row.number, row.sha256)


def entries(connection: Connection, *, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Json]]:
    """Yield entries as plain values, oldest first."""
    query = select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
    for row in connection.execute(query):
        yield _plain(row)


def newest_entries(connection: Connection, *, before: int | None = None, limit: int) -> list[dict[str, Json]]:
    """Return the newest entries, or the newest ones before number ``before``, newest first."""
    query = select(audit).order_by(desc(audit.c.number)).limit(limit)
    if before is not None:
        query = query.where(audit.c.number < before)
    return [_plain(row) for row in connection.execute(query)]


def verify_chain(connection: Connection, verified: Head | None = None) -> Head:
    """Return the chain's end after computing every hash again.

    Args:
        connection: reads.
        verified: up to where that was done before.

    Raises:
        BrokenState: ``audit-damaged`` naming the first entry that does not follow from the one before.
    """
    last = verified or Head()
    for row in connection.execute(select(audit).where(audit.c.number > last.number).order_by(audit.c.number)):
        if row.number != last.number + 1 or row.sha256 != _hash(last.sha256, _entry(row)):
            raise BrokenState(
                "audit-damaged", f"Entry {last.number + 1} of the audit log was changed or removed.", "restore a backup"
            )
        last = Head(row.number, row.sha256)
    return last


def _plain(row: Row[Any]) -> dict[str, Json]:
    return {
        "number": row.number,
        "at_ms": row.at_ms,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": decode(row.detail),
        "sha256": row.sha256.hex(),
    }


def _entry(row: Row[tuple[object, ...]]) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("number", "at_ms", "actor", "action", "subject", "detail")}


def _hash(previous: bytes, entry: Mapping[str, object]) -> bytes:
    values = [entry[name] for name in ("number", "at_ms", "actor", "action", "subject", "detail")]
    return sha256(transcript(_DOMAIN, previous, *values))  # type: ignore[arg-type]  # integers, texts and octets


@dataclass(frozen=True)
class Anchor:
    """The file outside the database.

    Attributes:
        path: a line per entry: its number and hash. Copy it elsewhere as often as you like; it reveals nothing.
    """

    path: Path

    def head(self) -> Head:
        """Return what the last whole line names.

        Raises:
            BrokenState: ``anchor-damaged``.
        """
        if not self.path.exists():
            return Head()
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 2 * _LONGEST_LINE_BYTES))
            lines = file.read().split(b"\n")[:-1]  # power may have gone in the middle of the last one
        if not lines:
            return Head()
        try:
            number, digest = lines[-1].decode("ascii").split(" ")
            found = Head(int(number), bytes.fromhex(digest))
        except ValueError as error:
            raise BrokenState("anchor-damaged", f"{self.path} is damaged.", "copy it back from elsewhere") from error
        return found

    def require_contained(self, connection: Connection) -> None:
        """Refuse a database that does not contain what this file names.

        Raises:
            UsageError: ``database-behind``.
        """
        anchored, last = self.head(), head(connection)
        query = select(audit.c.sha256).where(audit.c.number == anchored.number)
        if anchored.number and connection.execute(query).scalar_one_or_none() != anchored.sha256:
            raise UsageError(
                "database-behind",
                f"The database's audit log ends at entry {last.number} and does not contain entry {anchored.number},"
                f" which {self.path} names: it is an older copy or another deployment's. Versions and the privacy"
                " ledger would go back.",
                "restore a newer backup; where there is none, devices must enrol in a new deployment",
            )

    def extend(self, connection: Connection) -> None:
        """Append what the database has and the file lacks, durably."""
        is_new = not self.path.exists()
        while rows := self._following(connection, self.head()):
            self._append(rows)
        if is_new and self.path.exists():
            sync_folder(self.path.parent)

    def _append(self, rows: list[Head]) -> None:
        """Append those rows that nobody appended since they were read.

        The lock stops this whole process: whoever holds it must not wait for a database, for then another request of a
        web process has its turn, and asks for the lock.
        """
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # web processes, drivers and commands
            end = _end_of_last_line(file)
            file.seek(end)
            file.truncate()
            last = self.head()
            lines = b"".join(
                b"%d %s\n" % (row.number, row.sha256.hex().encode()) for row in rows if row.number > last.number
            )
            try:
                while lines:
                    lines = lines[file.write(lines) :]  # a disk that is almost full takes a part
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)  # what may not be on the disk must be written again
                raise

    def _following(self, connection: Connection, last: Head) -> list[Head]:
        query = select(audit.c.number, audit.c.sha256).where(audit.c.number > last.number).order_by(audit.c.number)
        return [Head(row.number, row.sha256) for row in connection.execute(query.limit(_ANCHORED_AT_ONCE))]


def _end_of_last_line(file: FileIO) -> int:
    """Return where whole lines end: a power cut may have left half a one."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * _LONGEST_LINE_BYTES)
    file.seek(start)
    return start + file.read().rfind(b"\n") + 1

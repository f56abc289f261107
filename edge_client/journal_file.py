"""The SQLite file behind the journal: made once, at enrolment, and opened afterwards only if it is still that one.

Every limit that a device keeps by itself (epsilon, participations, versions, counters) is a row in it. A file that is
gone, empty or another one would silently begin again from nothing; so it has a random id, which the enrolment repeats.
Each row is there twice, see ``journal_copies``.
An older copy of the same file has the same id: see shared/spec/THREATS.md.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from edge_client.journal_copies import add_copies, differing
from shared.errors import BrokenState

_BUSY_S: Final = 30.0
_ID: Final = "id"  # of the table ``meta``
# What SQLite says of a disk, and not of the file on it.
_OF_THE_DISK: Final = tuple(f"SQLITE_{what}" for what in ("FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "BUSY"))
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS contribution (
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    version INTEGER NOT NULL,
    cohort TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    vector_sent INTEGER NOT NULL DEFAULT 0,
    seconds_training REAL NOT NULL DEFAULT 0,
    traffic TEXT NOT NULL DEFAULT '{}',
    started_at_s REAL NOT NULL,
    changed_at_s REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS privacy_charge (
    contribution INTEGER PRIMARY KEY REFERENCES contribution (id),
    loss TEXT NOT NULL,
    delta REAL NOT NULL,
    mechanism TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS peer (
    device TEXT PRIMARY KEY,
    serial INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS failed_training (
    contribution INTEGER PRIMARY KEY REFERENCES contribution (id),
    code TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS evaluation (
    contribution INTEGER PRIMARY KEY REFERENCES contribution (id),
    baseline INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sealed_update (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    contribution INTEGER NOT NULL REFERENCES contribution (id),
    made_for TEXT NOT NULL,
    made_at_s REAL NOT NULL,
    expires_at_s REAL NOT NULL,
    bytes INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


def make_journal(path: Path, journal_id: str) -> str:
    """Make the file, and return its id; one that an interrupted enrolment left stays, with its own id.

    Raises:
        BrokenState: ``journal-damaged``.
    """
    file = JournalFile(path, "rwc")
    try:
        file.prepare()
        return adopt_id(file, journal_id)
    finally:
        file.close()


def open_journal(path: Path, journal_id: str | None) -> JournalFile:
    """Open the file that ``make_journal`` made.

    Args:
        path: of the file.
        journal_id: that it must have; None for a device that enrolled before journals had one.

    Raises:
        BrokenState: ``journal-damaged`` where it is gone, empty, unreadable or another one.
    """
    if not path.exists():
        raise _lost(path, "is gone")
    if path.stat().st_size == 0:  # which SQLite takes for a new database
        raise _lost(path, "is empty")
    file = JournalFile(path, "rw")
    try:
        _require_id(file, path, journal_id)
        file.prepare()
    except BaseException:
        file.close()
        raise
    return file


def _require_id(file: JournalFile, path: Path, journal_id: str | None) -> None:
    file.run("SELECT 1 FROM contribution LIMIT 1")  # before tables are made that are not there yet
    found = file.run("SELECT value FROM meta WHERE name = ?", _ID)
    if journal_id is not None and found != [(journal_id,)]:
        raise _lost(path, "is not the one that was made when this device enrolled")


def adopt_id(file: JournalFile, journal_id: str) -> str:
    """Give a journal that has no id one, and return the one that it has."""
    file.run("INSERT OR IGNORE INTO meta VALUES (?, ?)", _ID, journal_id)
    return file.run("SELECT value FROM meta WHERE name = ?", _ID)[0][0]  # type: ignore[no-any-return]  # sqlite3's


class JournalFile:
    """A connection whose every error is ``journal-damaged``, or ``journal-not-written`` where it is the disk's.

    Args:
        path: of the file.
        mode: "rwc" makes it where it is not there.

    Raises:
        BrokenState: ``journal-damaged``, ``journal-not-written``.
    """

    def __init__(self, path: Path, mode: Literal["rw", "rwc"]) -> None:
        self._path = path
        try:
            address = f"file:{quote(str(path.absolute()))}?mode={mode}"
            self._database = sqlite3.connect(address, timeout=_BUSY_S, isolation_level=None, uri=True)
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def prepare(self) -> None:
        """Have every write on the disk before it counts, look for damage, and make tables that are not there yet."""
        self.run("PRAGMA journal_mode = WAL")
        self.run("PRAGMA synchronous = FULL")
        if (found := self.run("PRAGMA integrity_check")[0][0]) != "ok":
            raise self._damaged(sqlite3.DatabaseError(found))
        self._bring_up_to_date()
        if tables := differing(self.run):
            raise self._damaged(sqlite3.DatabaseError(f"the two copies of {', '.join(tables)} differ"))

    def _bring_up_to_date(self) -> None:
        """Make tables, and add what journals of before have not; ``status`` may do the same at the same time."""
        self.run("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            self.run(statement)
        if all(row[1] != "mechanism" for row in self.run("PRAGMA table_info (privacy_charge)")):
            self.run("ALTER TABLE privacy_charge ADD COLUMN mechanism TEXT NOT NULL DEFAULT ''")
        add_copies(self.run)
        self.run("COMMIT")

    def run(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement, and return its rows."""
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _damaged(self, error: sqlite3.Error) -> BrokenState:
        if (getattr(error, "sqlite_errorname", "") or "").startswith(_OF_THE_DISK):
            return BrokenState(
                "journal-not-written",
                f"{self._path} cannot be written, and nothing is done that is not in it: {error}.",
                "free some space, and check that the disk is sound and writable; then start the agent again",
            )
        return BrokenState(
            "journal-damaged",
            f"{self._path} cannot be used: {error}.",
            "check the disk for errors; else `fedloom-agent leave` and enrol with a new code",
        )


def _lost(path: Path, what: str) -> BrokenState:
    return BrokenState(
        "journal-damaged",
        f"{path}, the record of what has left this device, {what}: its limits could not be kept without it.",
        "put the file back if it was moved; else `fedloom-agent leave` and enrol with a new code",
    )

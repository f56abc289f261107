"""Transactions: durable when they return, undone where they raise, readers never blocked.

On SQLite (WAL) there is one writer at a time. On PostgreSQL there are many, so whoever decides by what it has read
locks the row that the decision is about (``with_for_update``, which SQLite has no need for and leaves out).

Locks are taken in one order, so that no two transactions wait for each other: a task's row, then a cohort's, then
devices', and last of all the one lock of the audit log, of held requests and of the key that signs (``lock_last``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Integer, create_engine, event, insert, make_url, select, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import NullPool

from cloud_server.storage.revisions import Tables, prepare
from cloud_server.storage.schema import setting
from shared.errors import TryLater, UsageError

BUSY_TIMEOUT_MS = 30_000
POOL_CONNECTIONS: Final = 10  # of one process with PostgreSQL, and as many again at peaks
_POOL: Final[Mapping[str, Any]] = {
    "pool_size": POOL_CONNECTIONS,
    "max_overflow": POOL_CONNECTIONS,
    "pool_pre_ping": True,  # connections that a restart of PostgreSQL ended are replaced
}
CONNECT_TIMEOUT_S: Final = 10
_POSTGRESQL: Final = "postgresql"


def sqlite_url(path: Path) -> str:
    """Return the address of a database in one file."""
    return f"sqlite:///{path}"


def require_database_url(url: str) -> str:
    """Return the address of a PostgreSQL database in the form that is stored.

    Raises:
        UsageError: ``bad-database-url``.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != _POSTGRESQL or not parsed.database:
        raise UsageError(
            "bad-database-url",
            "The address is not one of a PostgreSQL database.",
            "write it like postgresql://user:password@host/database",
        )
    return parsed.set(drivername=f"{_POSTGRESQL}+psycopg").render_as_string(hide_password=False)


class Database:
    """One SQLite file or PostgreSQL database.

    Args:
        url: its address, see ``sqlite_url`` and ``require_database_url``.
        tables: what it holds; created where there is nothing.
        keep_connections: for the next transaction. A command that ends soon keeps none, so that none is left to close.

    Raises:
        UsageError: ``database-outdated`` or ``database-newer``.
        TryLater: ``no-database`` if it does not answer.
    """

    def __init__(self, url: str, tables: Tables, *, keep_connections: bool = True) -> None:
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        # Writers take SQLite's lock when they begin: waiting is possible then, and not halfway through.
        pool = {} if keep_connections else {"poolclass": NullPool}
        self._writer = _sqlite(url, "BEGIN IMMEDIATE", pool) if self.is_sqlite else _postgresql(url, pool or _POOL)
        self._reader = _sqlite(url, "BEGIN DEFERRED", pool) if self.is_sqlite else _snapshots(self._writer)
        try:
            with self.write() as connection:
                prepare(connection, tables)
        except OperationalError as error:
            self.close()
            raise (_no_file() if self.is_sqlite else no_database()) from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a transaction that is durable when the block ends, and undone if it raises."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Read one consistent state."""
        with self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()


@contextmanager
def unprepared(url: str) -> Iterator[Connection]:
    """Run a transaction on a database of whatever revision."""
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    engine = _sqlite(url, "BEGIN IMMEDIATE", {}) if is_sqlite else _postgresql(url, _POOL)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def no_database() -> TryLater:
    """Return the error for a database that does not answer; what it said may hold a password."""
    return TryLater("no-database", "The database does not answer.", "check that it runs; it is tried again")


def _no_file() -> TryLater:
    return TryLater(
        "no-database",
        "The database's file cannot be opened, read or written.",
        "check its disk, its mount and its owner",
    )


def _sqlite(url: str, begin: str, pool: Mapping[str, Any]) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **pool)

    @event.listens_for(engine, "connect")
    def prepare_connection(connection: Any, _record: object) -> None:  # noqa: ANN401  # sqlite3.Connection, typed Any by SQLAlchemy
        connection.isolation_level = None
        try:
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except BaseException:
            connection.close()  # it may hold locks
            raise

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the write-ahead log on: where it cannot, SQLite goes on without, and readers and writers would wait."""
    if connection.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
        raise sqlite3.OperationalError("the database cannot be written ahead")


def _postgresql(url: str, pool: Mapping[str, Any]) -> Engine:
    return create_engine(
        url,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "fedloom"},
        **pool,
    )


def _snapshots(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


REVISION = "revision"
_LAST: Final = 0x6665646C6F6F6E  # PostgreSQL's advisory lock


def lock_last(connection: Connection) -> None:
    """Take the last lock: nothing that another transaction may hold is waited for after it."""
    if connection.dialect.name == _POSTGRESQL:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LAST})


def bump(connection: Connection) -> None:
    """Tell held requests, in the transaction that changes what they wait for, to look again."""
    lock_last(connection)
    changed = connection.execute(
        update(setting).where(setting.c.name == REVISION).values(value=setting.c.value.cast(Integer) + 1)
    )
    if changed.rowcount == 0:
        connection.execute(insert(setting).values(name=REVISION, value="1"))


REVISION_ROW: Final = select(setting.c.value).where(setting.c.name == REVISION)


def read_revision(connection: Connection) -> str:
    """Return a text that differs after every ``bump``."""
    return connection.execute(REVISION_ROW).scalar_one_or_none() or ""


class Revisions:
    """What held requests watch: it changes when a driver moves a round or a cohort, and at no other commit.

    Many requests share one look: it is repeated at most every ``interval_s``.
    """

    def __init__(self, database: Database, interval_s: float) -> None:
        self._database = database
        self._interval_s = interval_s
        self._looked_s = 0.0
        self._mark = ""

    def mark(self) -> str:
        """Return a text that differs after every ``bump``."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= self._interval_s:
            self._looked_s = now_s
            with self._database.read() as connection:
                self._mark = read_revision(connection)
        return self._mark


class Mark(Protocol):
    """Tells a driver cheaply whether anybody committed since the last look."""

    def mark(self) -> str:
        """Return a text that differs after every commit of another connection."""
        ...


def changes(database: Database, interval_s: float) -> Mark:
    """Return the database's own mark of commits, looked at at most every ``interval_s``."""
    # SQLite's belongs to one connection; PostgreSQL's is how much its log has grown, which others let grow too.
    statement = "PRAGMA data_version" if database.is_sqlite else "SELECT pg_current_wal_insert_lsn()::text"
    return _Changes(database, statement, interval_s)


class _Changes:
    def __init__(self, database: Database, statement: str, interval_s: float) -> None:
        self._engine = database._reader  # noqa: SLF001  # SQLite's mark must be asked without a transaction
        self._connection = self._engine.raw_connection() if database.is_sqlite else None
        self._statement = statement
        self._interval_s = interval_s
        self._looked_s = 0.0
        self._mark = ""

    def mark(self) -> str:
        """See ``Mark``."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= self._interval_s:
            self._looked_s = now_s
            self._mark = self._look()
        return self._mark

    def _look(self) -> str:
        if self._connection is None:
            with self._engine.connect() as connection:
                return str(connection.exec_driver_sql(self._statement).scalar_one())
        cursor = self._connection.cursor()
        cursor.execute(self._statement)
        row = cursor.fetchone()
        cursor.close()
        return str(row[0]) if row else ""

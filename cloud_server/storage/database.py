"""Transactions on SQLite in WAL mode: durable when they return, one writer at a time, readers never blocked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Integer, MetaData, create_engine, event, insert, select, update
from sqlalchemy.engine import Engine

from cloud_server.storage.schema import setting

BUSY_TIMEOUT_MS = 30_000


class Database:
    """One SQLite file.

    Args:
        path: the file; created with its tables where missing.
        metadata: the tables.
    """

    def __init__(self, path: Path, metadata: MetaData) -> None:
        # Writers take the lock when they begin: waiting is possible then, and not halfway through.
        self._writer = _engine(path, "BEGIN IMMEDIATE")
        self._reader = _engine(path, "BEGIN DEFERRED")
        with self.write() as connection:
            metadata.create_all(connection)

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


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401  # sqlite3.Connection, typed Any by SQLAlchemy
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


REVISION = "revision"


def bump(connection: Connection) -> None:
    """Tell held requests, in the transaction that changes what they wait for, to look again."""
    changed = connection.execute(
        update(setting).where(setting.c.name == REVISION).values(value=setting.c.value.cast(Integer) + 1)
    )
    if changed.rowcount == 0:
        connection.execute(insert(setting).values(name=REVISION, value="1"))


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
                query = select(setting.c.value).where(setting.c.name == REVISION)
                self._mark = connection.execute(query).scalar_one_or_none() or ""
        return self._mark


class Changes:
    """Tells a driver cheaply whether anybody committed since the last look.

    The look is repeated at most every ``interval_s``.
    """

    def __init__(self, database: Database, interval_s: float) -> None:
        self._connection = database._reader.raw_connection()  # noqa: SLF001  # PRAGMA data_version belongs to one connection
        self._interval_s = interval_s
        self._looked_s = 0.0
        self._mark = 0

    def mark(self) -> int:
        """Return a number that differs after every commit of another connection."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= self._interval_s:
            self._looked_s = now_s
            cursor = self._connection.cursor()
            cursor.execute("PRAGMA data_version")
            row = cursor.fetchone()
            cursor.close()
            self._mark = int(row[0]) if row else 0
        return self._mark

"""Which revision of the tables a database has, and which one this program needs; only changing it needs Alembic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, text

from cloud_server.storage.schema import authority_metadata, metadata
from shared.errors import UsageError

MIGRATIONS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
_CREATING: Final = 0x6665646C6F6F6D  # PostgreSQL's advisory lock: of processes that start at once, one creates tables


@dataclass(frozen=True)
class Tables:
    """The tables of one service, with their history.

    Attributes:
        metadata: as this program needs them.
        newest: revision of ``metadata``.
        first: revision of databases from before revisions were written down.
        versions: folder of the migrations.
    """

    metadata: MetaData
    newest: str
    first: str
    versions: Path


AGGREGATOR: Final = Tables(metadata, "0007", "0001", MIGRATIONS / "aggregator")
AUTHORITY: Final = Tables(authority_metadata, "a0004", "a0001", MIGRATIONS / "authority")


def revision_of(connection: Connection, tables: Tables) -> str | None:
    """Return a database's revision, None where it is empty."""
    names = set(inspect(connection).get_table_names())
    if VERSION_TABLE.name in names:
        found = connection.execute(select(VERSION_TABLE.c.version_num)).scalar_one_or_none()
        if found is not None:
            return str(found)
    return tables.first if names & set(tables.metadata.tables) else None


def prepare(connection: Connection, tables: Tables) -> None:
    """Create the tables in an empty database; refuse another revision than this program's.

    Raises:
        UsageError: ``database-outdated`` or ``database-newer``.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATING})
    found = revision_of(connection, tables)
    if found is None:
        tables.metadata.create_all(connection)
        write_revision(connection, tables.newest)
    elif found == tables.newest:
        if not inspect(connection).has_table(VERSION_TABLE.name):
            write_revision(connection, found)
    elif found in _known(tables):
        raise UsageError(
            "database-outdated",
            f"The database is at revision {found}, this program needs {tables.newest}.",
            "stop every process that uses it, then run `fedloom-server db backup` and `fedloom-server db upgrade`",
        )
    else:
        raise UsageError(
            "database-newer",
            f"The database is at revision {found}, which this program (revision {tables.newest}) does not know.",
            "install the newer fedloom again, or restore a backup of before its upgrade elsewhere",
        )


def write_revision(connection: Connection, revision: str) -> None:
    """Write down which revision the tables have."""
    VERSION_TABLE.create(connection, checkfirst=True)
    connection.execute(VERSION_TABLE.delete())
    connection.execute(insert(VERSION_TABLE).values(version_num=revision))


def _known(tables: Tables) -> set[str]:
    return {path.name.split("_")[0] for path in tables.versions.glob("*.py")}

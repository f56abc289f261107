"""Databases of older programs are refused, upgraded without loss, and then like new ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from cloud_server.storage.database import Database, require_database_url, sqlite_url
from cloud_server.storage.revisions import AGGREGATOR, AUTHORITY, MIGRATIONS, VERSION_TABLE, Tables
from cloud_server.storage.upgrade import upgrade
from shared.errors import TryLater, UsageError
from tests.shared.refusals import refused
from tools.own_postgres import Cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "server.db")
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.new_database()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create_engine(url)
    yield made
    made.dispose()


def differences(connection: Connection, tables: Tables) -> list[Any]:
    options = {"include_object": lambda _item, name, *_: name != VERSION_TABLE.name}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)
    return found


@pytest.mark.parametrize("tables", [AGGREGATOR, AUTHORITY])
def test_migrations_end_where_a_new_database_begins(engine: Engine, tables: Tables) -> None:
    with engine.begin() as connection:
        assert upgrade(connection, tables) == ["empty", tables.newest]
        assert differences(connection, tables) == []
    scripts = ScriptDirectory(str(MIGRATIONS), version_locations=[str(tables.versions)])
    assert scripts.get_current_head() == tables.newest
    assert scripts.get_base() == tables.first


def test_a_new_database_is_of_the_newest_revision(url: str, engine: Engine) -> None:
    Database(url, AGGREGATOR).close()
    with engine.begin() as connection:
        assert differences(connection, AGGREGATOR) == []
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == AGGREGATOR.newest
    Database(url, AGGREGATOR).close()  # and is opened again


def old(engine: Engine) -> None:
    """Make a database as the first program made it, with a device."""
    with engine.begin() as connection:
        first = Tables(AGGREGATOR.metadata, AGGREGATOR.first, AGGREGATOR.first, AGGREGATOR.versions)
        upgrade(connection, first)
        connection.execute(text("DROP TABLE alembic_version"))
        connection.execute(
            text(
                "INSERT INTO device (device, task, certificate, identity_key, enrolled_s, counter, last_request,"
                " last_seen_s, version) VALUES ('device-1', 'point', :bytes, :bytes, 1, 77, 'x', 2, 3)"
            ),
            {"bytes": b"\x00\xff"},
        )


def test_an_old_database_is_refused_with_the_way_out_and_upgraded_without_loss(url: str, engine: Engine) -> None:
    old(engine)
    with refused("database-outdated", UsageError) as caught:
        Database(url, AGGREGATOR)
    assert "db upgrade" in caught.value.remedy
    with engine.begin() as connection:
        assert upgrade(connection, AGGREGATOR) == [AGGREGATOR.first, AGGREGATOR.newest]
        assert differences(connection, AGGREGATOR) == []
        assert upgrade(connection, AGGREGATOR) == [AGGREGATOR.newest, AGGREGATOR.newest]  # again: nothing
        row = connection.execute(text("SELECT device, certificate, counter, state, vectors FROM device")).one()
    assert (row.device, bytes(row.certificate), row.counter, row.state, row.vectors) == (
        "device-1",
        b"\x00\xff",
        77,
        "active",
        0,
    )
    Database(url, AGGREGATOR).close()


def test_an_authority_keeps_its_log_and_can_certify_next_keys(tmp_path: Path) -> None:
    engine = create_engine(sqlite_url(tmp_path / "authority.db"))
    row = "INSERT INTO certificate_log (device, body, issued_s{0}) VALUES ('device-{1}', X'00ff', 5{2})"
    with engine.begin() as connection:
        upgrade(connection, Tables(AUTHORITY.metadata, "a0002", AUTHORITY.first, AUTHORITY.versions))
        for number in (1, 2):
            connection.execute(text(row.format("", number, "")))
        upgrade(connection, AUTHORITY)
        connection.execute(text(row.format(", serial", 1, ", 1")))
        found = connection.execute(text("SELECT number, device, body, issued_s, serial FROM certificate_log")).all()
    assert [tuple(one) for one in found] == [
        (1, "device-1", b"\x00\xff", 5.0, 0),
        (2, "device-2", b"\x00\xff", 5.0, 0),
        (3, "device-1", b"\x00\xff", 5.0, 1),
    ]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(row.format(", serial", 1, ", 1")))
    engine.dispose()


def test_an_upgrade_that_fails_changes_nothing(url: str, engine: Engine) -> None:
    """It runs in one transaction of the caller: who pulls the plug has the old database."""
    old(engine)

    def fail() -> None:
        with engine.begin() as connection:
            upgrade(connection, AGGREGATOR)
            raise ConnectionAbortedError

    if url.startswith("sqlite"):
        engine.dispose()
        database = create_engine(url)
        # As the program opens it: SQLite's driver would else commit before every change of a table.
        from sqlalchemy import event  # noqa: PLC0415

        event.listens_for(database, "connect")(lambda raw, _record: setattr(raw, "isolation_level", None))
        event.listens_for(database, "begin")(lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        engine = database
    with pytest.raises(ConnectionAbortedError):
        fail()
    with engine.begin() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    assert "audit" not in names
    with refused("database-outdated", UsageError):
        Database(url, AGGREGATOR)


def test_a_database_of_a_newer_program_is_left_alone(url: str, engine: Engine) -> None:
    Database(url, AGGREGATOR).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with refused("database-newer", UsageError):
        Database(url, AGGREGATOR)


@pytest.mark.parametrize("address", ["", "nonsense", "sqlite:///x.db", "mysql://user@host/name", "postgresql://host"])
def test_other_addresses_than_postgresqls_are_refused(address: str) -> None:
    with refused("bad-database-url", UsageError):
        require_database_url(address)


def test_a_silent_database_is_named_without_its_password() -> None:
    with refused("no-database", TryLater) as caught:
        Database(require_database_url("postgresql://user:hunter2@127.0.0.1:9/name"), AGGREGATOR)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in "".join(map(str, caught.value.args))

"""Devices are found by the beginning of their names, in every database and whatever its texts are sorted by."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, text

from cloud_server.dashboard.facts.devices import PAGE_ROWS, Search, list_devices
from cloud_server.storage.database import Database, sqlite_url
from cloud_server.storage.revisions import AGGREGATOR
from tools.bench.page_scene import Size, insert_devices, scene_plan
from tools.own_postgres import Cluster

TASK: Final = "motion"
NOW_S: Final = 1_800_000_000.0
SIZE: Final = Size(devices=300, rounds=10)
BEGINNINGS: Final = (
    "",
    "d",
    "dev",
    "device",
    "device-",
    "device-8",
    "device-0",
    "device-f",
    "8",
    "ff",
    "device-zz",
    "%",
    "é",
)


@pytest.fixture(params=["sqlite", "C", "en-US", "cy", "da"])  # Welsh and Danish sort some pairs of letters as one
def found_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, list[str]]]:
    """Return a database with devices, and their names."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "server.db")
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database("" if request.param == "C" else request.param)
    database = Database(url, AGGREGATOR)
    with database.write() as connection:
        names = insert_devices(connection, scene_plan(TASK), SIZE, NOW_S, random.Random(7))
    yield database, names
    database.close()


def every_page(connection: Connection, beginning: str, state: str) -> list[str]:
    """Return the names that a search finds, page after page."""
    names, after = list[str](), ""
    while True:
        page = list_devices(connection, TASK, Search(name=beginning, state=state, after=after), NOW_S)
        devices = page["devices"]
        assert isinstance(devices, list)
        assert len(devices) <= PAGE_ROWS
        names += [str(one["device"]) for one in devices if isinstance(one, dict)]
        if page["next"] is None:
            return names
        after = str(page["next"])


@pytest.mark.parametrize("state", ["", "active"])
def test_every_beginning_finds_its_devices(found_in: tuple[Database, list[str]], state: str) -> None:
    database, names = found_in
    with database.read() as connection:
        rows = connection.execute(text("SELECT device FROM device WHERE state = 'active'"))
        active = {str(name) for (name,) in rows}
        for beginning in (*BEGINNINGS, names[0], names[0][:-1]):
            whole = beginning if "device-".startswith(beginning[:7]) else f"device-{beginning}"
            expected = {name for name in names if name.startswith(whole) and (not state or name in active)}
            found = every_page(connection, beginning, state)
            assert len(found) == len(set(found))
            assert set(found) == expected, beginning


def fetched(connection: Connection) -> int:
    """Return how many rows of devices the transaction has read so far."""
    query = (
        "SELECT COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0)"
        " FROM pg_stat_xact_user_tables WHERE relname = 'device'"
    )
    return int(connection.execute(text(query)).scalar_one())


def test_a_page_reads_little_of_a_large_fleet(postgres: Cluster) -> None:
    """A rare beginning in the middle of the names costs no walk over the names before it, nor over those after it."""
    database = Database(postgres.new_database("en-US"), AGGREGATOR)
    with database.write() as connection:
        names = insert_devices(connection, scene_plan(TASK), Size(devices=5000, rounds=10), NOW_S, random.Random(7))
    rare = sorted(names)[len(names) // 2][:12]
    with database.write() as connection:
        connection.execute(text("ANALYZE device"))
        for mode in ("force_custom_plan", "force_generic_plan"):
            connection.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
            before = fetched(connection)
            assert list_devices(connection, TASK, Search(name=rare, state="active"), NOW_S)["devices"]
            assert fetched(connection) - before < 100, mode
    database.close()

"""Every task has one driver at a time, whoever dies, and no driver has all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_server.storage.database import Database, sqlite_url
from cloud_server.storage.leases import LEASE_S, Leases
from cloud_server.storage.revisions import AGGREGATOR
from cloud_server.storage.schema import lease
from tests.edge_client.devices import ManualClock
from tools.own_postgres import Cluster

TASKS = tuple(f"task:{number}" for number in range(6))
HOUSEKEEPING = "housekeeping"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path_factory.mktemp("leases") / "server.db")
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
    made = Database(url, AGGREGATOR)
    yield made
    made.close()


@pytest.fixture
def driver(database: Database) -> Iterator[Callable[[str, ManualClock], Leases]]:
    yield lambda name, clock: Leases(database, clock, name)
    with database.write() as connection:
        connection.execute(lease.delete())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(looks=st.lists(st.tuples(st.integers(0, 2), st.floats(0, LEASE_S)), min_size=1, max_size=25))
def test_no_two_drivers_hold_one_task(database: Database, looks: list[tuple[int, float]]) -> None:
    clock = ManualClock()
    drivers = [Leases(database, clock, f"d{number}") for number in range(3)]
    held: dict[int, tuple[float, frozenset[str]]] = {}
    for number, pause_s in looks:
        clock.time_s += pause_s
        mine = drivers[number].hold(TASKS, HOUSEKEEPING)
        held[number] = clock.time_s, mine
        for other, (since_s, theirs) in held.items():
            if other != number and clock.time_s < since_s + LEASE_S / 2:
                assert not mine & theirs
    with database.write() as connection:
        connection.execute(lease.delete())


def test_drivers_divide_the_tasks_and_take_over_from_one_that_died(
    driver: Callable[[str, ManualClock], Leases],
) -> None:
    clock = ManualClock()
    first, second = driver("first", clock), driver("second", clock)
    assert first.hold(TASKS, HOUSEKEEPING) == {*TASKS, HOUSEKEEPING}
    assert second.hold(TASKS, HOUSEKEEPING) == frozenset()
    for _ in range(3):
        clock.time_s += LEASE_S / 2
        one, other = first.hold(TASKS, HOUSEKEEPING), second.hold(TASKS, HOUSEKEEPING)
    assert {len(one - {HOUSEKEEPING}), len(other)} == {3}
    assert one | other == {*TASKS, HOUSEKEEPING}
    assert not one & other
    clock.time_s += LEASE_S  # the first died
    assert second.hold(TASKS, HOUSEKEEPING) == {*TASKS, HOUSEKEEPING}


def test_a_driver_that_slept_too_long_is_not_the_owner_any_more(
    database: Database, driver: Callable[[str, ManualClock], Leases]
) -> None:
    clock = ManualClock()
    sleeper, other = driver("sleeper", clock), driver("other", clock)
    assert TASKS[0] in sleeper.hold(TASKS[:1], HOUSEKEEPING)
    with database.write() as connection:
        assert sleeper.is_mine(connection, TASKS[0])
    clock.time_s += LEASE_S
    assert TASKS[0] in other.hold(TASKS[:1], HOUSEKEEPING)
    with database.write() as connection:
        assert not sleeper.is_mine(connection, TASKS[0])
        assert other.is_mine(connection, TASKS[0])
    assert TASKS[0] not in sleeper.hold(TASKS[:1], HOUSEKEEPING)


def test_of_many_that_come_at_once_one_gets_it(driver: Callable[[str, ManualClock], Leases]) -> None:
    clock, start = ManualClock(), threading.Barrier(6)
    found: list[frozenset[str]] = []

    def come(name: str) -> None:
        leases = driver(name, clock)
        start.wait()
        found.append(leases.hold(TASKS[:1], HOUSEKEEPING))

    threads = [threading.Thread(target=come, args=(f"t{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(TASKS[0] in held for held in found) == 1
    assert sum(HOUSEKEEPING in held for held in found) == 1

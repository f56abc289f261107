"""Which driver does what: leases on rows, taken from who lets them expire, shared evenly among drivers that live.

A lease keeps drivers from doing the same work twice. Correctness never rests on it alone: a driver that slept longer
than its lease finds, in the transaction that saves, that the state moved on without it.

A lease that ends later than any can was written by a clock that was ahead; it is free.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from cloud_server.storage.database import Database
from cloud_server.storage.schema import lease
from shared.clock import Clock

LEASE_S: Final = 10.0
SHORTEST_LEASE_S: Final = 0.5
LONGEST_LEASE_S: Final = 600.0
_DRIVER: Final = "driver:"


def task_lease(task: str) -> str:
    """Return the name of a task's lease."""
    return f"task:{task}"


class Leases:
    """One driver's leases.

    Args:
        database: of the aggregator.
        clock: the time.
        owner: the driver's name, which no other has.
        lease_s: how long the work of a driver that died waits.
    """

    def __init__(self, database: Database, clock: Clock, owner: str, lease_s: float = LEASE_S) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._lease_s = lease_s
        self._wanted: frozenset[str] = frozenset()
        self._held: frozenset[str] = frozenset()
        self._until_s = 0.0

    def hold(self, shared: Collection[str], single: str) -> frozenset[str]:
        """Return which leases are this driver's for at least half a lease more, renewing where it is due.

        Args:
            shared: names that all living drivers divide evenly.
            single: a name that whoever comes first has besides.
        """
        now_s, wanted = self._clock.now_s(), frozenset(shared)
        # The same set is asked for before each step of a look, and need not be compared name by name.
        same = wanted is self._wanted or wanted == self._wanted
        if same and self._lease_s / 2 < self._until_s - now_s <= self._lease_s:
            self._wanted = wanted
            return self._held
        with self._database.write() as connection:
            self._take(connection, _DRIVER + self._owner, now_s)
            living = self._living(connection, now_s)
            fair = -(-len(wanted) // living)  # no driver holds more, so that a new one finds something to do
            kept = sorted(name for name in wanted & self._held if self._take(connection, name, now_s))
            for name in kept[fair:]:
                connection.execute(delete(lease).where(lease.c.name == name, lease.c.owner == self._owner))
            held = kept[:fair]
            for name in sorted(wanted - self._held):
                if len(held) >= fair:
                    break
                if self._take(connection, name, now_s):
                    held.append(name)
            if self._take(connection, single, now_s):
                held.append(single)
        self._wanted, self._held, self._until_s = wanted, frozenset(held), now_s + self._lease_s
        return self._held

    def forget(self) -> None:
        """Ask again at the next look: nobody knows whether the last one was committed."""
        self._held, self._until_s = frozenset(), 0.0

    def is_mine(self, connection: Connection, name: str) -> bool:
        """Say, inside a transaction, whether a lease is still this driver's; nobody takes it before the commit."""
        query = select(lease.c.owner, lease.c.expires_s).where(lease.c.name == name).with_for_update()
        row = connection.execute(query).one_or_none()
        left_s = 0.0 if row is None else row.expires_s - self._clock.now_s()
        return row is not None and row.owner == self._owner and 0 < left_s <= LONGEST_LEASE_S

    def _take(self, connection: Connection, name: str, now_s: float) -> bool:
        free = (lease.c.owner == self._owner) | ~_holds(now_s)
        values = {"owner": self._owner, "expires_s": now_s + self._lease_s}
        if connection.execute(update(lease).where(lease.c.name == name, free).values(values)).rowcount:
            return True
        return _insert_if_new(connection, {"name": name, **values})

    def _living(self, connection: Connection, now_s: float) -> int:
        drivers = lease.c.name.startswith(_DRIVER)
        connection.execute(delete(lease).where(drivers, ~_holds(now_s)))
        return int(connection.execute(select(func.count()).where(drivers)).scalar_one())


def drivers_left_s(connection: Connection, now_s: float) -> float:
    """Return for how many seconds the driver that was seen last is still known to live, 0 for none."""
    query = select(func.max(lease.c.expires_s)).where(lease.c.name.startswith(_DRIVER), _holds(now_s))
    until_s = connection.execute(query).scalar_one_or_none()
    return 0.0 if until_s is None else float(until_s) - now_s


def _holds(now_s: float) -> ColumnElement[bool]:
    return (lease.c.expires_s > now_s) & (lease.c.expires_s <= now_s + LONGEST_LEASE_S)


def _insert_if_new(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a lease unless there is one of that name, and say whether it was inserted."""
    dialect_insert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    statement = dialect_insert(lease).values(values).on_conflict_do_nothing().returning(lease.c.name)
    return connection.execute(statement).one_or_none() is not None

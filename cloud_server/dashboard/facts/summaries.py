"""Counts and sums over whole tables, remembered for a while by each web process."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import Connection, case, func, select

from cloud_server.audit import Head, verify_chain
from cloud_server.beside import beside_other_requests, later
from cloud_server.privacy import Spending, forecast, rounds_left
from cloud_server.rounds.rounds import open_round
from cloud_server.storage.database import Database
from cloud_server.storage.schema import device
from cloud_server.tasks import Task
from shared.clock import Clock
from shared.layout import Layout
from shared.wire.canonical import Json

R = TypeVar("R")
ONLINE_S: Final = 600.0  # a device that was seen within this time counts as being there
DAY_S: Final = 86_400.0
_AGES_S: Final = (ONLINE_S, DAY_S)
KEPT_S: Final = 15.0  # after which devices are counted anew, while the count of before is shown
SHOWN_S: Final = 60.0  # how old a count may be that is shown


@dataclass(frozen=True)
class Devices:
    """How many devices of a task there are.

    Attributes:
        by_state: active, quarantined, revoked.
        online: seen within ``ONLINE_S``.
        declining: active, and said that they keep out of the open round.
        today: seen within a day.
        counted_s: when that was.
    """

    by_state: dict[str, int]
    online: int
    today: int
    declining: int
    counted_s: float

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_state.values())

    def to_json(self) -> dict[str, Json]:
        """Return them as plain values."""
        return {
            "total": self.total,
            "by_state": dict(self.by_state),
            "online": self.online,
            "seen_within_a_day": self.today,
            "declining": self.declining,
        }


@dataclass(frozen=True)
class Budget:
    """What is spent of a task's privacy budget.

    Attributes:
        spending: so far.
        rounds_left: full cohorts that it still pays for, None where it never runs out.
        forecast: (full cohorts, epsilon) from the beginning to the end.
    """

    spending: Spending
    rounds_left: int | None
    forecast: list[tuple[int, float]]


class Summaries:
    """What would take long to count for each request.

    Args:
        database: nobody else uses it in a web process, for another thread does.
        clock: the time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._turn = threading.Lock()
        self._devices: dict[str, Devices] = {}
        self._counting: set[str] = set()
        self._budgets: dict[str, Budget] = {}
        self._verified = Head()

    def devices(self, task: str) -> Devices:
        """Return how many devices a task has, at most ``SHOWN_S`` old, and counted anew after ``KEPT_S``."""
        found = self._devices.get(task)
        age_s = math.inf if found is None else self._clock.now_s() - found.counted_s
        if found is None or not 0 <= age_s < SHOWN_S:
            return self._recount(task)
        if age_s >= KEPT_S and task not in self._counting:
            self._counting.add(task)
            later(lambda: self._recount(task))
        return found

    def _recount(self, task: str) -> Devices:
        with self._turn:
            try:
                now_s = self._clock.now_s()
                found = self._devices[task] = self._beside(lambda connection: _count(connection, task, now_s))
                return found
            finally:
                self._counting.discard(task)

    def forget_devices(self) -> None:
        """Count anew: somebody changed a device."""
        self._devices.clear()

    def budget(self, stored: Task, layout: Layout) -> Budget:
        """Return what is spent of a task's privacy budget, and what is left."""
        with self._turn:
            before = self._budgets.get(stored.name)

            def read(connection: Connection) -> Budget:
                spending = Spending.read(connection, stored.plan, before.spending if before else None)
                if before is not None and spending is before.spending:
                    return before
                return Budget(spending, rounds_left(stored.plan, layout, spending), forecast(stored.plan, layout))

            found = self._budgets[stored.name] = self._beside(read)
            return found

    def verified(self) -> Head:
        """Return the end of the audit log after computing the hashes that were not computed yet.

        Raises:
            BrokenState: ``audit-damaged``.
        """
        with self._turn:
            self._verified = self._beside(lambda connection: verify_chain(connection, self._verified))
            return self._verified

    def beside(self, read: Callable[[Connection], R]) -> R:
        """Return what ``read`` returns, which may take long, while other requests are answered."""
        with self._turn:
            return self._beside(read)

    def _beside(self, read: Callable[[Connection], R]) -> R:
        def work() -> R:
            with self._database.read() as connection:
                return read(connection)

        return beside_other_requests(work)


def _count(connection: Connection, task: str, now_s: float) -> Devices:
    states = select(device.c.state, func.count()).where(device.c.task == task).group_by(device.c.state)
    by_state = {"active": 0, "quarantined": 0, "revoked": 0} | {row[0]: row[1] for row in connection.execute(states)}
    opened = open_round(connection, task)
    declines = (device.c.state == "active") & (device.c.declined == (opened.number if opened else -1))
    asked = [*(device.c.last_seen_s >= now_s - age_s for age_s in _AGES_S), declines]
    sums = [func.coalesce(func.sum(case((condition, 1), else_=0)), 0) for condition in asked]
    # With an index SQLite would look rows up one by one, which takes four times as long as reading all of them.
    row = connection.execute(select(*sums).where(device.c.task.concat("") == task)).one()
    return Devices(by_state, int(row[0]), int(row[1]), int(row[2]), now_s)

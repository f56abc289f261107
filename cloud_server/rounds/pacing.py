"""When devices come back, so that they arrive evenly: from how many there are, and from the hour of the day.

The fewer devices, the sooner: a fleet that the server can answer at once is held, and told the moment that something
is to do. A large one is spread over an interval (pace steering; Bonawitz et al. 2019, Towards Federated Learning at
Scale, 2.3), also when all of it comes at once after an outage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from cloud_server.storage.database import Database
from cloud_server.storage.schema import arrival, device
from shared.clock import Clock
from shared.limits import MAX_RETRY_AFTER_MS

CHECK_INS_PER_S: Final = 200.0  # that one deployment is planned for, unless `serve` is told otherwise
HELD_INTERVAL_S: Final = 1.0  # fleets that could all check in within this time are held instead of spread
SHORTEST_INTERVAL_S: Final = 5.0  # of a fleet that is spread
HOUR_S: Final = 3600
NEW_SHARE: Final = 0.3  # of the mean over the days
LOOK_S: Final = 5.0  # how often a process counts devices


@dataclass(frozen=True)
class Pace:
    """How fast devices may come.

    Attributes:
        devices: that are expected to check in.
        check_ins_per_s: that the server is planned for.
    """

    devices: float
    check_ins_per_s: float

    @property
    def holds(self) -> bool:
        """Whether a device with nothing to do is held, as it is where there are few."""
        return self.devices <= HELD_INTERVAL_S * self.check_ins_per_s

    def retry_after_ms(self, jitter: float, at_least_s: float = 0.0) -> int:
        """Return when a device comes back: evenly spread over one interval, half an interval from now on.

        Args:
            jitter: a random number in [0, 1).
            at_least_s: when there can be something to do at the earliest, in seconds from now.
        """
        interval_s = max(SHORTEST_INTERVAL_S, self.devices / self.check_ins_per_s)
        first_s = max(at_least_s, interval_s / 2)
        return min(MAX_RETRY_AFTER_MS, round(1000 * (first_s + interval_s * jitter)))


def expected_devices(connection: Connection, now_s: float) -> float:
    """Return how many devices will check in: those of the last hour, or as many as usual at this one and the next."""
    query = select(func.count()).select_from(device).where(device.c.last_seen_s >= now_s - HOUR_S)
    lately = connection.execute(query).scalar_one()
    hour = int(now_s // HOUR_S)
    usual = select(func.max(arrival.c.devices)).where(arrival.c.hour.in_([hour % 24, (hour + 1) % 24]))
    return float(max(lately, connection.execute(usual).scalar_one() or 0.0))


def count_arrivals(connection: Connection, now_s: float) -> None:
    """Let the profile of the day learn the hour that is over; once is enough, soon after its end."""
    over = int(now_s // HOUR_S) - 1
    row = connection.execute(select(arrival).where(arrival.c.hour == over % 24)).one_or_none()
    if row is not None and row.counted >= over:
        return
    query = select(func.count()).select_from(device).where(device.c.last_seen_s >= over * HOUR_S)
    came = connection.execute(query).scalar_one()
    if row is None:
        connection.execute(insert(arrival).values(hour=over % 24, devices=float(came), counted=over))
        return
    mean = (1 - NEW_SHARE) * row.devices + NEW_SHARE * came
    connection.execute(update(arrival).where(arrival.c.hour == over % 24).values(devices=mean, counted=over))


class Pacer:
    """Tells one process's devices when to come back.

    Args:
        database: of the aggregator.
        clock: the time.
        jitter: random numbers in [0, 1).
        check_ins_per_s: that the server is planned for.
    """

    def __init__(self, database: Database, clock: Clock, jitter: Callable[[], float], check_ins_per_s: float) -> None:
        self._database = database
        self._clock = clock
        self._jitter = jitter
        self._check_ins_per_s = check_ins_per_s
        self._looked_s = float("-inf")
        self._pace = Pace(0.0, check_ins_per_s)

    def pace(self) -> Pace:
        """Return the pace of now; devices are counted at most every ``LOOK_S``."""
        now_s = self._clock.now_s()
        if not 0 <= now_s - self._looked_s < LOOK_S:
            self._looked_s = now_s
            with self._database.read() as connection:
                self._pace = Pace(expected_devices(connection, now_s), self._check_ins_per_s)
        return self._pace

    def retry_after_ms(self, at_least_s: float = 0.0) -> int:
        """Return when a device with nothing to do comes back."""
        return self.pace().retry_after_ms(self._jitter(), at_least_s)

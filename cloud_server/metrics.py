"""What can be measured of the aggregator, in Prometheus' words; nothing here tells one device from another.

Counts of requests and ticks are kept by the process that has them, in files of one folder (prometheus-client's
multi-process mode), and added up by whichever process is asked. What the database knows is read when asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from cloud_server.api.observing import Exchange
from cloud_server.privacy import privacy_report
from cloud_server.releases.state import EVALUATING, RELEASED, ROLLED_BACK, WAITING, load_release, under_way
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.rounds import ABANDONED, CLOSED, OPEN
from cloud_server.storage.database import Database
from cloud_server.storage.leases import drivers_left_s
from cloud_server.storage.schema import cohort, device, privacy_event, promotion, round_, version
from cloud_server.tasks import load_task, task_names
from shared.clock import Clock
from shared.wire.requests import COHORTS

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client reads it when it is imported
UPLOAD_ROUTE: Final = f"{COHORTS}/{{cohort_id}}/vector"
_REQUEST_S: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 11.0, 30.0, 120.0)  # held ones take up to 10 s
_RESERVED_BYTES: Final = 1024 * 1024  # of each file of counts: several thousand series
_TICK_S: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0)
disable_created_metrics()  # type: ignore[no-untyped-call]


class RequestMetrics:
    """Counts a web process's requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("method", "route", "status")
        self._requests = Counter("fedloom_requests", "Requests answered.", names, registry=registry)
        self._duration = Histogram(
            "fedloom_request_duration_seconds",
            "Time to answer a request, waiting for something to answer included.",
            names,
            registry=registry,
            buckets=_REQUEST_S,
        )
        bodies = ("route",)
        self._received = Counter("fedloom_received_bytes", "Bytes of requests' bodies.", bodies, registry=registry)
        self._sent = Counter("fedloom_sent_bytes", "Bytes of answers' bodies.", bodies, registry=registry)
        # Looked up once: by their labels, it takes longer than to count.
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram, Counter, Counter]] = {}
        self._uploaded = Counter("fedloom_upload_bytes", "Bytes of masked vectors that arrived.", registry=registry)

    def record(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        labels = (exchange.method, exchange.route, str(exchange.status))
        if (series := self._series.get(labels)) is None:
            series = self._series[labels] = (
                self._requests.labels(*labels),
                self._duration.labels(*labels),
                self._received.labels(exchange.route),
                self._sent.labels(exchange.route),
            )
        requests, duration, received, sent = series
        requests.inc()
        duration.observe(exchange.duration_s)
        received.inc(exchange.received_bytes)
        sent.inc(exchange.sent_bytes)
        if exchange.route == UPLOAD_ROUTE:
            self._uploaded.inc(exchange.received_bytes)


class DriverMetrics:
    """Times a driver's looks at its tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ticks = Histogram(
            "fedloom_driver_tick_duration_seconds",
            "Time of one look of the driver at all tasks, with what it did.",
            registry=registry,
            buckets=_TICK_S,
        )

    @contextmanager
    def tick(self) -> Iterator[None]:
        """Time one tick."""
        with self._ticks.time():
            yield


class StateCollector(Collector):
    """Reads what the database knows, at the moment of the question.

    Args:
        database: of the aggregator.
        clock: the time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._epsilons: dict[str, tuple[int, float]] = {}  # by task: after how many charges, how much

    def collect(self) -> Iterable[Metric]:
        """Return the gauges."""
        with self._database.read() as connection:
            names = task_names(connection)
            yield _by_phase(
                "fedloom_rounds",
                "Rounds, by how they stand.",
                names,
                (OPEN, CLOSED, ABANDONED),
                connection.execute(select(round_.c.task, round_.c.phase, func.count()).group_by("task", "phase")).all(),
            )
            yield _by_phase(
                "fedloom_cohorts",
                "Cohorts, by phase.",
                names,
                tuple(phase.value for phase in Phase),
                connection.execute(select(cohort.c.task, cohort.c.phase, func.count()).group_by("task", "phase")).all(),
            )
            yield _by_phase(
                "fedloom_promotions",
                "Promotions, by how they stand.",
                names,
                (EVALUATING, WAITING, RELEASED, ROLLED_BACK),
                connection.execute(
                    select(promotion.c.task, promotion.c.phase, func.count()).group_by("task", "phase")
                ).all(),
            )
            yield _by_task(
                "fedloom_devices",
                "Enrolled devices.",
                dict.fromkeys(names, 0.0) | _counted(connection, select(device.c.task, func.count()).group_by("task")),
            )
            query = select(version.c.task, func.max(version.c.number)).group_by("task")
            newest = _counted(connection, query)
            yield _by_task("fedloom_version", "Newest published version.", newest)
            yield _released(connection, newest)
            active = task_names(connection, state="active")
            yield _by_task(
                "fedloom_task_active", "1 while rounds are planned.", {name: float(name in active) for name in names}
            )
            yield from self._budgets(connection, names)
            left_s = drivers_left_s(connection, self._clock.now_s())
        yield GaugeMetricFamily(
            "fedloom_driver_lease_seconds", "How long the newest driver's lease still holds, 0 without one.", left_s
        )

    def _budgets(self, connection: Connection, names: list[str]) -> Iterable[Metric]:
        spent, allowed = {}, {}
        query = select(privacy_event.c.task, func.count()).group_by("task")
        charges = _counted(connection, query)
        for name in names:
            plan = load_task(connection, name).plan
            if plan.privacy.mechanism == "none":
                continue
            count = int(charges.get(name, 0))
            if self._epsilons.get(name, (-1, 0.0))[0] != count:  # adding losses up takes long, and changes seldom
                report = privacy_report(connection, plan)
                self._epsilons[name] = count, float(str(report["epsilon"]))
            spent[name], allowed[name] = self._epsilons[name][1], plan.privacy.max_epsilon
        yield _by_task("fedloom_privacy_epsilon", "Privacy budget spent, as epsilon at the plan's delta.", spent)
        yield _by_task("fedloom_privacy_epsilon_allowed", "Privacy budget of the plan.", allowed)


def registry_for_values() -> CollectorRegistry:
    """Return the registry that a process's own counts are made in, with room for them on the disk."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        for kind in ("counter", "histogram"):
            # prometheus-client maps files with holes into memory; to write there on a full disk kills the process.
            with (Path(folder) / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
    return CollectorRegistry()


def read_metrics(own: CollectorRegistry, state: StateCollector) -> bytes:
    """Return everything in Prometheus' text format.

    Args:
        own: this process's counts, used where no folder is shared with other processes.
        state: what the database knows.
    """
    shared = CollectorRegistry()
    shared.register(state)
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        MultiProcessCollector(shared, folder)  # type: ignore[no-untyped-call]
        return generate_latest(shared)
    return generate_latest(shared) + generate_latest(own)


def share_between_processes(folder: Path) -> None:
    """Have child processes keep their counts in ``folder``, emptied first: counters begin again with the server."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()
    os.environ[FOLDER_VARIABLE] = str(folder)


def _counted(connection: Connection, query: object) -> dict[str, float]:
    return {row[0]: float(row[1]) for row in connection.execute(query)}  # type: ignore[call-overload]  # a select


def _by_task(name: str, text: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["task"])
    for task_name, value in sorted(values.items()):
        family.add_metric([task_name], value)
    return family


def _released(connection: Connection, newest: dict[str, float]) -> Metric:
    """Return which version devices of each task are told to use: all of them, and those of the stage under way."""
    family = GaugeMetricFamily(
        "fedloom_released_version", "Version that devices are told to use, by stage.", labels=["task", "stage"]
    )
    for task_name, number in sorted(newest.items()):
        state = load_release(connection, task_name)
        everybody = number if state is None else state.released if state.pinned is None else state.pinned
        family.add_metric([task_name, "all"], everybody)
        going = under_way(connection, state)
        if state is not None and state.pinned is None and going is not None:
            family.add_metric([task_name, str(going.stage + 1)], going.candidate)
    return family


def _by_phase(name: str, text: str, names: list[str], phases: tuple[str, ...], rows: Iterable[object]) -> Metric:
    counts = {(task_name, phase): 0.0 for task_name in names for phase in phases}
    counts |= {(row[0], row[1]): float(row[2]) for row in rows}  # type: ignore[index]  # task, phase, count
    family = GaugeMetricFamily(name, text, labels=["task", "phase"])
    for labels, value in sorted(counts.items()):
        family.add_metric(labels, value)
    return family

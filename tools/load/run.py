"""One load: an aggregator of its own, processes of devices, and slow clients beside them in half of the window."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from cloud_server.aggregation.closing import step_weights
from cloud_server.app import RELEASE_KEY_FILE
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.storage.blobs import FolderBlobs
from cloud_server.storage.opening import open_database
from cloud_server.storage.schema import version
from cloud_server.tasks import create_task, load_master, load_task, prepare_task
from shared.bundle import read_bundle
from shared.layout import Layout
from shared.plan import Cohort, Deadlines, Plan, Stop, Update
from shared.plan import Server as ServerRule
from shared.secagg.masking import add_into
from tools.bench.quadratic import write_quadratic_bundle
from tools.fleet import REPOSITORY, FleetFailed, Server
from tools.load.devices import READY, SUM_FILE
from tools.load.slow import NEW_PER_S, SlowClients
from tools.load.work import Report, Window, Work

TASK: Final = "load"
THREADS: Final = 32  # requests under way at once, per process of devices
HOUR_S: Final = 3600.0
LEAD_S: Final = 3.0  # between the order to begin and the beginning
GAP_S: Final = 4.0  # after all slow clients have connected
NO_LIMITS: Final = ("--connections-per-address", "0")  # every device has the same address here


@dataclass(frozen=True)
class Load:
    """What to do.

    Attributes:
        devices: in one cohort.
        parameters: d, of the model.
        window_s: in which all vectors go up.
        slow_clients: beside the second half of the devices; 0 for none.
        processes: of devices.
        web_processes: of the aggregator.
        seed: of updates and times.
    """

    devices: int
    parameters: int
    window_s: float
    slow_clients: int
    processes: int
    web_processes: int
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        reports: of the processes of devices.
        web_bytes: peak memory of all web processes together.
        driver_bytes: peak memory of the driver.
        ended: how often the aggregator ended a slow client's connection.
        wrong_weights: how many of the new version's weights are not bit by bit what the devices' own vectors give.
    """

    reports: list[Report]
    web_bytes: int
    driver_bytes: int
    ended: int
    wrong_weights: int


def run(load: Load, folder: Path, say: Any) -> Outcome:  # noqa: ANN401  # prints a line
    """Do it all in ``folder``.

    Raises:
        FleetFailed: what a process said that did not do what it should.
    """
    plan = _plan(load)
    options = ("serve", "--workers", str(load.web_processes), *NO_LIMITS)
    server = Server(folder / "server", folder / "server.log", command=options)
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        _create(server, plan, load.parameters, folder)
        say(f"preparing {load.devices} devices: enrolment, keys, shares, masks")
        children = [stack.enter_context(_child(work)) for work in _works(server, plan, load, folder)]
        for child in children:
            if _line(child).strip() != READY:
                raise FleetFailed("load-failed", "A process of devices failed.", "read what it printed")
        window = _window(load)
        say(f"{load.devices} vectors of {load.parameters} parameters go up within {load.window_s:g} s")
        for child in children:
            _tell(child, window.to_json())
        ended = _be_slow(server.port, load.slow_clients, window)
        reports = [Report.from_json(_line(child)) for child in children]
        say("comparing the new version with the devices' own vectors")
        wrong = _wrong_weights(server, plan, folder, reports)
        return Outcome(reports, *_memory(server), ended, wrong)


def _plan(load: Load) -> Plan:
    return Plan(
        TASK,
        update=Update(rotation="off"),
        cohort=Cohort(min_survivors=2, largest=load.devices, corrupt_share=0.05, dropout_share=0.1),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S, 24 * HOUR_S),
        server=ServerRule(combine="mean"),
        stop=Stop(rounds=1),
    )


def _create(server: Server, plan: Plan, parameters: int, folder: Path) -> None:
    write_quadratic_bundle(folder / "bundle", parameters)
    data = DataFolder(server.data.resolve())
    key = load_or_create_key(data.keys / RELEASE_KEY_FILE)
    database = open_database(data)
    with database.write() as connection:
        create_task(
            connection,
            prepare_task(FolderBlobs(data.blobs), read_bundle(folder / "bundle"), plan, key, time.time()),
            time.time(),
        )
    database.close()
    (folder / "plan.json").write_bytes(plan.to_bytes())


def _works(server: Server, plan: Plan, load: Load, folder: Path) -> Iterator[Work]:
    codes = server.run("code", "create", "--task", plan.task, "--count", str(load.devices))["codes"]
    database = open_database(DataFolder(server.data.resolve()))
    with database.read() as connection:
        model_sha256 = bytes(connection.execute(select(version.c.model_sha256)).scalar_one()).hex()
    database.close()
    for number in range(load.processes):
        own = folder / f"devices-{number}"
        own.mkdir()
        yield Work(
            codes=codes[number :: load.processes],
            root=str(server.data / "root.json"),
            plan=str(folder / "plan.json"),
            model_sha256=model_sha256,
            parameters=load.parameters,
            folder=str(own),
            seed=load.seed + number,
            threads=THREADS,
        )


@contextmanager
def _child(work: Work) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tools.load.devices"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        _tell(child, work.to_json())
        yield child
    finally:
        child.kill()
        child.communicate()


def _tell(child: subprocess.Popen[str], line: str) -> None:
    if child.stdin is not None:
        child.stdin.write(line + "\n")
        child.stdin.flush()


def _line(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        raise FleetFailed("load-failed", "A process of devices ended too early.", "read what it printed above")
    return line


def _window(load: Load) -> Window:
    begin_s = time.time() + LEAD_S
    if not load.slow_clients:
        return Window([(begin_s, load.window_s)])
    half_s = load.window_s / 2
    return Window([(begin_s, half_s), (begin_s + half_s + _gap_s(load.slow_clients), half_s)])


def _gap_s(slow_clients: int) -> float:
    return slow_clients / NEW_PER_S + GAP_S


def _be_slow(port: int, count: int, window: Window) -> int:
    """Keep slow clients connected in the last part of the window; return how often they were thrown out."""
    if not count:
        return 0
    begin_s, length_s = window.spans[-1]
    time.sleep(max(0.0, begin_s - _gap_s(count) + 1.0 - time.time()))
    with SlowClients(port, count) as slow:
        time.sleep(max(0.0, begin_s - time.time()))
        if slow.connected < count / 2:
            raise FleetFailed("load-failed", f"{slow.connected} of {count} slow clients were let in.")
        time.sleep(length_s)
        return slow.ended


def _wrong_weights(server: Server, plan: Plan, folder: Path, reports: list[Report]) -> int:
    """Compare the master weights with those that the devices' unmasked vectors give."""
    sums = [np.load(path) for path in sorted(folder.glob(f"devices-*/{SUM_FILE}"))]
    total = sums[0]
    for more in sums[1:]:
        add_into(total, more)
    data = DataFolder(server.data.resolve())
    database = open_database(data)
    with database.read() as connection:
        before, after = (load_master(connection, FolderBlobs(data.blobs), TASK, number) for number in (0, 1))
        manifest = read_bundle(folder / "bundle").manifest
        task = load_task(connection, TASK)
    database.close()
    layout = Layout.of(manifest.tensors)
    counted = sum(report.counted for report in reports)
    encoding = task.plan.encoding(plan.cohort.largest, layout.shared.size, layout.statistics.size)
    aggregate = encoding.decode(total, survivors=counted, sid=bytes.fromhex(reports[0].sid))
    return int(np.count_nonzero(step_weights(before, aggregate, plan, layout) != after))


def _memory(server: Server) -> tuple[int, int]:
    """Return peak bytes of the web processes, and of the driver."""
    if server.process is None:
        return 0, 0
    web, driver = 0, 0
    for child in _children(server.process.pid):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        family = [child, *_children(child)]
        if b"gunicorn" in command:
            web += sum(_peak_bytes(process) for process in family[1:])  # the first one only starts them
        else:
            driver += _peak_bytes(child)
    return web, driver


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()))


def _peak_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0

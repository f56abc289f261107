"""``fedloom-server serve``: web workers and a driver as separate processes under one supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cloud_server.app import make_context
from cloud_server.logs import set_up_logging
from cloud_server.metrics import DriverMetrics, registry_for_values
from cloud_server.releases.keys import signing_key
from cloud_server.rounds.driver import Driver
from cloud_server.rounds.retention import Retention
from cloud_server.storage.database import changes
from cloud_server.storage.failures import failure_of
from cloud_server.storage.leases import LEASE_S
from shared.clock import SystemClock
from shared.errors import FedloomError
from shared.limits import KEEP_ALIVE_S, MAX_POLL_HOLD_S

ACTIVE_TICK_S: Final = 0.005  # how often the driver looks for commits
REMOTE_TICK_S: Final = 0.02  # the same where looking is a request to another process
IDLE_TICK_S: Final = 0.25  # how often it looks at deadlines
REST: Final = 3.0  # times as long as a look that found nothing, before the next: most commits are check-ins
RESTART_S: Final = 1.0
QUICK_DEATH_S: Final = 10.0
MAX_QUICK_DEATHS: Final = 3
FIRST_PAUSE_S: Final = 0.05  # after the first failure of disk or database
LONGEST_PAUSE_S: Final = 5.0
SUPERVISOR_VARIABLE: Final = "FEDLOOM_SUPERVISOR_PID"
log = logging.getLogger("fedloom")


def run_driver(data: Path, supervisor: int, lease_s: float = LEASE_S, retention: Retention | None = None) -> None:
    """Drive rounds until the process is told to stop, or ``supervisor``, its parent's process id, is gone.

    A disk or a database that fails is waited for: nothing that was acknowledged is lost meanwhile.
    """
    set_up_logging()
    parts = make_context(data, SystemClock())
    with parts.database.read() as connection:
        release_key = signing_key(parts.folder, connection, parts.authority.public_key)
    driver = Driver(
        database=parts.database,
        blobs=parts.blobs,
        uploads=parts.uploads,
        release_key=release_key,
        authority_key=parts.authority.public_key,
        clock=parts.clock,
        random_bytes=os.urandom,
        seed_source=parts.authority.draw_seed,
        anchor=parts.anchor,
        workers=os.cpu_count() or 1,
        lease_s=lease_s,
        retention=retention,
    )
    metrics = DriverMetrics(registry_for_values())
    commits = changes(parts.database, ACTIVE_TICK_S / 2 if parts.database.is_sqlite else REMOTE_TICK_S)
    mark, looked_s = "", 0.0
    failures = 0
    while os.getppid() == supervisor:
        try:
            now_mark, now_s = commits.mark(), time.monotonic()
            if now_mark != mark or now_s - looked_s >= IDLE_TICK_S:
                mark, looked_s = now_mark, now_s
                while _timed_tick(driver, metrics):
                    now_s = time.monotonic()
                time.sleep(min(IDLE_TICK_S, REST * (time.monotonic() - now_s)))
            failures = 0
        except (OSError, DBAPIError, PoolTimeout, sqlite3.Error) as error:
            failures += 1
            log.error("the driver waits: %s", failure_of(error))  # noqa: TRY400  # its text may quote rows
            driver.forget()
            time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 10)))
        time.sleep(ACTIVE_TICK_S)


def _timed_tick(driver: Driver, metrics: DriverMetrics) -> bool:
    with metrics.tick():
        return driver.tick()


def web_command(
    application: str, data: Path, listen: str, certificate: Path, key: Path, *, workers: int = 1, **options: float | str
) -> list[str]:
    """Return the command line of the web processes of the module ``application``: gunicorn with gevent and TLS.

    Args:
        application: module whose function ``application`` makes the WSGI application.
        data: its first argument.
        listen: address to bind.
        certificate: for TLS.
        key: for TLS.
        workers: how many processes.
        options: further arguments of ``application``.
    """
    arguments = ", ".join([repr(str(data)), *(f"{name}={value!r}" for name, value in options.items())])
    return [
        sys.executable,
        "-m",
        "gunicorn",
        f"{application}:application({arguments})",
        f"--bind={listen}",
        "--worker-class=cloud_server.web_worker.ProblemWorker",
        "--logger-class=cloud_server.web_worker.OneLog",
        f"--workers={workers}",
        f"--certfile={certificate}",
        f"--keyfile={key}",
        "--config=python:cloud_server.web_config",
        f"--graceful-timeout={int(MAX_POLL_HOLD_S)}",
        f"--keep-alive={int(KEEP_ALIVE_S)}",
        "--log-level=warning",
    ]


class Supervisor:
    """Keeps the children running and stops them together.

    Args:
        commands: command lines by name.
    """

    def __init__(self, commands: dict[str, list[str]]) -> None:
        self._commands = commands
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s: dict[str, float] = {}
        self._quick_deaths: dict[str, int] = {}
        self._stopping = False

    def run(self) -> int:
        """Start the children, restart one that dies, return when told to stop.

        Raises:
            FedloomError: ``child-fails`` when one keeps dying at once; the others are stopped first.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for name in self._commands:
            self._start(name)
        failed = ""
        while not self._stopping and not failed:
            time.sleep(0.05)
            failed = self._restart_dead()
        self._end()
        if failed:
            raise FedloomError(
                "child-fails", f"The {failed} process keeps failing at its start.", "read its messages above"
            )
        return 0

    def _restart_dead(self) -> str:
        """Start children that died again; return the name of one that is given up."""
        for name, child in list(self._children.items()):
            if child.poll() is None or self._stopping:
                continue
            # One that was killed did not fail by itself; one that gave up at once will do so again.
            quick = child.returncode >= 0 and time.monotonic() - self._started_s[name] < QUICK_DEATH_S
            self._quick_deaths[name] = self._quick_deaths.get(name, 0) + 1 if quick else 0
            if self._quick_deaths[name] >= MAX_QUICK_DEATHS:
                return name
            log.error("%s ended with code %s; starting it again", name, child.returncode)
            time.sleep(RESTART_S)
            self._start(name)
        return ""

    def _end(self) -> None:
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(timeout=MAX_POLL_HOLD_S + 5)
            except subprocess.TimeoutExpired:
                child.kill()

    def _start(self, name: str) -> None:
        self._started_s[name] = time.monotonic()
        self._children[name] = subprocess.Popen(  # noqa: S603  # our own programs
            self._commands[name], env={**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}
        )

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True


def tls_context(_config: object, default: object) -> ssl.SSLContext:
    """Return gunicorn's TLS context, TLS 1.2 or newer."""
    context = default() if callable(default) else default
    if not isinstance(context, ssl.SSLContext):
        raise TypeError("gunicorn gave no TLS context")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

"""A real aggregator for tests: its processes on a free port, tasks and enrolled devices on it within milliseconds."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from sqlalchemy import TextClause, text

from cloud_server.app import RELEASE_KEY_FILE
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.authority.registry import Authority
from cloud_server.settings import DataFolder, load_or_create_key, write_private
from cloud_server.storage.blobs import BlobStore, UploadStore
from cloud_server.storage.object_store import Address, ObjectBlobs
from cloud_server.storage.opening import open_blobs, open_database, use_database
from cloud_server.tasks import create_task, prepare_task
from edge_client.transport import pinned_pool
from shared.bundle import Bundle, read_bundle
from shared.clock import SystemClock
from shared.plan import Plan
from shared.root import EnrolmentCode, Root
from tests.cloud_server.members import Member, enrol
from tools.bench.quadratic import write_quadratic_bundle
from tools.fleet import Server

PATIENCE_S: Final = 90.0  # how long a test waits for what should take a moment


def quadratic_bundle(dimension: int) -> Bundle:
    """Return the textbook model of that many dimensions."""
    with tempfile.TemporaryDirectory() as name:
        write_quadratic_bundle(Path(name), dimension)
        return read_bundle(Path(name))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"still waiting for {what}"
        time.sleep(0.02)


@dataclass
class Deployment:
    """A server that runs.

    Attributes:
        server: its processes.
        url: where devices find it.
        root: the document that codes pin.
    """

    server: Server
    url: str
    root: Root

    def __post_init__(self) -> None:
        self._folder = DataFolder(self.server.data.resolve())
        self._database = open_database(self._folder)
        self._authority = Authority(self._folder.authority, SystemClock(), os.urandom)
        self._pools: list[urllib3.PoolManager] = []

    @property
    def blobs(self) -> BlobStore:
        """The server's released files."""
        return open_blobs(self._folder)

    @property
    def uploads(self) -> UploadStore:
        """The masked vectors of running cohorts."""
        return UploadStore(self._folder.uploads)

    @property
    def anchor(self) -> Anchor:
        """The end of the audit log outside the database."""
        return Anchor(self._folder.path / ANCHOR_FILE)

    def kill_web(self) -> None:
        """Kill gunicorn and its workers; the supervisor starts them again."""
        assert self.server.process is not None
        for process in _below(self.server.process.pid):
            if b"gunicorn" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)

    @property
    def data(self) -> Path:
        """The server's folder."""
        return self._folder.path

    def close(self) -> None:
        """Close the test's own connections; the server would wait for them before it stops."""
        for pool in self._pools:
            pool.clear()
        self._database.close()
        self._authority._database.close()

    def create_task(self, plan: Plan, dimension: int) -> None:
        """Make a task with the textbook model."""
        self.create_task_of(quadratic_bundle(dimension), plan)

    def create_task_of(self, bundle: Bundle, plan: Plan) -> None:
        """Make a task with a model."""
        key = load_or_create_key(self._folder.keys / RELEASE_KEY_FILE)
        with self._database.write() as connection:
            create_task(connection, prepare_task(self.blobs, bundle, plan, key, time.time()), time.time())

    def codes(self, task: str, count: int, valid_s: float = 3600.0) -> list[EnrolmentCode]:
        """Mint enrolment codes."""
        secrets = self._authority.mint(task, count=count, valid_s=valid_s)
        return [EnrolmentCode(self.url, self.root.fingerprint, secret) for secret in secrets]

    def pool(self) -> urllib3.PoolManager:
        """Return fresh connections for one thread."""
        pool = pinned_pool(self.root.tls_root_pem)
        self._pools.append(pool)
        return pool

    def enrol(self, plan: Plan, count: int) -> list[Member]:
        """Enrol devices that share one connection; for one thread."""
        pool = self.pool()
        codes = self.codes(plan.task, count)
        return [enrol(pool, self.root, code, number, plan) for number, code in enumerate(codes)]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the server's database."""
        with self._database.read() as connection:
            return [tuple(row) for row in connection.execute(*_bound(query, values))]

    def change(self, query: str, *values: object) -> int:
        """Write into the server's database and return how many rows changed."""
        with self._database.write() as connection:
            return connection.execute(*_bound(query, values)).rowcount

    def phase(self, cohort: str) -> str:
        """Return where a cohort stands."""
        return str(self.rows("SELECT phase FROM cohort WHERE id = ?", cohort)[0][0])

    def failure(self, cohort: str) -> str:
        """Return the code with which a cohort failed, empty if it did not."""
        return str(self.rows("SELECT failure FROM cohort WHERE id = ?", cohort)[0][0]).partition(":")[0]

    def wait_for_phase(self, cohort: str, *phases: str) -> None:
        """Wait until a cohort is in one of the phases."""
        wait_for(lambda: self.phase(cohort) in phases, f"{cohort} to be {' or '.join(phases)}")

    def let_deadline_pass(self, cohort: str, phase: str) -> None:
        """Make a cohort's phase as old as its deadline, once it has begun: no test has to be quick or to wait."""
        self.wait_for_phase(cohort, phase)
        query = "UPDATE cohort SET since_s = since_s - 1000000 WHERE id = ? AND phase = ?"
        assert self.change(query, cohort, phase) == 1

    def reinstate(self) -> None:
        """Let quarantined devices take part again."""
        self.change("UPDATE device SET state = 'active', behind = 0 WHERE state = 'quarantined'")

    def retire(self, task: str) -> None:
        """Let the driver forget a task."""
        self.change("UPDATE task SET state = 'done' WHERE name = ?", task)


@contextmanager
def deployment(
    folder: Path, *options: str, database_url: str | None = None, objects: Address | None = None
) -> Iterator[Deployment]:
    """Run a server, with further options of ``serve``, until the block ends.

    It uses that PostgreSQL database, or a file of its own, and that object store, or a folder of its own.
    """
    server = Server(folder / "server", folder / "server.log", command=("serve", *options))
    if database_url is not None:
        use_database(DataFolder.open(server.data), database_url)
    if objects is not None:
        write_private(DataFolder.open(server.data).object_store_file, objects.to_bytes())
        ObjectBlobs(objects).claim()
    server.start()
    try:
        running = Deployment(server, f"https://127.0.0.1:{server.port}", _root(server))
        yield running
        running.close()
    finally:
        server.stop()


def _below(process: int) -> list[int]:
    """Return a process's children, and theirs, eldest first."""
    children = list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))
    return children + [below for child in children for below in _below(child)]


def _bound(query: str, values: Sequence[object]) -> tuple[TextClause, dict[str, object]]:
    """Return a query with question marks in the form that every database takes."""
    parts = query.split("?")
    named = "".join(f"{part}:v{number}" for number, part in enumerate(parts[:-1])) + parts[-1]
    return text(named), {f"v{number}": value for number, value in enumerate(values)}


def _root(server: Server) -> Root:
    keys = DataFolder(server.data).keys
    folder = DataFolder(server.data)
    return Root(
        load_or_create_key(folder.authority / "authority.key").public,
        load_or_create_key(keys / RELEASE_KEY_FILE).public,
        (keys / "tls_root.pem").read_text("ascii"),
    )


def run_steps(members: Sequence[Member], steps: Sequence[str]) -> None:
    """Let every member do every step, one after another."""
    for step in steps:
        for member in members:
            member.do(step)

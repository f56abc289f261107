"""The aggregator in this process: the real application and driver, a clock that tests move, devices without a network.

local = Local(folder)
members = local.cohort(plan, 4)      devices that have met in a cohort
local.settle()                       the driver does whatever is due
"""

from __future__ import annotations

import datetime as dt
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import urllib3
from flask import Flask

from cloud_server.app import RELEASE_KEY_FILE, create_app, make_context
from cloud_server.authority.registry import Authority
from cloud_server.rounds.driver import Driver
from cloud_server.rounds.retention import Retention
from cloud_server.settings import DataFolder, load_or_create_key, write_private
from cloud_server.storage.blobs import FolderBlobs
from cloud_server.storage.leases import LEASE_S
from cloud_server.storage.object_store import Address, ObjectBlobs
from cloud_server.storage.opening import use_database
from cloud_server.tasks import create_task, prepare_task
from cloud_server.tls import ensure_certificates
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Update
from shared.root import EnrolmentCode
from tests.cloud_server.members import Member, enrol, one_hot
from tests.e2e.servers import quadratic_bundle
from tests.edge_client.devices import ManualClock

URL: Final = "https://aggregator.test"
HOUR_S: Final = 3600.0


class LocalPool(urllib3.PoolManager):
    """Connections that lead into an application in this process."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._client = app.test_client()

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> urllib3.HTTPResponse:
        """Answer a request."""
        data = b"" if body is None else body.read()
        with self._client.open(url.removeprefix(URL), method=method, data=data, headers=dict(headers or {})) as answer:
            return urllib3.HTTPResponse(
                io.BytesIO(answer.get_data()),
                headers=dict(answer.headers),
                status=answer.status_code,
                preload_content=False,
            )


def small_plan(task: str, members: int = 4, *, stop: Stop | None = None, dropout_share: float = 0.25) -> Plan:
    """Return a plan for cohorts of one size whose published sum is exact."""
    return Plan(
        task,
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=members, corrupt_share=0.0, dropout_share=dropout_share),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S, 24 * HOUR_S),
        server=Server(combine="sum"),
        stop=stop or Stop(rounds=1),
    )


class Local:
    """One aggregator.

    Args:
        folder: for its data.
        database_url: of a PostgreSQL database; a file in ``folder`` if None.
        objects: where files are kept; in ``folder`` if None.
    """

    def __init__(self, folder: Path, database_url: str | None = None, objects: Address | None = None) -> None:
        self.clock = ManualClock()
        self.retention = Retention()
        keys = DataFolder.open(folder).keys
        if database_url is not None:
            use_database(DataFolder.open(folder), database_url)
        if objects is not None:
            write_private(DataFolder.open(folder).object_store_file, objects.to_bytes())
            ObjectBlobs(objects).claim()
        ensure_certificates(keys, "127.0.0.1", dt.datetime.now(dt.UTC))
        self.parts = make_context(folder, self.clock)
        self.app = create_app(self.parts)
        self.release_key = load_or_create_key(keys / RELEASE_KEY_FILE)
        self.driver = self.new_driver()

    @property
    def authority(self) -> Authority:
        """The authority in this process."""
        assert isinstance(self.parts.authority, Authority)
        return self.parts.authority

    def new_driver(self) -> Driver:
        """Return a driver as a new process would make it, from what is stored."""
        return Driver(
            database=self.parts.database,
            blobs=self.parts.blobs,
            uploads=self.parts.uploads,
            release_key=self.release_key,
            authority_key=self.authority.public_key,
            clock=self.clock,
            random_bytes=os.urandom,
            seed_source=self.authority.draw_seed,
            anchor=self.parts.anchor,
            retention=self.retention,
        )

    def kill_driver(self) -> None:
        """Replace the driver by a new one, which waits until the old one's lease is over."""
        self.driver = self.new_driver()
        self.clock.time_s += LEASE_S + 1

    def settle(self) -> None:
        """Let the driver do whatever is due."""
        while self.driver.tick():
            pass

    def create(self, plan: Plan, dimension: int = 8) -> None:
        """Make a task."""
        with self.parts.database.write() as connection:
            bundle = quadratic_bundle(dimension)
            create_task(
                connection,
                prepare_task(self.parts.blobs, bundle, plan, self.release_key, self.clock.now_s()),
                self.clock.now_s(),
            )

    def enrol(self, plan: Plan, count: int, group: str = "") -> list[Member]:
        """Enrol devices."""
        pool, root = LocalPool(self.app), self.parts.root
        codes = [
            EnrolmentCode(URL, root.fingerprint, secret)
            for secret in self.authority.mint(plan.task, count=count, valid_s=HOUR_S, group=group)
        ]
        return [enrol(pool, root, code, number, plan, self.clock) for number, code in enumerate(codes)]

    def meet(self, members: list[Member], version: int = 0, dimension: int = 8) -> None:
        """Bring devices to the cohort that forms."""
        self.settle()
        model = members[0].release(version).model_sha256
        for member in members:
            member.values = one_hot(member.number, dimension)
            member.meet(model, version)

    def cohort(self, plan: Plan, count: int, dimension: int = 8) -> list[Member]:
        """Make a task and devices that have met."""
        self.create(plan, dimension)
        members = self.enrol(plan, count)
        self.meet(members, dimension=dimension)
        return members

    def do(self, members: list[Member], step: str) -> None:
        """Let devices do a step, and the driver what follows."""
        for member in members:
            member.do(step)
        self.settle()

    def blob_path(self, digest: str) -> Path:
        """Return where a file is kept."""
        assert isinstance(self.parts.blobs, FolderBlobs)
        return self.parts.blobs.path(digest)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the database."""
        with self.parts.database.read() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def change(self, query: str) -> None:
        """Write into the database."""
        with self.parts.database.write() as connection:
            connection.exec_driver_sql(query)

    def close(self) -> None:
        """Close the databases."""
        self.parts.database.close()
        self.authority._database.close()

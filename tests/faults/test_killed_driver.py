"""Drivers are killed at each of their commits, before and after it: the sum is exact, and no vector is asked for twice.

Real processes: gunicorn, one to three drivers, members over HTTPS; on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.rounds import sums
from cloud_server.storage.check import find_damage
from tests.cloud_server.local import small_plan
from tests.cloud_server.members import STEPS, Member, one_hot
from tests.e2e.servers import Deployment, deployment, wait_for
from tests.faults.dying_driver import LEASE_S
from tools.fleet import REPOSITORY
from tools.own_postgres import Cluster

MEMBERS: Final = 4
MOST_COMMITS: Final = 30


@dataclass
class Drivers:
    """Driver processes on one server's folder."""

    data: Path
    log: Path

    def __post_init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a driver: an honest one, or the dying one with its words."""
        program = ["tests.faults.dying_driver", str(self.data), *words]
        honest = ["cloud_server", "driver", "--data", str(self.data), "--lease-s", str(LEASE_S)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *(program if words else honest)], stdout=log, stderr=log, cwd=REPOSITORY
            )
        self.running.append(process)
        return process

    def stop(self) -> None:
        """End those that are left."""
        for process in self.running:
            process.kill()
            process.wait()
        self.running.clear()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server without a driver."""
    url = None
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
    with deployment(tmp_path_factory.mktemp("web"), "--drivers", "0", database_url=url) as running:
        yield running


@contextmanager
def drivers_of(web: Deployment) -> Iterator[Drivers]:
    drivers = Drivers(web.data, web.data.parent / "drivers.log")
    try:
        yield drivers
    finally:
        drivers.stop()


def meet(web: Deployment, name: str) -> list[Member]:
    plan = small_plan(name, MEMBERS)
    web.create_task(plan, MEMBERS)
    return web.enrol(plan, MEMBERS)


def run_round(members: list[Member]) -> int:
    """Bring a cohort through, and return how many times a vector was sent."""
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    sent = 0
    for step in STEPS:
        for member in members:
            member.do(step)
            sent += step == "upload"
    assert all(member.counted() for member in members)
    return sent


def check_published(web: Deployment, members: list[Member]) -> None:
    theta = load(members[0].weights(1))["theta"]
    np.testing.assert_allclose(theta, np.ones(MEMBERS), rtol=0, atol=MEMBERS * members[0].plan.grid(MEMBERS).step)
    task = members[0].plan.task
    assert web.rows("SELECT count(*) FROM cohort WHERE task = ?", task) == [(1,)]  # nobody had to begin again
    assert web.rows("SELECT number FROM version WHERE task = ? ORDER BY number", task) == [(0,), (1,)]
    assert web.rows("SELECT state FROM task WHERE name = ?", task) == [("done",)]


def begun(web: Deployment, task: str, driver: subprocess.Popen[bytes]) -> bool:
    return driver.poll() is not None or bool(web.rows("SELECT 1 FROM round WHERE task = ?", task))


def done(web: Deployment, task: str) -> bool:
    return web.rows("SELECT state FROM task WHERE name = ?", task) == [("done",)]


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_killed_at_any_commit_another_driver_takes_over(web: Deployment, moment: str) -> None:
    clean = False
    for number in range(1, MOST_COMMITS):
        members = meet(web, f"{moment}-{number}")
        with drivers_of(web) as drivers:
            dying = drivers.start(str(number), moment)
            task = members[0].plan.task
            wait_for(partial(begun, web, task, dying), "the dying driver to begin")
            for _ in range(1 + number % 2):
                drivers.start()
            assert run_round(members) == MEMBERS
            wait_for(partial(done, web, task), "the end")
            time.sleep(0.1)  # it may still clean up
            clean = dying.poll() is None
        check_published(web, members)
        if clean:
            break
    assert clean, "the driver never lived to the end"
    assert number > 6, f"only {number - 1} commits were tried"
    parts = find_damage(web._database, web.blobs, web.uploads, web.anchor)
    assert parts["problems"] == []
    assert not list(web.uploads.folder.iterdir())


def test_a_driver_killed_after_a_checkpoint_goes_on_from_it(web: Deployment) -> None:
    """Vectors that are in a stored sum are gone from the disk; the next driver needs none of them again."""
    count = sums.CHECKPOINT_VECTORS + 3
    plan = small_plan(f"checkpoint-{int(web._database.is_sqlite)}", count)
    web.create_task(plan, count)
    members = web.enrol(plan, count)
    with drivers_of(web) as drivers:
        first = drivers.start()
        model = members[0].release(0).model_sha256
        for member in members:
            member.values = one_hot(member.number, count)
            member.meet(model)
        for step in ("join", "share"):
            for member in members:
                member.do(step)
        for member in members[:-1]:
            member.do("upload")
        cohort = members[0].cohort
        wait_for(lambda: bool(web.rows("SELECT 1 FROM partial_sum WHERE cohort = ?", cohort)), "a checkpoint")
        left = web.uploads.folder / cohort
        wait_for(lambda: len([p for p in left.iterdir() if p.name.startswith("device")]) <= 2, "room on the disk")
        first.kill()
        first.wait()
        drivers.start()
        for step in ("upload", "agree", "answer"):
            for member in members if step != "upload" else members[-1:]:
                member.do(step)
        assert all(member.counted() for member in members)
    theta = load(members[0].weights(1))["theta"]
    np.testing.assert_allclose(theta, np.ones(count), rtol=0, atol=count * plan.grid(count).step)
    assert not left.exists()


@pytest.mark.parametrize("moment", STEPS)
def test_killed_web_processes_lose_nothing_that_they_acknowledged(web: Deployment, moment: str) -> None:
    members = meet(web, f"web-{moment}")
    with drivers_of(web) as drivers:
        drivers.start()
        model = members[0].release(0).model_sha256
        for member in members:
            member.values = one_hot(member.number, MEMBERS)
            member.meet(model)
        for step in STEPS:
            for member in members[:2]:
                member.do(step)
            if step == moment:
                web.kill_web()
            for member in members[2:]:
                member.do(step)
        assert all(member.counted() for member in members)
    check_published(web, members)

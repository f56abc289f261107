"""The commands of compose.yml as real processes, with its database, nginx and folders: devices do a round.

What only containers have (images, networks, volumes) is read by ``tests/cloud_server/test_containers.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
import pytest
from safetensors.numpy import load

from shared.root import EnrolmentCode
from tests.cloud_server.containers import Service, entry_point, services
from tests.cloud_server.members import STEPS
from tests.e2e.scene import MEMBERS, new_members
from tests.e2e.servers import Deployment, _root, run_steps, wait_for
from tests.nginx import nginx
from tools.fleet import REPOSITORY, Server, free_port
from tools.own_postgres import Cluster

pytestmark = [pytest.mark.xdist_group("nginx"), pytest.mark.timeout(600)]
SOCKET: Final = "/var/run/postgresql"
DATA: Final = "/var/lib/fedloom"


class Machine:
    """This machine in the place of a container's.

    Args:
        folder: for what is in volumes.
        cluster: the database.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port, self.inner = free_port(), free_port()
        self.services = services("compose.yml", FEDLOOM_HOST=f"127.0.0.1:{self.port}")
        # Both ends of the socket, the folder and the port are moved; a database of the same name is on the cluster.
        self._moved = {SOCKET: str(cluster.folder), DATA: str(self.data), ":8443": f":{self.inner}"}

    def command(self, name: str) -> list[str]:
        """Return what a service's container runs, as it is here."""
        assert entry_point() == ["/opt/fedloom/bin/fedloom-server"]
        return [sys.executable, "-m", "cloud_server", *self._here(self.services[name]["command"])]

    def _here(self, words: list[str]) -> list[str]:
        for old, new in self._moved.items():
            words = [word.replace(old, new) for word in words]
        return words

    def run(self, name: str) -> int:
        """Run a service that ends, and return its code."""
        return subprocess.run(self.command(name), check=False, cwd=REPOSITORY).returncode

    def healthy(self, name: str) -> bool:
        """Ask a service's health check."""
        kind, python, *words = self.services[name]["healthcheck"]["test"]
        assert (kind, python) == ("CMD", "/opt/fedloom/bin/python")
        check = [sys.executable, *self._here(words)]
        return subprocess.run(check, check=False, capture_output=True, cwd=REPOSITORY).returncode == 0

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service until the block ends."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self.command(name), stdout=log, stderr=log, cwd=REPOSITORY)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture
def machine(tmp_path: Path, postgres: Cluster) -> Iterator[Machine]:
    """Return a machine with the database that the ``database`` service would make."""
    found = Machine(tmp_path, postgres)
    names: Service = found.services["database"]["environment"]
    owner, database = names["POSTGRES_USER"], names["POSTGRES_DB"]
    with psycopg.connect(host=str(postgres.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{owner}" LOGIN'.encode())
        connection.execute(f'CREATE DATABASE "{database}" OWNER "{owner}"'.encode())
        yield found
        connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())
        connection.execute(f'DROP ROLE "{owner}"'.encode())


def asked(machine: Machine, *words: str) -> Any:  # noqa: ANN401  # whatever JSON the command prints
    command = [sys.executable, "-m", "cloud_server", *words, "--data", str(machine.data), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY).stdout)


def test_the_services_do_a_round_together(machine: Machine) -> None:
    assert machine.run("prepare") == 0
    assert machine.run("prepare") == 0  # at every start
    assert not (machine.data / "server.db").exists()
    with ExitStack() as stack:
        web = stack.enter_context(machine.running("web"))
        wait_for(lambda: web.poll() is not None or machine.healthy("web"), "the web service to be healthy")
        assert web.poll() is None, (machine.folder / "web.log").read_text()
        stack.enter_context(machine.running("driver"))
        keys = machine.data / "keys"
        stack.enter_context(nginx(machine.folder / "nginx", keys, machine.port, machine.inner))
        server = Server(machine.data, machine.folder / "web.log")
        running = Deployment(server, f"https://127.0.0.1:{machine.port}", _root(server))
        stack.callback(running.close)
        members = new_members(running, "composed", MEMBERS)
        run_steps(members, STEPS)
        assert all(member.counted() for member in members)
        np.testing.assert_allclose(load(members[0].weights(1))["theta"], np.ones(MEMBERS), atol=1e-6)
        # What codes lead to is nginx, whose certificate leads to the root that they pin.
        (code,) = asked(machine, "code", "create", "--task", "composed")["codes"]
        assert EnrolmentCode.from_text(code).url == running.url
        assert running.rows("SELECT COUNT(*) FROM lease WHERE name LIKE 'driver:%'") == [(1,)]
        assert (keys / "database.url").stat().st_mode & 0o077 == 0

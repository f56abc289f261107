"""Through a real nginx with the shipped configuration: enrolment, a round, broken uploads, ranges, limits."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import urllib3
from safetensors.numpy import load

from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from edge_client import transport as transport_module
from edge_client.download import download
from edge_client.transport import pinned_pool
from shared.release import WEIGHTS_FILE
from shared.wire.requests import ROOT
from tests.cloud_server.members import STEPS
from tests.e2e.proxy import Fault, misbehaving
from tests.e2e.scene import MEMBERS, new_members
from tests.e2e.servers import Deployment, deployment, run_steps
from tests.e2e.test_downloads import get
from tests.e2e.test_resumed_uploads import DIMENSION, PIECE, collecting, finish, through
from tests.nginx import configure, nginx
from tools.fleet import free_port

pytestmark = pytest.mark.xdist_group("nginx")
BURST: Final = 60  # of the three requests a second that an address may make here


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server that devices reach through nginx."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    options = ("--public-url", f"https://127.0.0.1:{port}", "--trusted-proxy", "127.0.0.1")
    signing_in = ("--sign-in-header", "X-Forwarded-User", "--sign-in-proxy", "127.0.0.1")  # as another proxy here does
    with (
        deployment(folder, *options, *signing_in, "--requests-per-address-s", "3") as running,
        nginx(folder / "nginx", running.data / "keys", port, running.server.port),
    ):
        running.url = f"https://127.0.0.1:{port}"
        yield running


def port_of(running: Deployment) -> int:
    return int(running.url.rpartition(":")[2])


def test_the_shipped_file_is_valid(behind: Deployment, tmp_path: Path) -> None:
    command = configure(tmp_path, behind.data / "keys", 1, 2)
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_devices_enrol_and_do_a_round(behind: Deployment) -> None:
    members = new_members(behind, "through-nginx", MEMBERS)
    run_steps(members, STEPS)
    assert all(member.counted() for member in members)
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], np.ones(MEMBERS), atol=1e-6)


@pytest.mark.usefixtures("impatient")
def test_a_broken_upload_goes_on_where_it_stopped(behind: Deployment) -> None:
    members = collecting(behind, "broken-behind-nginx")
    with misbehaving(port_of(behind), [Fault(cut_after=PIECE)]) as proxy:
        direct = members[0].transport
        through(members[0], proxy)
        members[0].do("upload")
        members[0].transport.close()
        members[0].transport = members[0]._steps._transport = direct
    # What arrived before each break was on the aggregator's disk: nginx gathers nothing.
    assert len(proxy.forwarded) >= 3
    assert sum(proxy.forwarded) < 4 * DIMENSION + len(proxy.forwarded) * 100_000
    finish(members)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices notice a silent network within seconds."""
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 5.0)
    monkeypatch.setattr(transport_module, "READ_TIMEOUT_S", 5.0)


def test_a_download_goes_on_where_it_stopped(behind: Deployment, tmp_path: Path) -> None:
    member = collecting(behind, "download-behind-nginx")[0]
    entry, data = member.release(0).files[WEIGHTS_FILE], member.weights(0)
    status, headers, part = get(member, f"/v1/blobs/{entry.sha256}", Range="bytes=1000-1999")
    assert (status, part, headers["Content-Range"]) == (206, data[1000:2000], f"bytes 1000-1999/{len(data)}")
    (tmp_path / "weights.part").write_bytes(data[:100_000])
    member.transport.traffic.take()
    download(member.transport, entry, tmp_path / "weights", counts_as="weights_down")
    assert (tmp_path / "weights").read_bytes() == data
    assert member.transport.traffic.weights_down == len(data) - 100_000
    behind.retire("download-behind-nginx")


def stranger(behind: Deployment, address: str) -> urllib3.PoolManager:
    """Return connections from another address of this machine."""
    pool = pinned_pool(behind.root.tls_root_pem)
    pool.connection_pool_kw["source_address"] = (address, 0)
    return pool


def ask(behind: Deployment, pool: urllib3.PoolManager, **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return pool.request("GET", behind.url + ROOT, headers=named, retries=False)


def test_an_address_that_asks_too_much_is_held_up_alone(behind: Deployment) -> None:
    busy, quiet = stranger(behind, "127.0.0.2"), stranger(behind, "127.0.0.3")
    answers = [ask(behind, busy) for _ in range(10 * BURST)]
    statuses = [answer.status for answer in answers]
    assert statuses[:BURST] == [200] * BURST
    assert set(statuses[BURST:]) >= {429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json()["code"] == "too-many-requests"
    assert int(refused.headers["Retry-After"]) >= 1
    # It cannot be another one by saying so.
    forged = [ask(behind, busy, X_Forwarded_For="198.51.100.7", Forwarded="for=198.51.100.7") for _ in range(2 * BURST)]
    assert 429 in {answer.status for answer in forged}
    assert ask(behind, quiet).status == 200
    for pool in (busy, quiet):
        pool.clear()


def test_metrics_are_not_for_those_who_come_through_nginx(behind: Deployment) -> None:
    with_nginx, without = stranger(behind, "127.0.0.1"), stranger(behind, "127.0.0.1")
    assert with_nginx.request("GET", f"{behind.url}/metrics").status == 404
    assert without.request("GET", f"https://127.0.0.1:{behind.server.port}/metrics").status == 200
    for pool in (with_nginx, without):
        pool.clear()


def test_nobody_is_an_operator_for_saying_so(behind: Deployment) -> None:
    with behind._database.write() as connection:
        add_operator(connection, "ada", "admin", None, By(AT_THE_MACHINE, time.time()))
    door, named = "/console/sign-in", {"X-Forwarded-User": "ada"}
    with_nginx, without = stranger(behind, "127.0.0.4"), stranger(behind, "127.0.0.1")
    answer = with_nginx.request("GET", behind.url + door, headers=named, redirect=False)
    assert (answer.status, "fedloom-session" in str(answer.headers)) == (200, False)
    # The proxy that may say so stands beside nginx.
    url = f"https://127.0.0.1:{behind.server.port}{door}"
    assert without.request("GET", url, headers=named, redirect=False).status == 303
    for pool in (with_nginx, without):
        pool.clear()


def test_a_device_talks_to_the_pinned_root_alone(behind: Deployment, running: Deployment) -> None:
    pool = pinned_pool(running.root.tls_root_pem)  # of another server
    with pytest.raises(urllib3.exceptions.SSLError):
        pool.request("GET", behind.url + ROOT, retries=False)
    pool.clear()

"""Whole rounds of real processes whose files are in an S3 server, which is cut off in the middle and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.api.health import HEALTHZ, READYZ
from cloud_server.storage.check import find_damage
from shared.plan import Stop
from shared.release import WEIGHTS_FILE
from shared.wire.canonical import sha256
from shared.wire.requests import BLOBS
from tests.cloud_server.local import small_plan
from tests.cloud_server.members import STEPS, Member, one_hot
from tests.e2e.servers import Deployment, deployment, run_steps, wait_for
from tests.s3 import CREDENTIALS, S3

MEMBERS = 4
DIMENSION = 1_000_000  # weights of two pieces


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Deployment]:
    """Return a server whose files are in the S3 server."""
    folder = tmp_path_factory.mktemp("stored")
    with deployment(folder, objects=s3.address(s3.new_bucket())) as running:
        yield running


def meet(members: list[Member], dimension: int, version: int = 0) -> None:
    model = members[0].release(version).model_sha256
    for member in members:
        member.values = one_hot(member.number, dimension)
        member.meet(model, version)


def status(running: Deployment, path: str) -> int:
    return running.pool().request("GET", f"{running.url}{path}").status


def test_rounds_go_on_after_the_store_was_away(stored: Deployment, s3: S3) -> None:
    plan = small_plan("away", MEMBERS, stop=Stop(rounds=2))
    stored.create_task(plan, MEMBERS)
    members = stored.enrol(plan, MEMBERS)
    for version in range(2):
        meet(members, MEMBERS, version)
        run_steps(members, STEPS[:-1])
        s3.way.close()
        try:
            run_steps(members, STEPS[-1:])  # answers need no file
            log = stored.server.log
            waits = log.read_text().count("the driver waits")
            wait_for(lambda: log.read_text().count("the driver waits") > waits, "the driver to notice")  # noqa: B023
            assert status(stored, READYZ) == 503
            assert status(stored, HEALTHZ) == 200
            entry = members[0].release(version).files[WEIGHTS_FILE]
            target = f"{BLOBS}/{entry.sha256}"
            with members[0].transport.open("GET", target, members[0].transport.signed("GET", target)) as answer:
                assert answer.status == 503
                assert b"storage-unavailable" in answer.read()
            assert stored.rows("SELECT max(number) FROM version WHERE task = 'away'") == [(version,)]
        finally:
            s3.way.open()
        assert all(member.counted() for member in members)
        theta = load(members[0].weights(version + 1))["theta"]
        np.testing.assert_allclose(theta, np.full(MEMBERS, version + 1.0), atol=1e-5)
    assert stored.rows("SELECT phase FROM cohort WHERE task = 'away'") == [("summed",)] * 2
    assert find_damage(stored._database, stored.blobs, stored.uploads, stored.anchor)["problems"] == []
    assert not list((stored.data / "blobs").iterdir())
    wait_for(lambda: status(stored, READYZ) == 200, "the server to be ready")
    assert CREDENTIALS[1] not in stored.server.log.read_text()


def test_many_devices_download_at_once_and_in_parts(stored: Deployment) -> None:
    plan = small_plan("large", MEMBERS)
    stored.create_task(plan, DIMENSION)
    members = [stored.enrol(plan, 1)[0] for _ in range(8)]  # a connection each
    entry = members[0].release(0).files[WEIGHTS_FILE]
    target = f"{BLOBS}/{entry.sha256}"

    def download(member: Member) -> bytes:
        data = b""
        while len(data) < entry.size_bytes:
            wanted = {"Range": f"bytes={len(data)}-{len(data) + 400_000}"}
            with member.transport.open("GET", target, member.transport.signed("GET", target) | wanted) as answer:
                assert answer.status == 206
                data += answer.read()
        return data

    with ThreadPoolExecutor(len(members)) as pool:
        for data in pool.map(download, members):
            assert sha256(data).hex() == entry.sha256

"""Limits of a real server: devices that are told to come back do, and take part; strangers are held up alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load

from cloud_server.api.operator import METRICS
from edge_client.download import download
from shared.release import WEIGHTS_FILE
from shared.wire.requests import CHECK_IN, ENROL
from tests.cloud_server.members import STEPS
from tests.e2e.scene import MEMBERS, new_members, small_plan
from tests.e2e.servers import Deployment, deployment, run_steps

pytestmark = pytest.mark.xdist_group("limits")
MOST_DOWNLOADS: Final = 300  # on a machine so slow that it seldom comes too soon
BURST: Final = 20  # of the one request a second that an address may make without proof, and a device with it


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server that has little patience."""
    options = ("--requests-per-address-s", "1", "--requests-per-device-s", "1")
    with deployment(tmp_path_factory.mktemp("strict"), *options) as running:
        yield running


def refusals(running: Deployment) -> float:
    """Return how many requests the server refused as too many."""
    pool = running.pool()
    text = pool.request("GET", running.url + METRICS).data.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "fedloom_requests_total" and sample.labels["status"] == "429"
    )


def test_devices_that_are_told_to_come_back_take_part(strict: Deployment, tmp_path: Path) -> None:
    members = new_members(strict, "told-to-come-back", MEMBERS)
    run_steps(members, STEPS)
    assert all(member.counted() for member in members)
    weights = members[0].release(1).files[WEIGHTS_FILE]
    for number in range(MOST_DOWNLOADS):
        download(members[0].transport, weights, tmp_path / str(number), counts_as="weights_down")
        if number >= BURST // 2 and refusals(strict):  # the last one came back, and has its file all the same
            break
    np.testing.assert_allclose(load((tmp_path / "0").read_bytes())["theta"], np.ones(MEMBERS), atol=1e-6)
    assert refusals(strict) > 0


def test_strangers_are_held_up_and_devices_of_their_address_come_back(strict: Deployment) -> None:
    plan = small_plan("with-strangers")
    strict.create_task(plan, MEMBERS)
    (member,) = strict.enrol(plan, 1)
    pool = strict.pool()
    before = strict.rows("SELECT * FROM device ORDER BY 1")
    statuses = {
        pool.request("POST", strict.url + target, body=b"{}").status
        for _ in range(2 * BURST)
        for target in (ENROL, CHECK_IN)
    }
    assert statuses == {400, 401, 429}
    assert strict.rows("SELECT * FROM device ORDER BY 1") == before
    assert member.release(0).version == 0  # from the same address, after a moment
    strict.retire("with-strangers")

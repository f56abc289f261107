"""Files of releases from a real server: ranges, validators, differences, and what a restart leaves of a download."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from edge_client.difference import download_difference
from edge_client.download import download
from shared.release import WEIGHTS_FILE, FileEntry
from shared.wire.requests import BLOBS, PROBLEM
from tests.cloud_server.members import STEPS, Member
from tests.e2e.proxy import Fault, misbehaving
from tests.e2e.scene import small_plan
from tests.e2e.servers import Deployment, deployment, run_steps
from tests.e2e.test_resumed_uploads import through

DIMENSION = 100_000


def get(member: Member, target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send one signed GET with more headers, underscores standing for hyphens."""
    signed = member.transport.signed("GET", target)
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    with member.transport.open("GET", target, signed | more) as response:
        return response.status, dict(response.headers), response.read()


def one_member(running: Deployment) -> tuple[Member, FileEntry, bytes]:
    """Return a device, the entry of version 0's weights, and the file."""
    plan = small_plan(f"downloads-{os.urandom(4).hex()}")
    running.create_task(plan, DIMENSION)
    member = running.enrol(plan, 1)[0]
    return member, member.release(0).files[WEIGHTS_FILE], member.weights(0)


def test_ranges_and_validators(running: Deployment) -> None:
    member, entry, data = one_member(running)
    target, size = f"{BLOBS}/{entry.sha256}", entry.size_bytes
    status, headers, body = get(member, target)
    assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
    tag = headers["ETag"]
    assert entry.sha256 in tag
    assert get(member, target, If_None_Match=tag)[::2] == (304, b"")
    assert get(member, target, If_None_Match='"other"')[::2] == (200, data)
    for text, part in {"7-": data[7:], "0-0": data[:1], "-5": data[-5:], f"9-{size + 9}": data[9:]}.items():
        status, headers, body = get(member, target, Range=f"bytes={text}")
        assert (status, body) == (206, part)
        assert headers["Content-Range"].endswith(f"/{size}")
    assert get(member, target, Range="bytes=7-", If_Range=tag)[::2] == (206, data[7:])
    assert get(member, target, Range="bytes=7-", If_Range='"other"')[::2] == (200, data)


@pytest.mark.parametrize("text", [f"bytes={10**12}-", "bytes=9-3", "bytes=x", "lines=1-2", "bytes=1-2,4-5"])
def test_a_bad_range_is_refused_or_ignored(running: Deployment, text: str) -> None:
    member, entry, data = one_member(running)
    status, headers, body = get(member, f"{BLOBS}/{entry.sha256}", Range=text)
    assert status in {200, 416}
    assert body == data if status == 200 else headers["Content-Type"] == PROBLEM


def next_version(running: Deployment) -> tuple[list[Member], bytes, bytes]:
    """Return members of a task with two versions, and both versions' weights."""
    plan = small_plan(f"versions-{os.urandom(4).hex()}")
    plan = replace(plan, cohort=replace(plan.cohort, largest=2))
    running.create_task(plan, DIMENSION)
    members = running.enrol(plan, 2)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = np.zeros(DIMENSION, np.float32)
        member.values[member.number * 10 : member.number * 10 + 5] = 0.25
        member.meet(model)
    run_steps(members, STEPS)
    assert all(member.counted() for member in members)
    return members, members[0].weights(0), members[0].weights(1)


def test_the_next_version_comes_as_a_difference(running: Deployment) -> None:
    members, before, after = next_version(running)
    entry = members[0].release(1).files[WEIGHTS_FILE]
    assert load(before)["theta"].any() != load(after)["theta"].any()
    members[0].transport.traffic.take()
    assert download_difference(members[0].transport, entry, before) == after
    assert members[0].transport.traffic.weights_down < entry.size_bytes / 10
    target = f"{BLOBS}/{entry.sha256}/from/{FileEntry.of(before).sha256}"
    status, headers, body = get(members[0], target)
    assert status == 200
    assert get(members[0], target, If_None_Match=headers["ETag"])[::2] == (304, b"")
    assert get(members[0], target, Range="bytes=5-")[::2] == (206, body[5:])
    for wrong in (entry.sha256, "0" * 64, "..%2F" * 20, "A" * 64):
        status, headers, _ = get(members[0], f"{BLOBS}/{entry.sha256}/from/{wrong}")
        assert (status, headers["Content-Type"]) == (404, PROBLEM)
        assert download_difference(members[0].transport, entry, bytes(entry.size_bytes)) is None


def test_a_download_goes_on_through_cuts_and_a_restart(tmp_path: Path) -> None:
    with deployment(tmp_path) as running:
        member, entry, data = one_member(running)
        member.transport.close()
        partial = tmp_path / "weights.part"
        partial.write_bytes(data[:100_000])
        running.server.stop()
        running.server.start()
        member.transport.traffic.take()
        with misbehaving(running.server.port, [Fault(bytes_down=150_000)]) as proxy:
            through(member, proxy)
            download(member.transport, entry, tmp_path / "weights", counts_as="weights_down")
            member.transport.close()
        assert len(proxy.forwarded) >= 2
        assert member.transport.traffic.weights_down <= entry.size_bytes - 100_000
        assert (tmp_path / "weights").read_bytes() == data

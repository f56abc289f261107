"""No byte string on the server holds one device's update, in any form that it has on its way.

The scan is shown to work: it finds the update of a device that leaves out the masks.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load

from edge_client.problems import CohortOver
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Update
from shared.wire.messages import read_answer
from tests.cloud_server.members import Member
from tests.e2e.servers import Deployment, deployment, run_steps

pytestmark = pytest.mark.xdist_group("no-single-update")
MEMBERS: Final = 4
DIMENSION: Final = 96
WINDOW: Final = 4  # neighbouring values; random bytes contain none of them by chance
HOUR_S: Final = 3600.0
CLIP: Final = 4.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server that has seen nothing but these tests."""
    with deployment(tmp_path_factory.mktemp("scanned")) as server:
        yield server


def marked_plan(task: str) -> Plan:
    return Plan(
        task,
        update=Update(max_l2_norm=CLIP, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=MEMBERS, corrupt_share=0.0, dropout_share=0.25),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


def marked_members(own: Deployment, task: str) -> list[Member]:
    """Return devices whose updates nobody else has."""
    plan = marked_plan(task)
    own.create_task(plan, DIMENSION)
    members = own.enrol(plan, MEMBERS)
    model = members[0].release(0).model_sha256
    for member in members:
        values = np.random.default_rng(1000 + member.number).uniform(-1, 1, DIMENSION)
        member.values = (values * CLIP / np.linalg.norm(values) * 0.9).astype(np.float32)
        member.meet(model)
    return members


def forms(member: Member) -> dict[str, npt.NDArray[Any]]:
    """Return the device's update as it is on its way from training to the masked vector."""
    assert member.quantized is not None
    assert member.words is not None
    steps, levels = member.quantized.steps, member.quantized.grid.levels
    return {
        "float32": member.values,
        "float64": member.values.astype(np.float64),
        "step-int64": steps,
        "step-int32": steps.astype(np.int32),
        "lane-uint32": (steps + levels).astype(np.uint32),
        "packed-uint64": member.words,
    }


def needles(values: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yield windows of the values, as octets, as hexadecimal digits and as base64 at every alignment."""
    for start in (0, 17, 40):
        window = values[start : start + WINDOW]
        for order in ("<", ">"):
            octets = window.astype(window.dtype.newbyteorder(order)).tobytes()
            yield octets
            yield octets.hex().encode()
            for shift in range(3):
                yield base64.urlsafe_b64encode(octets[shift:])[:-4]
    yield b", ".join(str(value).encode() for value in values[:WINDOW].tolist())


def everything(own: Deployment, *more: Path) -> dict[str, bytes]:
    """Return every file of the server: databases with their journals, blobs, uploads, keys, logs."""
    folders = (own.data, *more)
    files = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    files["log"] = own.server.log.read_bytes()
    return files


def found(files: Mapping[str, bytes], member: Member) -> set[tuple[str, str]]:
    """Return in which file which form of the device's update is."""
    return {
        (name, form)
        for form, values in forms(member).items()
        for needle in needles(values)
        for name, data in files.items()
        if needle in data
    }


def run_with_drop_out(
    own: Deployment, members: list[Member], copies: Path, last: Sequence[str] = ("agree", "answer")
) -> list[Member]:
    """Run a round in which the last device vanishes after uploading is open, and return the survivors."""
    run_steps(members, ("join", "share"))
    *present, gone = members
    gone.prepare("upload")  # it masks, and vanishes before sending
    for member in present:
        member.do("upload")
        shutil.copytree(own.data / "uploads", copies / str(member.number))
    own.let_deadline_pass(gone.cohort, "collecting")
    run_steps(present, last)
    return present


def test_no_file_of_the_server_holds_one_devices_update(own: Deployment, tmp_path: Path) -> None:
    members = marked_members(own, "masked")
    present = run_with_drop_out(own, members, tmp_path)
    assert all(member.counted() for member in present)
    theta = load(present[0].weights(1))["theta"]
    sums = np.sum([member.values.astype(float) for member in present], axis=0)
    rounding = len(present) * present[0].plan.grid(MEMBERS).step + 2.0**-23  # the master is f32
    np.testing.assert_allclose(theta, sums, rtol=0, atol=rounding)
    files = everything(own, tmp_path)
    assert sum("/cohort-" in name for name in files) == 1 + 2 + 3  # the copies of uploads
    assert any(name.endswith(".db") for name in files)
    for member in members:
        assert found(files, member) == set()


def test_the_model_of_the_sum_is_found_by_the_same_scan(own: Deployment, tmp_path: Path) -> None:
    members = marked_members(own, "control-sum")
    run_with_drop_out(own, members, tmp_path)
    assert members[0].counted()
    members[0].values = load(members[0].weights(1))["theta"]
    assert {form for _, form in found(everything(own), members[0])} == {"float32"}


def test_a_device_without_masks_is_caught_by_the_same_scan(own: Deployment, tmp_path: Path) -> None:
    members = marked_members(own, "control-unmasked")
    members[1].masks = False
    run_with_drop_out(own, members, tmp_path)
    with pytest.raises(CohortOver):
        members[0].counted()
    assert own.failure(members[0].cohort).startswith("implausible-")
    caught = {form for _, form in found(everything(own, tmp_path), members[1])}
    assert caught == {"packed-uint64", "lane-uint32"}  # two 32-bit lanes in one word are the same octets
    for member in (members[0], members[2], members[3]):
        assert found(everything(own, tmp_path), member) == set()


def test_the_server_holds_shares_of_one_secret_per_device(own: Deployment, tmp_path: Path) -> None:
    members = marked_members(own, "one-secret")
    present = run_with_drop_out(own, members, tmp_path, last=("agree",))
    *early, last = present
    run_steps(early, ("answer",))
    query = "SELECT body FROM step WHERE cohort = ? AND step = 'answer'"
    answers = [read_answer(row[0]) for row in own.rows(query, members[0].cohort)]
    assert len(answers) == len(early)
    last_answer = last.prepare("answer")[1]
    last.transport.send("PUT", last.target("answer"), last_answer)
    answers.append(read_answer(last_answer))
    assert all(member.counted() for member in present)
    seeds = _union(answer.self_mask for answer in answers)
    keys = _union(answer.mask_key for answer in answers)
    assert seeds.isdisjoint(keys)
    assert (len(seeds), len(keys)) == (len(present), 1)
    files = everything(own, tmp_path)
    for member in members:
        for secret in (member.session._seed, member.session._mask.secret, member.session._channel.secret):
            octets = np.frombuffer(secret, np.uint8)
            assert not any(needle in data for needle in _secret_needles(octets) for data in files.values())


def _union(mappings: Iterable[Mapping[int, bytes]]) -> set[int]:
    return {index for mapping in mappings for index in mapping}


def _secret_needles(octets: npt.NDArray[np.uint8]) -> Iterator[bytes]:
    yield octets.tobytes()
    for shift in range(3):
        yield base64.urlsafe_b64encode(octets.tobytes()[shift:])[:-4]

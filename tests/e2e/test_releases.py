"""Releases on the running system: real server, driver and agents in the devices' light environment.

A version that is better reaches every device in stages, although the driver is killed on the way. One whose weights are
noise is found out by the devices of the first stage alone, and they go back; nobody else ever used it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import load, save

from edge_client.state_folder import StateFolder, current_version
from shared.decision import place_of
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from tests.e2e.servers import Deployment, _below, deployment, wait_for
from tools.fleet import REPOSITORY, Device, device_runtimes

pytestmark = [pytest.mark.xdist_group("releases"), pytest.mark.timeout(900)]
DEVICES: Final = 6
SMALLEST: Final = 2
DIMENSION: Final = 4
HOUR_S: Final = 3600.0
TASK: Final = "point"
PLAN: Final = Plan(
    TASK,
    training=Training(epochs=2, learning_rate=0.1),
    update=Update(max_l2_norm=100.0, lane_bits=32),
    cohort=Cohort(min_survivors=SMALLEST, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(0.3, HOUR_S, HOUR_S, HOUR_S, HOUR_S, 24 * HOUR_S),
    server=Server(),
    stop=Stop(rounds=2),
)
CENTRE: Final = 3.0  # of every device's examples; training starts from 0


def make_device(folder: Path, number: int, code: str) -> Device:
    runtime, python = next(iter(device_runtimes().items()))
    device = Device(number, folder / str(number), python, runtime)
    (device.folder / "examples").mkdir(parents=True)
    x = np.random.default_rng(number).normal(CENTRE, 0.5, (20, DIMENSION)).astype(np.float32)
    held_out = np.arange(20) >= 10
    np.savez(device.folder / "examples" / "examples.npz", x=x, y=np.zeros(20, np.int32), held_out=held_out)
    command = device.agent("enroll", code, "--examples", device.folder / "examples", "--allow-cohorts-of", "2")
    subprocess.run([*command, "--min-corrupt-share", "0"], check=True, capture_output=True, cwd=REPOSITORY)
    return device


@contextmanager
def at_work(devices: Sequence[Device]) -> Iterator[None]:
    """Run the devices' agents, which stay when the task is done."""
    for device in devices:
        with (device.folder / "log").open("ab") as log:
            device.process = subprocess.Popen(device.agent("run"), stdout=log, stderr=log, cwd=REPOSITORY)
    try:
        yield
    finally:
        for device in devices:
            device.kill()


def kill_driver(running: Deployment) -> None:
    """Kill the driver as a power cut would; the supervisor starts another one."""
    assert running.server.process is not None
    killed = 0
    for process in _below(running.server.process.pid):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"gunicorn" not in command:
            os.kill(process, signal.SIGKILL)
            killed += 1
    assert killed


def used(devices: Sequence[Device]) -> set[int | None]:
    """Return which versions applications on the devices find."""
    return {current_version(StateFolder(device.state)) for device in devices}


def counted(devices: Sequence[Device], version: int) -> list[Device]:
    """Return the devices that say that their evaluation of a version was counted."""
    line = f"evaluation of version {version}: counted"
    return [device for device in devices if line in (device.folder / "log").read_text()]


def promotion(running: Deployment, number: int) -> dict[str, Any]:
    shown: list[dict[str, Any]] = running.server.run("model", "show", TASK)["promotions"]
    return shown[number - 1]


def stage(running: Deployment, number: int) -> tuple[str, int]:
    query = "SELECT phase, stage FROM promotion WHERE task = ? AND number = ?"
    phase, at = running.rows(query, TASK, number)[0]
    return str(phase), int(at)


def test_a_good_release_reaches_everybody_and_a_bad_one_is_caught_by_the_first_stage(tmp_path: Path) -> None:
    with deployment(tmp_path) as running:
        running.create_task(PLAN, DIMENSION)
        server = running.server
        assert server.run("model", "hold", TASK)["released"] == 0
        codes = running.codes(TASK, DEVICES)
        devices = [make_device(tmp_path, number, code.to_text()) for number, code in enumerate(codes)]
        with at_work(devices):
            wait_for(lambda: running.rows("SELECT state FROM task") == [("done",)], "two rounds")
            wait_for(lambda: used(devices) == {0}, "devices to stay with version 0")
        good_one(running, devices)
        bad_one(running, devices, tmp_path / "weights.safetensors")
        ledgers(devices)


def good_one(running: Deployment, devices: Sequence[Device]) -> None:
    running.server.run("model", "promote", TASK, "2", "--stages", "1%,2%,100%")
    with at_work(devices):
        wait_for(lambda: stage(running, 1)[1] >= 1, "the first stage to pass")
        kill_driver(running)
        wait_for(lambda: stage(running, 1)[0] == "released", "version 2 to be released")
        wait_for(lambda: used(devices) == {2}, "every device to use version 2")
        wait_for(lambda: len(counted(devices, 2)) == DEVICES, "every device to learn that it was counted")
    shown = running.server.run("model", "show", TASK)
    assert [one["stage"] for one in shown["evaluations"]] == [1, 2, 3]
    # Nobody's counts are in two sums: each stage is measured by the devices that came with it.
    assert [one["survivors"] for one in shown["evaluations"]] == [SMALLEST] * 3
    for one in shown["evaluations"]:
        assert one["passed"]
        assert one["candidate"]["count"] == one["baseline"]["count"] == 10 * one["survivors"]
        assert one["candidate"]["loss_sum"] < one["baseline"]["loss_sum"]


def bad_one(running: Deployment, devices: Sequence[Device], file: Path) -> None:
    running.server.run("model", "download", TASK, "--version", "2", "--as", "safetensors", "--out", str(file))
    good = load(file.read_bytes())
    noise = {name: np.random.default_rng(7).normal(-5, 3, part.shape).astype(np.float32) for name, part in good.items()}
    file.write_bytes(save(noise))
    version = running.server.run("model", "import", TASK, "--weights", str(file))["version"]
    assert version == 3
    running.server.run("model", "promote", TASK, "3")
    with at_work(devices):
        wait_for(lambda: stage(running, 2)[0] == "rolled-back", "version 3 to be rolled back")
        wait_for(lambda: used(devices) == {2}, "its devices to use version 2 again")
        wait_for(lambda: len(counted(devices, 3)) == SMALLEST, "its devices to learn that they were counted")
    ended = promotion(running, 2)
    assert ended["stage"] == 1
    assert "stage 1: loss is" in ended["reason"]
    entries = running.server.run("audit", "list")["entries"]
    rolled = [one for one in entries if one["action"] == "release-rolled-back"]
    assert [one["detail"]["version"] for one in rolled] == [3]
    assert rolled[0]["detail"]["reason"] == ended["reason"]


def ledgers(devices: Sequence[Device]) -> None:
    """Only the devices of the first stage ever had the bad version, and every evaluation is in the ledger."""
    logs = {device.folder.name: (device.folder / "log").read_text() for device in devices}
    had = [name for name, text in logs.items() if "version 3: in use" in text]
    assert len(had) == SMALLEST
    places = {device.folder.name: place_of(TASK, 3, device.status()["device"]) for device in devices}
    assert set(had) == set(sorted(places, key=lambda name: places[name])[:SMALLEST])
    for device in devices:
        rows = [row for row in device.ledger()["contributions"] if row["purpose"] == "evaluation"]
        compared = {(row["version"], row["baseline"]) for row in rows if row["state"] == "counted"}
        assert (2, 0) in compared
        assert ((3, 2) in compared) == (device.folder.name in had)
        release = device.status()["release"]
        assert (release["version"], release["why"]) == (2, "released")

"""How long a round takes with real agent processes over TLS, beside the time of its bare requests."""

from __future__ import annotations

import random
import tempfile
import time
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from edge_client.identity import load_identity
from edge_client.journal import Journal
from edge_client.state_folder import StateFolder
from edge_client.transport import Signer, Transport, pinned_pool
from shared.clock import SystemClock
from shared.examples import Examples, write_examples
from shared.wire.requests import RELEASES
from tools.bench.quadratic import write_quadratic_bundle
from tools.bench.report import Result
from tools.fleet import Device, FleetFailed, Server, device_runtimes

DEVICES: Final = 10
DIMENSION: Final = 1000
ROUNDS: Final = 8
WARM_UP_ROUNDS: Final = 2  # starting ten processes is not part of a round
# check-in, release, weights, rendezvous; then join, roster, shares, inbox, vector, survivors, agreement, agreements,
# answer, outcome
REQUESTS_PER_DEVICE: Final = 14
PROBES: Final = 200
TIMEOUT_S: Final = 180.0
PLAN: Final = f"""
task = "round"
training = {{ method = "fedsgd" }}
update = {{ max_l2_norm = 100.0 }}
cohort = {{ min_survivors = {DEVICES}, largest = {DEVICES}, dropout_share = 0.0 }}
server = {{ learning_rate = 0.1 }}
stop = {{ rounds = {ROUNDS} }}
"""


def measure() -> list[Result]:
    """Run the rounds and return the median one, beside the same number of requests sent one after another."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as name:
        folder = Path(name)
        server = Server(folder / "server", folder / "server.log")
        write_quadratic_bundle(folder / "bundle", DIMENSION)
        (folder / "plan.toml").write_text(PLAN, "utf-8")
        server.run("task", "create", "--bundle", str(folder / "bundle"), "--plan", str(folder / "plan.toml"))
        devices = _devices(folder)
        try:
            server.start()
            codes = server.run("code", "create", "--task", "round", "--count", str(DEVICES))["codes"]
            for device, code in zip(devices, codes, strict=True):
                device.enrol(code, DEVICES)
            for device in devices:
                device.start()
            for device in devices:
                device.wait(TIMEOUT_S)
            seconds = _round_seconds(server)
            request_s = _request_seconds(devices[0].state)
        finally:
            for device in devices:
                if device.running:
                    device.kill()
            server.stop()
    reference = f"its {DEVICES * REQUESTS_PER_DEVICE} signed requests, one after another"
    floor_s = request_s * DEVICES * REQUESTS_PER_DEVICE
    return [Result(f"round/{DEVICES} devices, d = {DIMENSION}", median(seconds), "s", reference, floor_s)]


def _devices(folder: Path) -> list[Device]:
    runtimes = cycle(device_runtimes().items())
    devices = []
    for number in range(DEVICES):
        runtime, python = next(runtimes)
        device = Device(number, folder / f"device-{number}", python, runtime)
        x = np.full((2, DIMENSION), number / DEVICES, np.float32)
        write_examples(
            device.folder / "examples", Examples(x, np.zeros(2, np.int32)), Examples(x[:0], np.zeros(0, np.int32))
        )
        devices.append(device)
    return devices


def _round_seconds(server: Server) -> list[float]:
    rows = server.run("task", "show", "round")["rounds"]
    counted = [row["closed_s"] - row["opened_s"] for row in rows if row.get("survivors") == DEVICES]
    if len(counted) != ROUNDS:
        raise FleetFailed("rounds-missing", f"{len(counted)} of {ROUNDS} rounds closed with every device.")
    return counted[WARM_UP_ROUNDS:]


def _request_seconds(state: Path) -> float:
    """Return the median time of one signed request on a warm connection."""
    folder = StateFolder(state)
    identity = load_identity(folder)
    journal = Journal(folder.journal_file, identity.enrolment.journal_id)
    signer = Signer(identity.enrolment.fingerprint, identity.enrolment.device, identity.key, journal.next_counter)
    pool = pinned_pool(identity.enrolment.root.tls_root_pem)
    transport = Transport(identity.enrolment.url, pool, signer=signer, clock=SystemClock(), jitter=random.random)
    seconds = []
    try:
        for _ in range(PROBES):
            started_s = time.perf_counter()
            transport.send("GET", f"{RELEASES}/0")
            seconds.append(time.perf_counter() - started_s)
    finally:
        transport.close()
        journal.close()
    return median(seconds)

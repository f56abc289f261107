"""What a signed check-in costs beside a bare Flask route, and how a herd of 10,000 devices comes back after an outage.

The requests are real ones of 10,000 devices with a key each, signed beforehand: verified, counted and made durable by a
real server. The devices are put into its database, since redeeming 10,000 codes would measure something else.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from sqlalchemy import insert

from cloud_server.rounds.pacing import CHECK_INS_PER_S
from cloud_server.serve import SUPERVISOR_VARIABLE, web_command
from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_database
from cloud_server.storage.schema import device
from cloud_server.tls import CERTIFICATE_FILE, KEY_FILE
from shared.root import Root
from shared.wire.canonical import octets_to_text, sha256
from shared.wire.messages import Assignment, CheckIn
from shared.wire.requests import (
    BODY_HEADER,
    CHECK_IN,
    COUNTER_HEADER,
    DEVICE_HEADER,
    JSON,
    SIGNATURE_HEADER,
    request_message,
)
from shared.wire.signed import SigningKey
from tools.bench.herd import Answered, Herd
from tools.bench.quadratic import write_quadratic_bundle
from tools.bench.report import Result
from tools.fleet import FleetFailed, Server, free_port

DEVICES: Final = 10_000
CLIENTS: Final = 8  # connections at once
HERD_CLIENTS: Final = 64
TURNS: Final = 3
REQUESTS_PER_TURN: Final = 1500
DIMENSION: Final = 1000
TASK: Final = "herd"
PLAN: Final = f'task = "{TASK}"\n'
OK: Final = 200
MEMORY_MIB: Final = 1024
BODY: Final = CheckIn(0, MEMORY_MIB).to_bytes()


def measure() -> list[Result]:
    """Measure both on one server."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as name:
        folder = Path(name)
        server = Server(folder / "server", folder / "server.log")
        write_quadratic_bundle(folder / "bundle", DIMENSION)
        (folder / "plan.toml").write_text(PLAN, "utf-8")
        server.run("task", "create", "--bundle", str(folder / "bundle"), "--plan", str(folder / "plan.toml"))
        keys = [SigningKey.generate(os.urandom) for _ in range(DEVICES)]
        _enrol(server.data, keys)
        try:
            server.start()
            root = (server.data / "root.json").read_bytes()
            fingerprint = Root.verified(root, sha256(root)).fingerprint
            counters = iter(range(1, 100))
            results = _beside_bare_route(server, folder, keys, fingerprint, counters)
            results += _herd(server, keys, fingerprint, counters)
        finally:
            server.stop()
    return results


def _name(number: int) -> str:
    return f"device-{number:032x}"


def _enrol(data: Path, keys: list[SigningKey]) -> None:
    """Put devices into the database, last seen a moment ago, as before a short outage."""
    database = open_database(DataFolder.existing(data))
    now_s = time.time()
    rows = [
        {
            "device": _name(number),
            "task": TASK,
            "certificate": b"",
            "identity_key": key.public,
            "enrolled_s": now_s,
            "counter": 0,
            "last_request": "",
            "last_seen_s": now_s,
            "version": 0,
            "memory_mib": MEMORY_MIB,
        }
        for number, key in enumerate(keys)
    ]
    with database.write() as connection:
        connection.execute(insert(device), rows)
    database.close()


def _request(number: int, key: SigningKey, fingerprint: bytes, counter: int, port: int) -> bytes:
    """Return a check-in as it goes over the wire."""
    digest = sha256(BODY).hex()
    name = _name(number)
    signature = key.sign(request_message(fingerprint, name, counter, "POST", CHECK_IN, digest))
    lines = [
        f"POST {CHECK_IN} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept-Encoding: identity",
        "User-Agent: fedloom-agent/1",
        f"Content-Type: {JSON}",
        f"Content-Length: {len(BODY)}",
        f"{DEVICE_HEADER}: {name}",
        f"{COUNTER_HEADER}: {counter}",
        f"{BODY_HEADER}: {digest}",
        f"{SIGNATURE_HEADER}: {octets_to_text(signature)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + BODY


def _beside_bare_route(
    server: Server, folder: Path, keys: list[SigningKey], fingerprint: bytes, counters: Iterator[int]
) -> list[Result]:
    with _bare_server(server.data, folder) as port:
        signed_s: list[float] = []
        bare_s: list[float] = []
        for _ in range(TURNS):
            counter = next(counters)
            requests = [
                _request(number, keys[number], fingerprint, counter, server.port) for number in range(REQUESTS_PER_TURN)
            ]
            for times, at in ((bare_s, port), (signed_s, server.port)):
                started = time.perf_counter()
                _require_all(Herd(at, CLIENTS).send(requests))
                times.append((time.perf_counter() - started) / REQUESTS_PER_TURN)
    what = f"checkin/signed and durable, {CLIENTS} connections, {1 / min(signed_s):.0f} per second"
    return [Result(what, 1000 * min(signed_s), "ms", "bare Flask route on the same server", 1000 * min(bare_s))]


@contextmanager
def _bare_server(data: Path, folder: Path) -> Iterator[int]:
    port, keys = free_port(), data / "keys"
    command = web_command("tools.bench.bare", data, f"127.0.0.1:{port}", keys / CERTIFICATE_FILE, keys / KEY_FILE)
    with (folder / "bare.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}
        )  # our own program
    try:
        _wait(Herd(port, 1))
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(herd: Herd) -> None:
    deadline_s = time.monotonic() + 30
    while herd.send([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])[0].status == 0:
        if time.monotonic() > deadline_s:
            raise FleetFailed("server-silent", "The bare Flask route did not start.", "run it again")
        time.sleep(0.1)


def _require_all(answers: list[Answered]) -> None:
    failed = [answer for answer in answers if answer.status != OK]
    if failed:
        first = failed[0]
        raise FleetFailed(
            "request-failed",
            f"{len(failed)} of {len(answers)} requests failed, one with {first.status}: {first.body!r}.",
        )


def _herd(server: Server, keys: list[SigningKey], fingerprint: bytes, counters: Iterator[int]) -> list[Result]:
    """Send all devices at once, then each when it was told to come, and look at the second arrival."""
    waves = []
    for _ in range(2):
        counter = next(counters)
        waves.append([_request(number, key, fingerprint, counter, server.port) for number, key in enumerate(keys)])
    started = time.perf_counter()
    first = Herd(server.port, HERD_CLIENTS).send(waves[0])
    seconds = time.perf_counter() - started
    _require_all(first)
    back_s = np.array(
        [answer.at_s + answer.took_s + Assignment.from_bytes(answer.body).retry_after_ms / 1000 for answer in first]
    )
    order = np.argsort(back_s)
    due_s = back_s[order] - seconds  # now is when the last one has its answer
    second = Herd(server.port, HERD_CLIENTS).send([waves[1][index] for index in order], [*map(float, due_s)])
    _require_all(second)
    per_second = np.bincount(np.floor(back_s - back_s.min()).astype(int))
    took_s = np.array([answer.took_s for answer in second])
    again = [Assignment.from_bytes(answer.body).retry_after_ms / 1000 for answer in second]
    return [
        Result(
            f"herd/{DEVICES} devices at once, until all have an answer",
            seconds,
            "s",
            "at the planned rate",
            DEVICES / CHECK_INS_PER_S,
        ),
        Result("herd/fullest second of their return", float(per_second.max()), "1/s", "planned rate", CHECK_INS_PER_S),
        Result("herd/answers at their return, p99", float(np.quantile(took_s, 0.99)), "s", "aim", 1.0),
        Result("herd/mean interval after that", float(np.mean(again)), "s", "planned", DEVICES / CHECK_INS_PER_S),
    ]

"""One real agent in a cohort with three members of the test, on a real server; it dies and is started again.

Members change one coordinate each, the agent those behind, so that the published model says who was counted how often.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

import numpy as np
from safetensors.numpy import load

from edge_client.enrolment import enrol
from edge_client.journal import TERMINAL, State
from edge_client.report import ledger
from edge_client.state_folder import StateFolder, current_version
from shared.clock import SystemClock
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from shared.release import parse_release
from shared.secagg.floors import DeviceFloors
from shared.wire.requests import COHORTS
from tests.cloud_server.members import STEPS, one_hot
from tests.e2e.servers import PATIENCE_S, Deployment
from tools.fleet import ALWAYS, REPOSITORY

OTHERS: Final = 3
OWN: Final = slice(OTHERS, 16)  # the agent's coordinates
DIMENSION: Final = 16
HOUR_S: Final = 3600.0
WAITS_FOR_STEP: Final = {"sharing": "shares", "collecting": "vector"}  # phases that end without the rest at a deadline
_LINE_PATIENCE_S: Final = 240.0


def new_plan(task: str) -> Plan:
    """Return a plan of one round, whose sum is exact, and which a device may leave."""
    return Plan(
        task,
        training=Training(method="fedavg", epochs=1, learning_rate=0.25),
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=OTHERS + 1, corrupt_share=0.0, dropout_share=0.25),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


class Starter:
    """Starts agents one after another, see ``dying_agent``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.dying_agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={"OPENBLAS_NUM_THREADS": "1", "PATH": "", "LANG": "C.UTF-8"},
        )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def start(self, job: dict[str, Any]) -> int:
        """Start an agent, and return its process's number."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(job)}\n")
        self._process.stdin.flush()
        return int(self._lines.get(timeout=_LINE_PATIENCE_S))

    def ended(self, wait_s: float) -> int | None:
        """Return how the agent ended, None while it runs."""
        with suppress(Empty):
            return int(self._lines.get(timeout=wait_s))
        return None

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@contextmanager
def agent_starter() -> Iterator[Starter]:
    """Start agents until the block ends."""
    starter = Starter()
    try:
        yield starter
    finally:
        starter.close()


@dataclass
class AgentScene:
    """A task, one device with an agent, and three others.

    Attributes:
        running: the server.
        starter: starts agents.
        folder: of the device.
        task: its name.
        seed: of the device's examples.
        failures: of the others.
    """

    running: Deployment
    starter: Starter
    folder: Path
    task: str
    seed: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = new_plan(self.task)
        self.running.create_task(self.plan, DIMENSION)
        values = np.random.default_rng(self.seed).normal(size=DIMENSION - OTHERS).astype(np.float32)
        self.example = np.zeros(DIMENSION, np.float32)
        self.example[OWN] = values
        (self.folder / "examples").mkdir(parents=True)
        x, y = np.tile(self.example, (6, 1)), np.zeros(6, np.int32)
        np.savez(self.folder / "examples" / "examples.npz", x=x, y=y, held_out=np.arange(6) > 3)
        self.enrolment = enrol(
            self.running.codes(self.task, 1)[0].to_text(),
            self.state,
            self.folder / "examples",
            floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
            name="",
            clock=SystemClock(),
            random_bytes=np.random.default_rng([self.seed, 1]).bytes,
            jitter=lambda: 0.5,
        )
        self.state.settings_file.write_text(ALWAYS, "utf-8")
        self.members = self.running.enrol(self.plan, OTHERS)
        self._others = threading.Thread(target=self._work, daemon=True)
        self._others.start()

    @property
    def state(self) -> StateFolder:
        """The device's state."""
        return StateFolder(self.folder / "state")

    @property
    def change(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """What training changes before it is clipped: one batch of equal examples pulls by half the way."""
        return 0.5 * self.example[OWN].astype(np.float64)

    @property
    def update(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """What the agent brings into the sum."""
        return self.change / max(1.0, float(np.linalg.norm(self.change)))

    def _work(self) -> None:
        try:
            model = self.members[0].release(0).model_sha256
            for member in self.members:
                member.values = one_hot(member.number, DIMENSION)
                member.meet(model)
            for step in STEPS:
                for member in self.members:
                    member.do(step)
            assert all(member.counted() for member in self.members)
        except BaseException as error:  # noqa: BLE001  # raised again where the test looks
            self.failures.append(error)

    @property
    def struck(self) -> Path:
        """Appears when a fault begins."""
        return self.folder / "struck"

    @property
    def log(self) -> str:
        """What agents said."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def job(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
        """Return what starts an agent."""
        files = {"log": str(self.folder / "log"), "sent": str(self.folder / "sent.jsonl")}
        return {"state": str(self.state.path), **files, **more}

    @property
    def joined(self) -> bool:
        """Whether the server has the device in a cohort."""
        query = "SELECT 1 FROM step WHERE device = ? AND step = 'join'"
        return bool(self.running.rows(query, self.enrolment.device))

    def wait_for_end(self) -> int:
        """Wait until the agent that was started ends; others do not wait for one whose session is gone."""
        gone, deadline_s = self.joined, time.monotonic() + PATIENCE_S
        while (code := self.starter.ended(0.02)) is None:
            assert time.monotonic() < deadline_s, self.log
            if gone:
                self._go_on_without_it()
        return code

    def _go_on_without_it(self) -> None:
        rows = self.running.rows("SELECT id, phase FROM cohort WHERE task = ?", self.task)
        for cohort, phase in rows:
            step = WAITS_FOR_STEP.get(phase)
            query = "SELECT count(*) FROM step WHERE cohort = ? AND step = ? AND device != ?"
            if step and self.running.rows(query, cohort, step, self.enrolment.device) == [(OTHERS,)]:
                change = "UPDATE cohort SET since_s = since_s - 1000000 WHERE id = ? AND phase = ?"
                self.running.change(change, cohort, phase)

    def check(self, *, counted: bool) -> None:
        """See that the sum is the acknowledged devices', once each, and that the device says how all of it ended."""
        self._others.join(PATIENCE_S)
        assert not self.failures, self.failures
        assert not self._others.is_alive()
        theta = load(self.members[0].weights(1))["theta"]
        step = self.plan.grid(OTHERS + 1).step
        np.testing.assert_allclose(theta[:OTHERS], 1.0, atol=4 * step)
        np.testing.assert_allclose(theta[OWN], self.update if counted else 0.0, atol=4 * step)
        query = "SELECT count(*) FROM step WHERE device = ? AND step = 'vector'"
        assert self.running.rows(query, self.enrolment.device) == [(int(counted),)]
        versions = "SELECT number FROM version WHERE task = ? ORDER BY number"
        assert self.running.rows(versions, self.task) == [(0,), (1,)]
        self.check_what_left()
        rows = ledger(self.state)["contributions"]
        assert all(row["state"] in TERMINAL for row in rows), rows
        assert all(row["reason"] for row in rows if row["state"] == State.ABANDONED)
        assert self.whole_version() == 1

    def check_what_left(self) -> None:
        """See that no message was sent twice with other bytes, and at most one vector in all."""
        lines = (self.folder / "sent.jsonl").read_text("utf-8").splitlines() if self.left else []
        bodies: dict[str, set[str]] = {}
        for line in map(json.loads, lines):
            bodies.setdefault(line["target"].partition("?")[0], set()).add(line["sha256"])
        assert all(len(hashes) == 1 for hashes in bodies.values()), bodies
        assert len([target for target in bodies if target.endswith("/vector")]) <= 1
        assert all(target.startswith(COHORTS) for target in bodies)
        joins = [hashes for target, hashes in bodies.items() if target.endswith("/join")]
        assert len(set.union(set(), *joins)) == len(joins)  # fresh keys in each cohort

    @property
    def left(self) -> bool:
        """Whether the agent has sent anything into a cohort."""
        return (self.folder / "sent.jsonl").exists()

    def whole_version(self) -> int | None:
        """Return the version in use, which must be all there."""
        version = current_version(self.state)
        if version is not None:
            release = parse_release((self.state.current / "release.json").read_bytes())
            assert release.version == version
            for name, entry in release.files.items():
                path = self.state.store / entry.sha256
                assert not path.exists() or entry.check(path.read_bytes(), name)
        return version

    def check_no_plaintext(self, *, published: bool) -> None:
        """See that neither examples nor an update are anywhere in the state or in what was logged."""
        secret: list[np.ndarray[Any, Any]] = [self.example[OWN], self.change]
        secret += [] if published else [self.update]
        octets = [
            values.astype(kind)[start : start + 2].tobytes()
            for values in secret
            for kind in ("<f4", "<f8")
            for start in range(values.size - 1)
        ]
        texts = [f"{value:.5f}".rstrip("0").encode() for values in secret for value in values]
        for path in (*self.state.path.rglob("*"), self.folder / "log"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(part in data for part in octets), path
                if path.suffix != ".key" and path.parent != self.state.store:
                    assert not any(text in data for text in texts), path

"""Whole lives of a real agent behind a proxy that does one thing wrong: enrol, two rounds, renew its key, leave.

Two more agents, whose network is good, are in every cohort. Whatever happens to the one behind the proxy, each round
ends, and each version is the one before plus the gradients of exactly those that say that they were counted.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load

from cloud_server.settings import DataFolder
from cloud_server.storage.blobs import FolderBlobs
from edge_client.agent import Agent, open_agent
from edge_client.enrolment import enrol
from edge_client.identity import load_enrolment
from edge_client.journal import TERMINAL, Contribution, Journal, State
from edge_client.state_folder import StateFolder
from edge_client.transport import ATTEMPTS
from shared.errors import FedloomError
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from shared.release import WEIGHTS_FILE
from shared.root import EnrolmentCode
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import decode
from tests.e2e.meddling import Meddler, Wrong, meddling
from tests.e2e.servers import PATIENCE_S, Deployment, wait_for

TASK: Final = "lives"
DIMENSION: Final = 20_000
MOVING: Final = 2_000  # coordinates that training changes
RATE: Final = 0.05
COMPANIONS: Final = 2
ROUNDS: Final = 2  # of one life
HOUR_S: Final = 3600.0
MOST_TURNS: Final = 60
Array = npt.NDArray[np.float64]
Result = TypeVar("Result")
PLAN: Final = Plan(
    TASK,
    training=Training(method="fedsgd"),
    update=Update(max_l2_norm=10_000.0, lane_bits=32),
    cohort=Cohort(min_survivors=2, largest=COMPANIONS + 1, corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
    server=Server(combine="sum", learning_rate=RATE),
    stop=Stop(rounds=100_000),
)
# What a phase waits for of every member.
_SENT: Final = {"sharing": "shares", "collecting": "vector", "agreeing": "agreement", "unmasking": "answer"}


@dataclass
class HastyClock:
    """The time, and waits that are noted and cut short."""

    slept_s: list[float] = field(default_factory=list)

    def now_s(self) -> float:
        """Return the time."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait a moment."""
        self.slept_s.append(seconds)
        time.sleep(min(seconds, 0.05))


@dataclass
class Life:
    """What became of one device.

    Attributes:
        number: for the test.
        device: its name, empty if it never enrolled.
        proxy: that it was behind.
        errors: the code of everything that failed, in order.
        rows: its contributions.
        slept_s: how long it wanted to wait, each time.
        serial: how often its key was renewed.
    """

    number: int
    device: str
    proxy: Meddler
    errors: list[str]
    rows: list[Contribution]
    slept_s: list[float]
    serial: int


@dataclass
class World:
    """A server with one task, and two devices whose network is good.

    Attributes:
        running: the server.
        folder: where devices live.
    """

    running: Deployment
    folder: Path
    stopped: threading.Event = field(default_factory=threading.Event)
    failed: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def companion(self, number: int) -> None:
        """Work like a device with a good network, until the world stops."""
        clock = HastyClock()
        try:
            with open_agent(StateFolder(self.folder / f"state-{number}"), log=_ignore, clock=clock) as agent:
                while not self.stopped.is_set():
                    clock.sleep(agent.turn())
        except BaseException as error:  # noqa: BLE001  # the test's own thread raises it
            self.failed.append(error)

    def live(self, wrongs: Mapping[str, Wrong], monkeypatch: pytest.MonkeyPatch, *, renews: bool = True) -> Life:
        """Let a new device live behind a proxy that does ``wrongs``, and see every round that it was in to its end."""
        number, clock, errors = next(self._numbers), HastyClock(), list[str]()
        keys = DataFolder(self.running.data).keys
        with meddling(self.running.server.port, keys, wrongs) as proxy:
            resolve_through(proxy, monkeypatch)
            code = replace(self.running.codes(TASK, 1)[0], url=proxy.url)
            state = patiently(lambda: enrol_device(code, self.folder, clock, number), errors)
            if state is None:
                return Life(number, "", proxy, errors, [], clock.slept_s, 0)
            with open_agent(state, log=_ignore, clock=clock, jitter=lambda: 0.5) as agent:
                self._work(agent, state, clock, errors)
                if renews:
                    patiently(agent.renew_key, errors)
            enrolment = load_enrolment(state)
            rows = _rows(state)
            with state.lock():
                state.erase()
        self.running.change("DELETE FROM invitation WHERE device = ?", enrolment.device)
        self._end_cohorts(enrolment.device)
        return Life(number, enrolment.device, proxy, errors, rows, clock.slept_s, enrolment.certificate.serial)

    def _work(self, agent: Agent, state: StateFolder, clock: HastyClock, errors: list[str]) -> None:
        device = load_enrolment(state).device
        for _ in range(MOST_TURNS):
            assert not self.failed, self.failed
            try:
                pause_s = agent.turn()
            except FedloomError as error:
                errors.append(error.code)
                return
            self._end_cohorts(device)
            rows = _rows(state)
            if sum(row.state in {State.COUNTED, State.NOT_COUNTED} for row in rows) >= ROUNDS or len(rows) > ROUNDS:
                return
            if agent._given_up >= 0:
                self._go_on_without_it()
            clock.sleep(pause_s)
        raise AssertionError(f"after {MOST_TURNS} turns: {rows}")

    def _end_cohorts(self, device: str) -> None:
        """Let the phases pass that wait for a device that has gone."""
        query = (
            "SELECT id, phase FROM cohort JOIN step ON step.cohort = cohort.id AND step.step = 'join'"
            " WHERE step.device = ? AND phase NOT IN ('summed', 'failed')"
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while rows := self.running.rows(query, device):
            assert time.monotonic() < deadline_s, rows
            assert not self.failed, self.failed
            for cohort, phase in rows:
                sent = self._senders(cohort, _SENT.get(phase, "join"))
                if phase in _SENT and len(sent - {device}) >= COMPANIONS:
                    change = "UPDATE cohort SET since_s = since_s - 1000000 WHERE id = ? AND phase = ?"
                    self.running.change(change, cohort, phase)
            time.sleep(0.02)

    def _go_on_without_it(self) -> None:
        """Let the round that forms go on without the device behind the proxy, which takes no part in it."""
        query = "SELECT id FROM cohort WHERE task = ? AND phase = 'forming'"
        forming = [cohort for (cohort,) in self.running.rows(query, TASK)]
        for cohort in forming:
            wait_for(
                lambda cohort=cohort: len(self._senders(cohort, "join")) >= COMPANIONS,  # type: ignore[misc]
                "the other devices to join",
            )
            change = "UPDATE step SET received_s = received_s - 1000000 WHERE cohort = ? AND step = 'join'"
            self.running.change(change, cohort)
            wait_for(lambda cohort=cohort: self.running.phase(cohort) in {"summed", "failed"}, "a round")  # type: ignore[misc]

    def wait_until_idle(self) -> None:
        """Wait until both companions are in the cohort that forms, and so wait for a third device."""
        query = "SELECT id FROM cohort WHERE task = ? AND phase = 'forming'"

        def idle() -> bool:
            forming = self.running.rows(query, TASK)
            return len(forming) == 1 and len(self._senders(str(forming[0][0]), "join")) == COMPANIONS

        wait_for(idle, "both companions to join")

    def _senders(self, cohort: str, step: str) -> set[str]:
        rows = self.running.rows("SELECT device FROM step WHERE cohort = ? AND step = ?", cohort, step)
        return {str(device) for (device,) in rows}

    def weights(self, version: int) -> Array:
        """Return a version's weights."""
        body = self.running.rows("SELECT release FROM version WHERE task = ? AND number = ?", TASK, version)[0][0]
        files: Any = decode(body)["files"]
        data = FolderBlobs(self.running.data / "blobs").get(str(files[WEIGHTS_FILE]["sha256"]))
        return load(data)["theta"].astype(np.float64)

    def assert_exact(self, life: Life) -> None:
        """Assert that each version after one that the device trained from is the sum of those that were counted."""
        for row in life.rows:
            if not self.running.rows("SELECT 1 FROM version WHERE task = ? AND number = ?", TASK, row.version + 1):
                assert row.state is not State.COUNTED
                continue
            before, after = self.weights(row.version), self.weights(row.version + 1)
            with_it = [
                has
                for has in (True, False)
                for others in ({0, 1}, {0}, {1})
                if np.abs(after - before - step_of(before, others | ({life.number} if has else set()))).max() < 1e-3
            ]
            assert len(with_it) == 1, f"version {row.version + 1} is nobody's sum"
            if with_it[0]:
                assert row.vector_sent
            else:
                assert row.state is not State.COUNTED


def enrol_device(code: EnrolmentCode, folder: Path, clock: HastyClock, number: int) -> StateFolder:
    """Enrol a device with one example, and return its state."""
    examples, state = folder / f"examples-{number}", StateFolder(folder / f"state-{number}")
    examples.mkdir(exist_ok=True)
    np.savez(examples / "examples.npz", x=point(number), y=np.zeros(1, np.int32))
    enrol(
        code.to_text(),
        state,
        examples,
        floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0, max_l2_norm=1e6),
        name="",
        clock=clock,
        random_bytes=os.urandom,
        jitter=lambda: 0.5,
    )
    return state


def point(number: int) -> npt.NDArray[np.float32]:
    """Return a device's only example, f32[1, d]; most of it stays 0, so that a difference is worth sending."""
    x = np.zeros((1, DIMENSION), np.float32)
    x[:, :MOVING] = np.random.default_rng(number).uniform(-1, 1, (1, MOVING))
    return x


def step_of(theta: Array, numbers: set[int]) -> Array:
    """Return by how much the gradients of devices move ``theta``."""
    moved = np.zeros(DIMENSION)
    for number in numbers:
        moved -= 2 * RATE * (theta - point(number)[0])
    return moved


def _ignore(_line: str) -> None:
    """Say nothing."""


def _rows(state: StateFolder) -> list[Contribution]:
    journal = Journal(state.journal_file, load_enrolment(state).journal_id)
    try:
        return journal.contributions()
    finally:
        journal.close()


def patiently(command: Callable[[], Result], errors: list[str]) -> Result | None:
    """Run a command as its owner would: again, where it failed."""
    for _ in range(3):
        try:
            return command()
        except FedloomError as error:
            errors.append(error.code)
    return None


def resolve_through(proxy: Meddler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the proxy decide where connections to it lead."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **named: Any) -> Any:  # noqa: ANN401  # as the original
        return resolve(host, proxy.look_up() if port == proxy.port else port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def assert_well_behaved(life: Life) -> None:
    """Assert what holds for every device, whatever its network does."""
    assert all(row.state in TERMINAL for row in life.rows), life.rows
    assert all(row.reason for row in life.rows if row.state in {State.ABANDONED, State.REFUSED}), life.rows
    seen = life.proxy.seen
    repeats = Counter(request.signed for request in seen if request.headers.get("Fedloom-Counter"))
    assert not repeats or max(repeats.values()) <= ATTEMPTS, repeats.most_common(3)
    unsigned = Counter(request.kind for request in seen if not request.headers.get("Fedloom-Counter"))
    assert all(count <= 3 * ATTEMPTS for count in unsigned.values()), unsigned
    wholes: dict[str, bytes] = {}
    for request in seen:
        if request.kind in {"vector", "vector-rest"}:
            cohort, _, query = request.target.partition("/vector")
            if not query:
                assert wholes.setdefault(cohort, request.body) == request.body, "another mask in one cohort"
            else:
                offset = int(query.removeprefix("?offset=").partition("&")[0])
                assert wholes[cohort][offset:] == request.body, "another mask in one cohort"
    assert len(wholes) <= len({row.version for row in life.rows}), "one version's gradient in two sums"


@contextmanager
def new_world(running: Deployment, folder: Path, prepare: Callable[[], None]) -> Iterator[World]:
    """Return a world whose devices work until the block ends; ``prepare`` is called once its task is there."""
    running.create_task(PLAN, DIMENSION)
    prepare()
    world = World(running, folder)
    threads = []
    for code in running.codes(TASK, COMPANIONS):
        number = next(world._numbers)
        enrol_device(code, folder, HastyClock(), number)
        threads.append(threading.Thread(target=world.companion, args=(number,)))
    for thread in threads:
        thread.start()
    try:
        yield world
    finally:
        world.stopped.set()
        with suppress(IndexError):
            running.retire(TASK)
        for cohort, phase in running.rows("SELECT id, phase FROM cohort WHERE phase NOT IN ('summed', 'failed')"):
            running.change(
                "UPDATE cohort SET phase = 'failed', failure = 'over: over' WHERE id = ? AND phase = ?", cohort, phase
            )
        for thread in threads:
            thread.join(PATIENCE_S)

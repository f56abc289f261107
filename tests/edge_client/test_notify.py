"""What supervises the agent is told that it is up, how it stands and that it works on, and nothing while it hangs."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from edge_client.conditions.asked import Unconditional
from edge_client.notify import Notifier, take_notifier
from edge_client.permits import Permits
from edge_client.supervised import BreathingClock, BreathingConditions, Supervised
from edge_client.transport import Transport, pinned_pool
from shared.clock import SystemClock
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import ManualClock, enrolled, new_journal
from tests.edge_client.loopback import Answer, Request, serve

PATIENCE_S: Final = 90.0
WATCHDOG_US: Final = 400_000


class Supervisor:
    """The other end, as systemd's: everything that arrived, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def listen(self, seconds: float) -> list[str]:
        """Return what arrives in that time."""
        new, end_s = [], time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                new.append(self.socket.recv(65536).decode())
            except TimeoutError:
                break
        self.heard += new
        return new

    def hear_what_is_there(self) -> None:
        """Take what has arrived; a socket holds few messages."""
        self.socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.heard.append(self.socket.recv(65536).decode())

    def forget(self) -> None:
        """Forget what has arrived."""
        self.hear_what_is_there()
        self.heard = []

    def wait_for(self, found: Callable[[str], bool]) -> str:
        """Return the first message that is it."""
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            for line in self.heard:
                if found(line):
                    return line
            self.listen(0.1)
        raise AssertionError(self.heard)


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@fedloom-{secrets.token_hex(8)}"
    one = Supervisor(address)
    yield one
    one.socket.close()


@contextmanager
def agent(supervisor: Supervisor, state: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    around = {**os.environ, "NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": str(WATCHDOG_US)}
    command = [sys.executable, "-m", "edge_client", "run", "--state", str(state), *options]
    process = subprocess.Popen(command, env=around)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_beat(line: str) -> bool:
    return line == "WATCHDOG=1"


def test_an_agent_without_an_enrolment_is_idle_and_begins_once_it_has_one(
    supervisor: Supervisor, tmp_path: Path, certificates: Path
) -> None:
    aggregator = Aggregator(certificates, 2, rounds=0)
    with (
        serve(certificates, aggregator) as url,
        agent(supervisor, tmp_path / "a" / "state", "--wait-for-enrolment") as process,
    ):
        supervisor.wait_for(lambda line: line == "READY=1")
        told = supervisor.wait_for(lambda line: line.startswith("STATUS="))
        assert told.startswith("STATUS=not enrolled yet: fedloom-agent enroll CODE")
        supervisor.forget()
        supervisor.wait_for(is_beat)
        enrolled(tmp_path / "a", aggregator, url)
        assert supervisor.wait_for(lambda line: "point: training now: " in line).startswith("STATUS=")
        supervisor.wait_for(lambda line: "the task is done" in line)
        process.send_signal(signal.SIGTERM)
        supervisor.wait_for(lambda line: line == "STOPPING=1")
        assert process.wait(PATIENCE_S) == 0


def test_without_the_option_a_missing_enrolment_is_an_error(supervisor: Supervisor, tmp_path: Path) -> None:
    with agent(supervisor, tmp_path / "state") as process:
        assert process.wait(PATIENCE_S) == 3
    supervisor.listen(0.1)
    assert "READY=1" not in supervisor.heard


def test_no_sign_of_life_comes_while_a_request_hangs(
    supervisor: Supervisor, tmp_path: Path, certificates: Path
) -> None:
    aggregator, hangs, go_on = Aggregator(certificates, 2, rounds=0), threading.Event(), threading.Event()
    stuck = threading.Event()

    def answer(request: Request) -> Answer:
        if stuck.is_set() and "check-in" in request.path:
            hangs.set()
            go_on.wait(PATIENCE_S)
        return aggregator(request)

    with serve(certificates, answer) as url:
        enrolled(tmp_path / "a", aggregator, url)
        with agent(supervisor, tmp_path / "a" / "state"):
            supervisor.wait_for(lambda line: line == "READY=1")
            supervisor.wait_for(is_beat)
            stuck.set()
            assert hangs.wait(PATIENCE_S)
            supervisor.forget()
            assert not [line for line in supervisor.listen(4 * WATCHDOG_US / 1e6) if is_beat(line)]
            go_on.set()
            supervisor.wait_for(is_beat)


def test_signs_of_life_come_while_a_device_waits_in_a_cohort(
    supervisor: Supervisor, tmp_path: Path, certificates: Path
) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path / "a", aggregator, url)
        with agent(supervisor, tmp_path / "a" / "state"):
            supervisor.wait_for(lambda line: "its cohort is at joined" in line)
            supervisor.forget()
            supervisor.wait_for(is_beat)


def test_a_long_wait_is_cut_into_pieces_in_which_the_agent_breathes(supervisor: Supervisor) -> None:
    class Heard(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            supervisor.hear_what_is_there()

    time_ = Heard()
    notifier = Notifier(supervisor.address, 60.0, time_.now_s)
    clock = BreathingClock(time_, notifier, time_.now_s)
    clock.sleep(600.0)
    assert sum(time_.slept_s) == pytest.approx(600.0)
    assert max(time_.slept_s) < 30.0
    supervisor.hear_what_is_there()
    assert sum(map(is_beat, supervisor.heard)) >= 30


def test_the_status_is_told_when_it_changes_and_on_one_line(supervisor: Supervisor) -> None:
    time_ = ManualClock()
    words = ["it waits", "it waits", "it trains\nREADY=1"]
    notifier = Notifier(supervisor.address, None, time_.now_s)
    notifier.say(lambda: words.pop(0))
    while words:
        time_.sleep(10.0)
        notifier.breathe()
    assert supervisor.listen(0.2) == ["STATUS=it waits", "STATUS=it trains READY=1"]


def test_every_question_to_the_conditions_is_a_sign_of_life(tmp_path: Path) -> None:
    signs: list[int] = []
    conditions = BreathingConditions(Unconditional(), lambda: signs.append(1))
    permits = conditions.permits
    asked: list[Callable[[], object]] = [
        conditions.hold_s,
        conditions.require,
        conditions.before_batch,
        conditions.before_joining,
        conditions.goes_on,
        *[lambda one=one: one(1) for one in (permits.transfer, permits.download, permits.piece, permits.up)],
        lambda: conditions.require_transfer(1),
    ]
    for number, ask in enumerate(asked, 1):
        ask()
        assert len(signs) == number
    journal = new_journal(tmp_path / "journal.sqlite3")
    unsupervised = Supervised(None, SystemClock(), time.monotonic).conditions(lambda _journal: Unconditional())
    assert isinstance(unsupervised(journal), Unconditional)
    journal.close()


def test_an_upload_breathes_between_its_pieces(certificates: Path) -> None:
    pieces: list[int] = []
    with serve(certificates, lambda _request: Answer()) as url:
        pool = pinned_pool((certificates / "tls_root.pem").read_text())
        permits = Permits(up=pieces.append)
        transport = Transport(url, pool, signer=None, clock=SystemClock(), jitter=lambda: 0.5, permits=permits)
        transport.send("PUT", "/v1/x", bytes(200_000))
        transport.close()
    assert sum(pieces) == 200_000
    assert max(pieces) <= 65_536


@pytest.mark.parametrize(
    ("environment", "watched"),
    [
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "1000000"}, True),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "7"}, True),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}, False),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "soon"}, False),
        ({"NOTIFY_SOCKET": "/a"}, False),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"WATCHDOG_USEC": "1000000"}, None),
    ],
)
def test_what_systemd_gives_is_taken_out_of_the_environment(
    environment: dict[str, str], *, watched: bool | None
) -> None:
    around = {**environment, "PATH": "/bin"}
    notifier = take_notifier(around, 7, lambda: 0.0)
    assert around == {"PATH": "/bin"}
    assert (None if notifier is None else notifier.watched) == watched


def test_nobody_who_listens_is_no_reason_to_stop(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "nobody"), 1.0, lambda: 0.0)
    notifier.ready()
    notifier.breathe()
    notifier.stopping()

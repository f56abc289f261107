"""Agents die, fail and hang before and after each step of a round, and are started again, as real processes.

Whatever the step: the sum is of those whose vectors were acknowledged, once each, no message goes out twice with other
bytes, versions only increase, no update is readable on the disk, and each contribution has an end with a name.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from edge_client.cli import main
from edge_client.crash_loop import DEATHS_ALLOWED
from edge_client.journal import State
from edge_client.report import ledger, status, status_text
from tests.e2e.servers import Deployment, deployment, wait_for
from tests.faults.agent_scene import AgentScene, Starter, agent_starter
from tests.faults.dying_agent import MOMENTS, PLACES

ENDS: Final = {"kill": -signal.SIGKILL, "error": 1, "hang": -signal.SIGABRT}
SEEDS: Final = 3
WATCHDOG_S: Final = 1.0
# Every place is in the default suite once; the whole table, over several seeds, takes minutes.
KILLS: Final = [(place, MOMENTS[number % 2], "kill") for number, place in enumerate(PLACES)]
OTHERS: Final = [
    ("training", "after", "error"),
    ("uploading", "after", "error"),
    ("verified-1", "before", "error"),
    ("trained", "after", "hang"),
    ("vector-sent", "before", "hang"),
]
SHORT: Final = [*KILLS, *OTHERS]
TABLE: Final = [case for case in product(PLACES, MOMENTS, ENDS) if case not in SHORT]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server."""
    with deployment(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """Return what starts agents."""
    with agent_starter() as started:
        yield started


def is_counted(place: str) -> bool:
    """Say whether the device's update is in the sum: an agent that had not joined yet has another try, others none."""
    joined = PLACES.index(place) > PLACES.index(State.JOINING)
    sent = PLACES.index(place) >= PLACES.index(State.VECTOR_SENT)
    return not joined or sent


# What was trained waits for another cohort, and there is none once the task is done.
ENDINGS = {("counted", "")} | {
    ("abandoned", why) for why in ("process-ended", "no-connection", "task-done", "version-moved")
}


@pytest.mark.parametrize(("place", "moment", "fault"), SHORT)
def test_a_started_again_agent_ends_the_round_well(
    running: Deployment, starter: Starter, tmp_path: Path, place: str, moment: str, fault: str
) -> None:
    strike(AgentScene(running, starter, tmp_path, f"{fault}-{place}-{moment}"), place, moment, fault)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_the_whole_table(running: Deployment, starter: Starter, tmp_path: Path, seed: int) -> None:
    for place, moment, fault in TABLE:
        name = f"{fault}-{place}-{moment}-{seed}"
        strike(AgentScene(running, starter, tmp_path / name, name, seed), place, moment, fault)


def strike(scene: AgentScene, place: str, moment: str, fault: str) -> None:
    """Let the agent meet its fault, start it again, and look at everything."""
    if fault == "hang":
        end_what_hangs(scene, place, moment)
    else:
        scene.starter.start(scene.job(place=place, moment=moment, fault=fault))
    assert scene.wait_for_end() == ENDS[fault], scene.log
    before = scene.whole_version()
    scene.check_no_plaintext(published=place.endswith("-1"))
    scene.starter.start(scene.job())
    assert scene.wait_for_end() == 0, scene.log
    scene.check(counted=is_counted(place))
    scene.check_no_plaintext(published=True)
    assert before in {None, 0, 1}
    states = [(row["state"], row["reason"]) for row in ledger(scene.state)["contributions"]]
    assert states[-1] in ENDINGS


def end_what_hangs(scene: AgentScene, place: str, moment: str) -> None:
    """End the agent as systemd's watchdog does, once it has given no sign of life for long enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        address = f"fedloom-{os.getpid()}-{scene.task}"
        supervisor.bind(f"\0{address}")
        environment = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}
        process = scene.starter.start(scene.job(place=place, moment=moment, fault="hang", environment=environment))
        wait_for(scene.struck.exists, "the agent to hang")
        assert b"READY=1" in heard(supervisor)
        time.sleep(2 * WATCHDOG_S)
        assert heard(supervisor) == []
        os.kill(process, signal.SIGABRT)


def heard(supervisor: socket.socket) -> list[bytes]:
    """Return what arrived since the last time."""
    lines = []
    while True:
        try:
            lines.append(supervisor.recv(4096, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return lines


def test_an_agent_that_dies_at_the_same_place_again_and_again_pauses_and_says_so(
    running: Deployment, starter: Starter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = AgentScene(running, starter, tmp_path, "again-and-again")
    for _ in range(DEATHS_ALLOWED + 1):
        starter.start(scene.job(place="training", moment="after", fault="kill"))
        assert scene.wait_for_end() == ENDS["kill"]
    process = starter.start(scene.job())
    wait_for(lambda: status(scene.state)["why"] is not None and status(scene.state)["why"]["why"] == "crashed", "it")
    told = status(scene.state)
    assert told["crashes"]["count"] == DEATHS_ALLOWED + 1
    assert "3 times in a row, last at training (1)" in status_text(told)
    assert told["crashes"]["again_s"] > told["at_s"]
    os.kill(process, signal.SIGTERM)
    assert scene.wait_for_end() == 0
    assert not scene.joined
    assert len(ledger(scene.state)["contributions"]) == DEATHS_ALLOWED + 1  # the paused one began none
    assert main(["once", "--state", str(scene.state.path)]) == 0  # its owner may try at once
    assert status(scene.state)["crashes"] is None
    capsys.readouterr()
    starter.start(scene.job())
    assert scene.wait_for_end() == 0
    scene.check(counted=True)

"""Agents die, fail and hang before and after each step of a round, and are started again, as real processes.

Whatever the step: the sum is of those whose vectors were acknowledged, once each, no message goes out twice with other
bytes, versions only increase, no update is readable on the disk, and each contribution has an end with a name.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from edge_client.journal import State
from edge_client.report import ledger
from tests.e2e.servers import Deployment, deployment
from tests.faults.agent_scene import AgentScene, Starter, agent_starter
from tests.faults.dying_agent import MOMENTS, PLACES

ENDS: Final = {"kill": -signal.SIGKILL, "error": 1, "hang": -signal.SIGABRT}


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


def is_counted(place: str, moment: str) -> bool:
    """Say whether the device's update is in the sum: an agent that had not joined yet has another try, others none."""
    joined = PLACES.index(place) > PLACES.index(State.JOINING)
    sent = PLACES.index(place) >= PLACES.index(State.VECTOR_SENT)
    return not joined or sent


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("place", PLACES)
def test_killed(running: Deployment, starter: Starter, tmp_path: Path, place: str, moment: str) -> None:
    strike(AgentScene(running, starter, tmp_path, f"kill-{place}-{moment}"), place, moment, "kill")


def strike(scene: AgentScene, place: str, moment: str, fault: str) -> None:
    scene.starter.start(scene.job(place=place, moment=moment, fault=fault))
    assert scene.wait_for_end() == ENDS[fault], (scene.folder / "log").read_text()
    before = scene.whole_version()
    scene.check_no_plaintext(published=before == 1)
    scene.starter.start(scene.job())
    assert scene.wait_for_end() == 0, (scene.folder / "log").read_text()
    assert (before or 0) <= 1
    scene.check(counted=is_counted(place, moment))
    scene.check_no_plaintext(published=True)
    rows = ledger(scene.state)["contributions"]
    assert rows

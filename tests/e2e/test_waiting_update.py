"""A device that is switched off after training, and a real aggregator: it trains once, and is in the exact sum once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_client.agent import open_agent
from edge_client.enrolment import enrol
from edge_client.journal import State
from edge_client.report import ledger, status
from edge_client.state_folder import StateFolder
from shared.clock import SystemClock
from shared.plan import Server, Stop, Training, Update
from shared.secagg.floors import DeviceFloors
from tests.cloud_server.local import small_plan
from tests.e2e.servers import Deployment
from tests.e2e.test_fedsgd_textbook import published
from tests.edge_client.devices import work_on, write_points

TASK = "waiting-update"
RATE = 0.01


class Killed(BaseException):
    """The power is cut."""


def test_what_was_trained_before_a_power_cut_is_in_the_sum(running: Deployment, tmp_path: Path) -> None:
    plan = replace(
        small_plan(TASK, members=2, stop=Stop(rounds=1), dropout_share=0.0),
        training=Training(method="fedsgd"),
        update=Update(max_l2_norm=500.0, lane_bits=32),
        server=Server(combine="sum", learning_rate=RATE),
    )
    running.create_task(plan, 6)
    folders = [StateFolder(tmp_path / str(number) / "state") for number in range(2)]
    points = []
    for number, code in enumerate(running.codes(TASK, 2)):
        examples = tmp_path / str(number) / "examples"
        points.append(write_points(examples, number))
        enrol(
            code.to_text(),
            folders[number],
            examples,
            floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
            name="",
            clock=SystemClock(),
            random_bytes=np.random.default_rng(number).bytes,
            jitter=lambda: 0.5,
        )
    states: list[str] = []

    def on_state(state: str, _round: int) -> None:
        states.append(state)
        if states == [State.TRAINING, State.TRAINED]:
            raise Killed

    with pytest.raises(Killed), open_agent(folders[0], log=_ignore, on_state=on_state) as agent:
        agent.once()
    assert status(folders[0])["waiting"]["version"] == 0
    assert ledger(folders[0])["contributions"][0]["cohort"] == ""

    def work() -> None:
        with open_agent(folders[1], log=_ignore) as agent:
            work_on(agent)

    other = threading.Thread(target=work)
    other.start()
    with open_agent(folders[0], log=_ignore, on_state=on_state) as agent:
        work_on(agent)
    other.join(120)
    assert not other.is_alive()
    assert states.count(State.TRAINING) == 1
    for folder in folders:
        (row,) = ledger(folder)["contributions"]
        assert (row["state"], row["reason"]) == ("counted", "")
    assert status(folders[0])["waiting"] is None
    # From zero, the gradient of the summed squared distances is minus twice the sum of all points.
    step = 2 * np.concatenate(points).astype(float).sum(axis=0)
    np.testing.assert_allclose(published(running, TASK)[1], RATE * step, atol=1e-5)


def _ignore(_line: str) -> None:
    """Drop a log line."""

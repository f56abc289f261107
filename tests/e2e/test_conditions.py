"""A real agent process on a machine that gets hot in the middle of a training, and its owner's pause."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edge_client.agent import open_agent
from edge_client.cli import main
from edge_client.enrolment import enrol
from edge_client.report import ledger, status
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder
from shared.clock import SystemClock
from shared.plan import Stop
from shared.secagg.floors import DeviceFloors
from tests.cloud_server.local import small_plan
from tests.e2e.servers import Deployment, wait_for
from tests.edge_client.devices import work_on, write_points
from tests.edge_client.machines import PI, heat, write_machine

FOLLOWS_WITHIN_S: Final = 5.0
# It becomes hot once the agent is in the state that the test names; what the files then say is the test's.
AGENT: Final = """
import sys
from pathlib import Path
from edge_client.agent import open_agent
from edge_client.commands import conditions_of
from edge_client.state_folder import StateFolder
from edge_client.turns import take_turns
from shared.clock import SystemClock
from tests.edge_client.machines import heat

folder, root = StateFolder(Path(sys.argv[1])), Path(sys.argv[2])

def say(line):
    print(line, flush=True)

def on_state(state, _round):
    if state == "training" and sys.argv[3] == "hot":
        heat(root, 80)

conditions = conditions_of(folder, None, say, root)
with open_agent(folder, log=say, on_state=on_state, conditions=conditions) as agent:
    take_turns([agent], SystemClock(), say, exit_when_done=True)
"""


class Pair:
    """A device on a Pi that the test heats, and another one that its cohort needs."""

    def __init__(self, running: Deployment, folder: Path, task: str) -> None:
        self.root = write_machine(folder / "root", PI)
        self.plan = small_plan(task, members=2, stop=Stop(rounds=1), dropout_share=0.0)
        running.create_task(self.plan, 6)
        self.folders = [StateFolder(folder / str(number) / "state") for number in range(2)]
        for number, code in enumerate(running.codes(task, 2)):
            examples = folder / str(number) / "examples"
            write_points(examples, number)
            enrol(
                code.to_text(),
                self.folders[number],
                examples,
                floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
                name="",
                clock=SystemClock(),
                random_bytes=np.random.default_rng(number).bytes,
                jitter=lambda: 0.5,
            )
        SettingsFile(self.hot.settings_file).change("train.temperature_below_c", "70")
        self.log = folder / "log"

    @property
    def hot(self) -> StateFolder:
        return self.folders[0]

    @contextmanager
    def agent(self, weather: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", AGENT, str(self.hot.path), str(self.root), weather]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def bring_the_other(self) -> threading.Thread:
        def work() -> None:
            with open_agent(self.folders[1], log=lambda _line: None) as agent:
                work_on(agent)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def is_paused(self) -> bool:
        told = status(self.hot)
        condition = told["condition"] or {"code": ""}
        return bool(told["running"] and condition["code"] == "too-hot" and told["last"]["state"] == "training")

    def ends(self) -> list[tuple[str, str]]:
        return [(row["state"], row["reason"]) for row in ledger(self.hot)["contributions"]]


def test_a_training_pauses_in_the_heat_and_is_counted_when_it_is_over(running: Deployment, tmp_path: Path) -> None:
    pair = Pair(running, tmp_path, "heat")
    other = pair.bring_the_other()
    with pair.agent("hot") as process:
        wait_for(pair.is_paused, "the training to pause")
        assert "80 °C" in status(pair.hot)["why_not_training"]
        time.sleep(2.0)
        assert pair.is_paused(), "it stays hot"
        heat(pair.root, 60)
        wait_for(lambda: pair.ends() == [("counted", "")], "the contribution to be counted")
        assert process.wait(60) == 0, pair.log.read_text()
    other.join(60)
    assert not other.is_alive()
    assert "the work pauses: it is 80 °C hot, and must be below 70 °C" in pair.log.read_text()


def test_killed_while_paused_it_trains_again(running: Deployment, tmp_path: Path) -> None:
    pair = Pair(running, tmp_path, "killed-while-paused")
    other = pair.bring_the_other()
    with pair.agent("hot") as process:
        wait_for(pair.is_paused, "the training to pause")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert status(pair.hot)["running"] is False
    with pair.agent("mild") as process:
        wait_for(lambda: pair.ends() == [("abandoned", "process-ended")], "what was begun to be closed")
        time.sleep(2.0)
        assert (status(pair.hot)["condition"] or {}).get("code") == "too-hot"
        assert len(pair.ends()) == 1, "it is hot still"
        heat(pair.root, 60)
        wait_for(lambda: pair.ends()[-1] == ("counted", ""), "the contribution to be counted")
        assert process.wait(60) == 0, pair.log.read_text()
    other.join(60)
    assert pair.ends() == [("abandoned", "process-ended"), ("counted", "")]


def test_a_pause_is_followed_and_lifted_while_the_agent_runs(
    running: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair(running, tmp_path, "paused")
    words = ["--state", str(pair.hot.path)]
    assert main(["pause", *words]) == 0
    with pair.agent("mild") as process:
        wait_for(lambda: status(pair.hot)["running"], "the agent to run")
        other = pair.bring_the_other()
        time.sleep(FOLLOWS_WITHIN_S)
        assert pair.ends() == []
        capsys.readouterr()
        assert main(["status", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["condition"]["code"] == "paused"
        assert main(["pause", "--off", *words]) == 0
        wait_for(lambda: pair.ends() == [("counted", "")], "the contribution to be counted")
        assert process.wait(60) == 0, pair.log.read_text()
    other.join(60)
    assert not other.is_alive()


def test_a_day_with_too_few_megabytes_is_kept(running: Deployment, tmp_path: Path) -> None:
    pair = Pair(running, tmp_path, "megabytes")
    SettingsFile(pair.hot.settings_file).change("limits.download_and_upload_megabytes_per_day", "0.1")
    with pair.agent("mild"):
        wait_for(lambda: (status(pair.hot)["condition"] or {}).get("code") == "megabytes-used", "the day to be over")
    moved = sum(ledger(pair.hot)["totals"].values())
    assert status(pair.hot)["used_today"]["transferred_bytes"] <= 100_000
    assert moved <= 100_000
    assert all(state == "abandoned" for state, _ in pair.ends())

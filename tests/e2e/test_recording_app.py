"""An application records examples and uses the model while the agent trains: the program of the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edge_client.examples import ExampleStore, read_examples
from edge_client.examples.declaration import RECORDED_FILE
from shared.bundle import Bundle
from shared.plan import Cohort, Deadlines, Plan, Stop, Training, Update
from tests.e2e.servers import Deployment, wait_for

pytestmark = pytest.mark.xdist_group("personal-model")
PROGRAM: Final = Path(__file__).parents[2] / "docs" / "examples" / "record_and_predict.py"
LONGEST_LINES: Final = 30
HOUR_S: Final = 3600.0
NOW_S: Final = 1_800_000_000.0
PLAN: Final = Plan(
    "recorded",
    training=Training(epochs=1, learning_rate=0.05),
    update=Update(max_l2_norm=10.0, statistics_max_l2_norm=40.0),
    cohort=Cohort(min_survivors=2, largest=2, corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
    stop=Stop(rounds=3),
)


@contextmanager
def process(log: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        started = subprocess.Popen([sys.executable, *words], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(60)


def test_the_example_is_short() -> None:
    assert len(PROGRAM.read_text("utf-8").splitlines()) <= LONGEST_LINES


def test_an_application_records_and_predicts_while_the_agent_trains(
    running: Deployment, personal_bundle: Bundle, tmp_path: Path
) -> None:
    running.create_task_of(personal_bundle, PLAN)
    random = np.random.default_rng(1)
    width = personal_bundle.manifest.inputs[0].shape[1]
    with ExitStack() as stack:
        apps, agents = [], []
        for number, code in enumerate(running.codes(PLAN.task, 2)):
            folder = tmp_path / str(number)
            folder.mkdir()
            x = random.normal(number, 1.0, (40, width)).astype(np.float32)
            np.savez(folder / "sensor.npz", x=x, y=random.integers(0, 3, len(x)))
            words = (folder / "examples", folder / "state", folder / "sensor.npz")
            apps.append(stack.enter_context(process(folder / "app.log", PROGRAM, *words)))
            wait_for((folder / "examples" / RECORDED_FILE).exists, "the application's first example")
            agent = ("-m", "edge_client")
            enrolling: list[str | Path] = [*agent, "enroll", code.to_text(), "--state", folder / "state"]
            enrolling += ["--examples", folder / "examples", "--allow-cohorts-of", "2", "--min-corrupt-share", "0"]
            subprocess.run([sys.executable, *enrolling], check=True, capture_output=True, timeout=120)
            run = (*agent, "run", "--state", folder / "state", "--exit-when-done")
            agents.append(stack.enter_context(process(folder / "agent.log", *run)))
        for agent_process in agents:
            assert agent_process.wait(200) == 0
        assert all(app.poll() is None for app in apps)
        for number in range(2):
            log = tmp_path / str(number) / "app.log"
            wait_for(lambda log=log: f"version {PLAN.stop.rounds} says" in log.read_text("utf-8"), "the last version")  # type: ignore[misc]
    for number in range(2):
        folder = tmp_path / str(number)
        said = (folder / "app.log").read_text("utf-8")
        assert "no model yet" in said
        assert len(set(re.findall(r"version (\d+) says [012], it was [012]", said))) > 1
        trained = re.findall(r"trained on (\d+) examples", (folder / "agent.log").read_text("utf-8"))
        assert len(trained) == PLAN.stop.rounds
        assert int(trained[-1]) > int(trained[0])  # what came meanwhile
        train, held_out = read_examples(folder / "examples", NOW_S)
        with ExampleStore(folder / "examples") as store:
            assert len(train) + len(held_out) == len(store)
    assert running.rows("SELECT state FROM task WHERE name = ?", PLAN.task) == [("done",)]

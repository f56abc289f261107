"""A cohort that adds noise, ChaCha20 masks and a drop-out, against the server's own processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from shared.numeric.noisy_encoding import NoisyEncoding
from shared.plan import Cohort, Deadlines, Plan, Privacy, Server, Stop, Update
from shared.privacy.charges import epsilon_of, loss_of
from tests.cloud_server.members import one_hot
from tests.e2e.servers import deployment, run_steps, wait_for

MEMBERS: Final = 5
DIMENSION: Final = 100
HOUR_S: Final = 3600.0  # no deadline passes by itself
PLAN: Final = Plan(
    "noisy",
    update=Update(max_l2_norm=1.0, lane_bits=32),
    cohort=Cohort(2, MEMBERS, 0.0, 0.4, cipher="chacha20"),
    deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
    server=Server(combine="sum"),
    stop=Stop(rounds=5),
    privacy=Privacy("skellam", noise_multiplier=1.0, delta=1e-6, max_participations=10, max_epsilon=6.0),
)


def budget_of(data: Path) -> dict[str, object]:
    words = ["privacy", "show", PLAN.task, "--data", str(data), "--json"]
    shown = subprocess.run(
        [sys.executable, "-m", "cloud_server", *words], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, object] = json.loads(shown)
    return found


def test_one_noisy_round_is_published_charged_and_the_last_that_the_budget_allows(tmp_path: Path) -> None:
    with deployment(tmp_path) as running:
        running.create_task(PLAN, DIMENSION)
        members = running.enrol(PLAN, MEMBERS)
        model = members[0].release(0).model_sha256
        for member in members:
            member.values = one_hot(member.number, DIMENSION)
            member.meet(model)
        run_steps(members, ["join", "share"])
        present = members[:-1]
        run_steps(present, ["upload"])
        running.let_deadline_pass(members[0].cohort, "collecting")
        run_steps(present, ["agree", "answer"])
        assert all(member.counted() for member in present)
        theta = load(members[0].weights(1))["theta"]
        wait_for(lambda: running.rows("SELECT state FROM task") == [("done",)], "the budget to be noticed")
        ((reason,),) = running.rows("SELECT reason FROM task")
        budget = budget_of(running.data)
    encoding = PLAN.encoding(MEMBERS, DIMENSION, 0)
    assert isinstance(encoding, NoisyEncoding)
    noise = theta - sum(member.values for member in present)
    promised = np.sqrt(encoding.noise.device_variance * len(present)) * encoding.noise.grids[0].step
    assert float(noise.std()) == pytest.approx(promised, rel=0.5)  # 100 numbers, seven deviations
    assert str(reason).startswith("the privacy budget is spent")
    assert budget["cohorts_charged"] == 1
    assert budget["epsilon"] == pytest.approx(epsilon_of([loss_of(PLAN, encoding)], 1e-6))

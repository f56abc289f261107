"""The textbook problem on the running system: five devices, loss sum of (theta - x_i)^2, full gradient steps.

Agents enrol, train, mask and upload as they do in the field; the published model follows the closed form, within
what the quantizer's grid allows: every round adds at most ``survivors * step * alpha`` per coordinate to the error.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load

from cloud_server.storage.blobs import FolderBlobs
from edge_client.agent import open_agent
from edge_client.enrolment import enrol
from edge_client.identity import load_enrolment
from edge_client.journal import Journal, State
from edge_client.state_folder import StateFolder
from shared.clock import SystemClock
from shared.errors import FedloomError
from shared.numeric.contribution_vector import Evaluation
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from shared.release import WEIGHTS_FILE
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import decode
from tests.cloud_server.members import STEPS, one_hot
from tests.e2e.servers import Deployment, run_steps
from tests.edge_client.devices import work_on

DIMENSION: Final = 10
DEVICES: Final = 5
ROUNDS: Final = 10
CLIP: Final = 100.0
HOUR_S: Final = 3600.0
F32_ROUNDING: Final = 2.0**-22  # of values below 4: the master and the gradients are f32
Array = npt.NDArray[np.float64]


@dataclass
class Textbook:
    """The devices of one task.

    Attributes:
        points: every device's examples, f32[count, d].
        plan: of the task.
        folder: where the devices live.
        errors: what agents ended with, by device number.
        logs: what they said.
    """

    points: Sequence[npt.NDArray[np.float32]]
    plan: Plan
    folder: Path
    errors: dict[int, FedloomError] = field(default_factory=dict)
    logs: list[str] = field(default_factory=list)

    def enrol(self, running: Deployment) -> None:
        """Make the task and enrol the devices on it."""
        running.create_task(self.plan, DIMENSION)
        for number, code in enumerate(running.codes(self.plan.task, len(self.points))):
            examples = self.folder / f"examples-{number}"
            examples.mkdir()
            x = self.points[number]
            np.savez(examples / "examples.npz", x=x, y=np.zeros(len(x), np.int32))
            enrol(
                code.to_text(),
                self.state(number),
                examples,
                floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
                name="",
                clock=SystemClock(),
                random_bytes=np.random.default_rng(number).bytes,
                jitter=lambda: 0.5,
            )

    def state(self, number: int) -> StateFolder:
        """Return where a device keeps its state."""
        return StateFolder(self.folder / f"state-{number}")

    def run(self) -> None:
        """Let every agent work until the task is done."""

        def work(number: int) -> None:
            try:
                with open_agent(self.state(number), log=self.logs.append) as agent:
                    work_on(agent)
            except FedloomError as error:
                self.errors[number] = error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(self.points))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert not any(thread.is_alive() for thread in threads), self.logs[-20:]


def textbook_plan(
    task: str, alpha: float, *, combine: str = "sum", rounds: int = ROUNDS, max_weight: int = 1, lane_bits: int = 32
) -> Plan:
    assert combine in {"sum", "mean"}
    return Plan(
        task,
        training=Training(method="fedsgd"),
        update=Update(max_l2_norm=CLIP, max_weight=max_weight, lane_bits=lane_bits),
        cohort=Cohort(min_survivors=DEVICES, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum" if combine == "sum" else "mean", learning_rate=alpha),
        stop=Stop(rounds=rounds),
    )


def one_point_each(seed: int = 1) -> list[npt.NDArray[np.float32]]:
    return list(np.random.default_rng(seed).uniform(-1, 1, (DEVICES, 1, DIMENSION)).astype(np.float32))


def published(running: Deployment, task: str) -> list[Array]:
    """Return the weights of every version, as devices download them, which are the master's for a vector."""
    blobs = FolderBlobs(running.data / "blobs")
    rows = running.rows("SELECT release FROM version WHERE task = ? ORDER BY number", task)
    files = [decode(row[0])["files"] for row in rows]
    digests = [entry[WEIGHTS_FILE]["sha256"] for entry in files]  # type: ignore[index,call-overload]
    return [load(blobs.get(str(digest)))["theta"].astype(np.float64) for digest in digests]


def assert_follows(versions: Sequence[Array], minimum: Array, factor: float, added_per_round: float) -> None:
    """Assert theta_k = m + factor^k (theta_0 - m), within the error that rounds add and that steps shrink."""
    bound = 0.0
    for number, theta in enumerate(versions):
        expected = minimum + factor**number * (versions[0] - minimum)
        assert np.abs(theta - expected).max() <= bound + 1e-12, f"version {number}"
        bound = abs(factor) * bound + added_per_round + F32_ROUNDING


@pytest.mark.parametrize(("alpha", "lane_bits"), [(0.1, 32), (0.05, 32), (0.05, 16)])
def test_ten_steps_on_the_sum_follow_the_closed_form(
    running: Deployment, tmp_path: Path, alpha: float, lane_bits: int
) -> None:
    plan = textbook_plan(f"sum-{round(100 * alpha)}-{lane_bits}", alpha, lane_bits=lane_bits)
    book = Textbook(one_point_each(), plan, tmp_path)
    book.enrol(running)
    book.run()
    versions = published(running, plan.task)
    assert len(versions) == ROUNDS + 1
    minimum = np.mean([x.astype(float)[0] for x in book.points], axis=0)
    added = DEVICES * plan.grid(DEVICES).step * alpha
    assert_follows(versions, minimum, 1 - 2 * alpha * DEVICES, added)
    if alpha == 0.1:  # 2 * 0.1 * 5 = 1: the first step already lands on the minimum
        np.testing.assert_allclose(versions[1], minimum, rtol=0, atol=added + F32_ROUNDING)
    reason = running.rows("SELECT state, reason FROM task WHERE name = ?", plan.task)[0]
    assert reason == ("done", f"{ROUNDS} rounds were planned")
    for number in range(DEVICES):
        assert StateFolder(book.state(number).path).current.readlink().name == str(ROUNDS)


@pytest.mark.parametrize("max_weight", [1, 4])
def test_the_mean_weighs_devices_by_their_examples_up_to_the_bound(
    running: Deployment, tmp_path: Path, max_weight: int
) -> None:
    counts = [1, 2, 3, 4, 9]
    random = np.random.default_rng(7)
    points = [random.uniform(-1, 1, (count, DIMENSION)).astype(np.float32) for count in counts]
    alpha, rounds = 0.2, 4
    plan = textbook_plan(f"mean-{max_weight}", alpha, combine="mean", rounds=rounds, max_weight=max_weight)
    book = Textbook(points, plan, tmp_path)
    book.enrol(running)
    book.run()
    weights = np.minimum(counts, max_weight)
    means = np.array([x.astype(float).mean(axis=0) for x in points])
    minimum = (weights[:, None] * means).sum(axis=0) / weights.sum()
    added = DEVICES * plan.grid(DEVICES).step * alpha * max_weight / weights.sum()
    assert_follows(published(running, plan.task), minimum, 1 - 2 * alpha, float(added))
    results = [decode(row[0]) for row in running.rows("SELECT result FROM round WHERE task = ?", plan.task)]
    assert [result["weight_sum"] for result in results] == [int(weights.sum())] * rounds


def test_a_device_with_nan_sends_nothing_and_the_round_goes_on_without_it(running: Deployment, tmp_path: Path) -> None:
    points = one_point_each(3)
    points[2] = points[2].copy()
    points[2][0, 4] = np.nan
    plan = Plan(
        "nan",
        training=Training(method="fedsgd"),
        update=Update(max_l2_norm=CLIP, lane_bits=32),
        cohort=Cohort(min_survivors=DEVICES - 1, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
        deadlines=Deadlines(3.0, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum", learning_rate=0.05),
        stop=Stop(rounds=1),
    )
    book = Textbook(points, plan, tmp_path)
    book.enrol(running)
    book.run()
    healthy = [x.astype(float)[0] for number, x in enumerate(points) if number != 2]
    expected = 0.1 * np.sum(healthy, axis=0)
    bound = len(healthy) * plan.grid(len(healthy)).step * 0.05 + F32_ROUNDING
    np.testing.assert_allclose(published(running, "nan")[1], expected, rtol=0, atol=bound)
    journal = Journal(book.state(2).journal_file, load_enrolment(book.state(2)).journal_id)
    rows = journal.contributions()
    journal.close()
    assert rows
    assert {(row.state, row.reason, row.vector_sent, row.cohort) for row in rows} == {
        (State.ABANDONED, "examples-values", False, "")
    }
    result = decode(running.rows("SELECT result FROM round WHERE task = 'nan' AND phase = 'closed'")[0][0])
    assert (result["participants"], result["survivors"]) == (4, 4)


def run_members(running: Deployment, plan: Plan, evaluation: Evaluation, rounds: int) -> None:
    """Run rounds with devices that report ``evaluation``."""
    running.create_task(plan, DIMENSION)
    members = running.enrol(plan, DEVICES)
    for version in range(rounds):
        model = members[0].release(version).model_sha256
        for member in members:
            member.values, member.evaluation = one_hot(member.number, DIMENSION), evaluation
            member.meet(model, version)
        run_steps(members, STEPS)
        assert all(member.counted() for member in members)


def test_a_task_stops_when_the_target_accuracy_is_reached(running: Deployment) -> None:
    plan = Plan(
        "target",
        update=Update(max_l2_norm=1.0),
        cohort=Cohort(min_survivors=DEVICES, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
        stop=Stop(rounds=50, target_accuracy=0.75),
    )
    run_members(running, plan, Evaluation(1.0, 3, 4), 1)
    assert running.rows("SELECT state, reason FROM task WHERE name = 'target'") == [
        ("done", "the target accuracy of 0.75 was reached")
    ]


def test_a_task_goes_on_below_the_target_accuracy_and_stops_on_time(running: Deployment) -> None:
    plan = Plan(
        "time",
        update=Update(max_l2_norm=1.0),
        cohort=Cohort(min_survivors=DEVICES, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
        stop=Stop(after_s=HOUR_S, target_accuracy=0.75),
    )
    run_members(running, plan, Evaluation(1.0, 2, 4), 2)
    assert running.rows("SELECT state FROM task WHERE name = 'time'") == [("active",)]
    running.change("UPDATE round SET opened_s = opened_s - 3600 WHERE task = 'time' AND number = 1")
    members = running.enrol(plan, DEVICES)
    model = members[0].release(2).model_sha256
    for member in members:
        member.values = one_hot(member.number, DIMENSION)
        member.meet(model, 2)
    run_steps(members, STEPS)
    assert all(member.counted() for member in members)
    assert running.rows("SELECT state, reason FROM task WHERE name = 'time'") == [("done", "3600 s were planned")]

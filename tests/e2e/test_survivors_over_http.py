"""Every subset of five devices vanishes at every step: the sum is exact or there is none, with the reason named.

Device i contributes coordinate i alone, so the published model says how often each one was counted.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from edge_client.problems import CohortOver
from shared.errors import FedloomError
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Update
from shared.secagg.parameters import thresholds
from shared.wire.requests import OCTETS
from tests.cloud_server.members import STEPS, Member, one_hot
from tests.e2e.servers import Deployment, run_steps
from tests.shared.refusals import refused

MEMBERS: Final = 5
THREADS: Final = 6
HOUR_S: Final = 3600.0  # no deadline passes by itself
SUBSETS: Final = tuple(chain.from_iterable(combinations(range(MEMBERS), size) for size in range(MEMBERS + 1)))
# What is missing from the devices that vanish, the phase that waits for it, and how a cohort without enough ends.
MISSING: Final = {
    "share": ("sharing", "too-few-shares"),
    "upload": ("collecting", "too-few-survivors"),
    "agree": ("agreeing", "no-agreement"),
    "answer": ("unmasking", "too-few-answers"),
}


def one_hot_plan(task: str, dropout_share: float) -> Plan:
    return Plan(
        task,
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=MEMBERS, corrupt_share=0.0, dropout_share=dropout_share),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


def needed(plan: Plan, step: str) -> int:
    """Return how many devices have to do ``step``."""
    limits = thresholds(MEMBERS, plan.rules)
    if step in {"share", "upload"}:
        return max(limits.threshold, limits.survivors)
    return limits.quorum if step == "agree" else limits.threshold


def check_pattern(running: Deployment, step: str, gone: tuple[int, ...], dropout_share: float = 0.4) -> None:
    """Run a cohort whose devices ``gone`` do everything before ``step`` and nothing from then on."""
    name = f"{step}-{''.join(map(str, gone)) or 'nobody'}-{int(100 * dropout_share)}"
    plan = one_hot_plan(name, dropout_share)
    running.create_task(plan, MEMBERS)
    members = running.enrol(plan, MEMBERS)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    before, rest = STEPS[: STEPS.index(step)], STEPS[STEPS.index(step) :]
    for earlier in before:
        for member in members:
            member.do(earlier)
    cohort = members[0].cohort
    present = [member for member in members if member.number not in gone]
    phase, failure = MISSING[step]
    run_steps(present, [step])
    if len(present) < needed(plan, step):
        running.let_deadline_pass(cohort, phase)
        check_failed(running, members, failure)
    else:
        if gone and step in {"share", "upload"}:
            running.let_deadline_pass(cohort, phase)
        for later in rest[1:]:
            run_steps(present, [later])
        counted = present if step in {"share", "upload"} else members
        check_published(running, present, counted)
    running.retire(name)


def check_failed(running: Deployment, members: list[Member], failure: str) -> None:
    cohort = members[0].cohort
    running.wait_for_phase(cohort, "failed")
    assert running.failure(cohort) == failure
    for member in members:
        with refused(failure, CohortOver):
            member.counted()
    with refused("version-unknown"):
        members[0].release(1)
    assert not list((running.data / "uploads").glob(f"{cohort}/*"))


def check_published(running: Deployment, present: list[Member], counted: list[Member]) -> None:
    for member in present:
        assert member.counted()
    assert running.phase(present[0].cohort) == "summed"
    theta = load(present[0].weights(1))["theta"]
    expected = sum((member.values for member in counted), np.zeros(MEMBERS, np.float32))
    step = present[0].plan.grid(MEMBERS).step
    np.testing.assert_allclose(theta, expected, rtol=0, atol=len(counted) * step)
    with refused("version-unknown"):
        present[0].release(2)


def run_all(checks: list[Callable[[], None]]) -> None:
    """Run checks on a few threads, and report every failure."""
    with ThreadPoolExecutor(THREADS) as pool:
        results = [pool.submit(check) for check in checks]
    errors = [result.exception() for result in results]
    for error in errors:
        if error is not None:
            raise error


@pytest.mark.parametrize("step", MISSING)
def test_any_devices_vanish_before(step: str, running: Deployment) -> None:
    subsets = SUBSETS if step == "share" else SUBSETS[1:]  # nobody vanishes: once is enough
    run_all([lambda gone=gone: check_pattern(running, step, gone) for gone in subsets])  # type: ignore[misc]


@pytest.mark.parametrize("step", ["share", "upload"])
def test_more_than_the_planned_share_vanishes_although_the_threshold_is_met(step: str, running: Deployment) -> None:
    limits = thresholds(MEMBERS, one_hot_plan("x", 0.2).rules)
    assert limits.threshold == 3
    assert limits.survivors == 4
    run_all([lambda gone=gone: check_pattern(running, step, gone, 0.2) for gone in ((0,), (0, 1))])  # type: ignore[misc]


def test_a_device_that_missed_its_phase_is_told_so(running: Deployment) -> None:
    plan = one_hot_plan("late", 0.4)
    running.create_task(plan, MEMBERS)
    members = running.enrol(plan, MEMBERS)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    for step in ("join", "share"):
        for member in members:
            member.do(step)
    late = members.pop()
    route, body = late.prepare("upload")
    for member in members:
        member.do("upload")
    running.let_deadline_pass(late.cohort, "collecting")
    running.wait_for_phase(late.cohort, "agreeing")
    with refused("phase-over", FedloomError):
        late.transport.send("PUT", late.target(route), body, content_type=OCTETS)
    for step in ("agree", "answer"):
        for member in members:
            member.do(step)
    check_published(running, members, members)
    assert not late.counted()
    running.retire("late")

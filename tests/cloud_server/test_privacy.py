"""The task's budget: charged when survivors are frozen, never refunded, never exceeded."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from dp_accounting import rdp
from safetensors.numpy import load

from cloud_server.aggregation.central_noise import gaussian, with_central_noise
from cloud_server.api.operator import METRICS
from cloud_server.privacy import privacy_report, spent_reason
from cloud_server.tasks import create_task, load_task, prepare_task
from shared.bundle import TensorSpec
from shared.layout import Layout
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.plan import Cohort, Plan, Privacy, Server, Stop, Update
from shared.privacy.charges import loss_of
from shared.privacy.rdp import ORDERS, composed
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS
from tests.e2e.servers import quadratic_bundle
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

NOISE: Final = Privacy("skellam", noise_multiplier=1.0, delta=1e-5, max_participations=1000, max_epsilon=8.5)
DIMENSION: Final = 8
LAYOUT: Final = Layout.of([TensorSpec("theta", (DIMENSION,), 0, DIMENSION, "shared")])


def noisy_plan(privacy: Privacy = NOISE, rounds: int = 0) -> Plan:
    return replace(small_plan("point", stop=Stop(rounds=rounds)), privacy=privacy, server=Server("mean", 1.0))


def run_round(local: Local, plan: Plan, version: int) -> None:
    members = local.enrol(plan, 4)
    local.meet(members, version)
    for step in STEPS:
        local.do(members, step)


def epsilon_spent(local: Local) -> float:
    with local.parts.database.read() as connection:
        found = privacy_report(connection, load_task(connection, "point").plan)["epsilon"]
    assert isinstance(found, float)
    return found


def epsilon_in_metrics(local: Local) -> float:
    text = local.app.test_client().get(METRICS).get_data(as_text=True)
    return float(text.partition('fedloom_privacy_epsilon{task="point"} ')[2].partition("\n")[0])


def expected_epsilon(plan: Plan, times: int) -> float:
    loss = loss_of(plan, plan.encoding(4, DIMENSION, 0))
    return float(rdp.compute_epsilon(list(ORDERS), list(composed([loss] * times)), plan.privacy.delta)[0])


def test_rounds_are_charged_until_one_more_would_exceed_the_budget(local: Local) -> None:
    plan = noisy_plan()
    local.create(plan)
    assert epsilon_in_metrics(local) == 0
    for version in range(2):
        run_round(local, plan, version)
        assert epsilon_in_metrics(local) == epsilon_spent(local)
        assert epsilon_spent(local) == pytest.approx(expected_epsilon(plan, version + 1))
    local.settle()
    assert expected_epsilon(plan, 2) <= 8.5 < expected_epsilon(plan, 3)
    ((state, reason),) = local.rows("SELECT state, reason FROM task")
    assert state == "done"
    assert reason.startswith("the privacy budget is spent: one more cohort would make epsilon")
    assert local.rows("SELECT count(*) FROM version") == [(3,)]
    assert local.rows("SELECT phase FROM round ORDER BY number") == [("closed",), ("closed",)]


def test_noise_is_in_the_published_weights(local: Local) -> None:
    """Four devices each move one coordinate; without noise the others would be exactly 0."""
    plan = noisy_plan(rounds=1)
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in STEPS:
        local.do(members, step)
    assert np.count_nonzero(load(members[0].weights(1))["theta"]) == DIMENSION


@pytest.mark.parametrize("missing", [None, "agree", "answer"])
def test_a_cohort_is_charged_once_it_is_frozen_whatever_becomes_of_it(local: Local, missing: str | None) -> None:
    plan = noisy_plan()
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in STEPS:
        if step == missing:
            local.clock.time_s += HOUR_S + 1
            local.settle()
            break
        local.do(members, step)
    assert local.rows("SELECT members, survivors FROM privacy_event") == [(4, 4)]
    assert local.rows("SELECT count(*) FROM cohort WHERE phase = 'failed'") == [(1 if missing else 0,)]
    assert epsilon_spent(local) == pytest.approx(expected_epsilon(plan, 1))


@pytest.mark.parametrize("missing", ["share", "upload"])
def test_a_cohort_that_never_froze_costs_nothing(local: Local, missing: str) -> None:
    plan = noisy_plan()
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in STEPS[: STEPS.index(missing)]:
        local.do(members, step)
    local.clock.time_s += HOUR_S + 1
    local.settle()
    assert local.rows("SELECT count(*) FROM cohort WHERE phase = 'failed'") == [(1,)]
    assert local.rows("SELECT * FROM privacy_event") == []
    assert epsilon_spent(local) == 0


def test_a_killed_driver_neither_forgets_nor_doubles_a_charge(local: Local) -> None:
    plan = noisy_plan()
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in STEPS:
        local.do(members, step)
        local.kill_driver()
        local.settle()
    assert local.rows("SELECT count(*) FROM privacy_event") == [(1,)]


def test_a_round_is_abandoned_when_its_second_cohort_would_exceed_the_budget(local: Local) -> None:
    plan = noisy_plan(replace(NOISE, max_epsilon=6.0))
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in ("join", "share", "upload"):
        local.do(members, step)
    local.clock.time_s += HOUR_S + 1
    local.settle()
    assert local.rows("SELECT state FROM task") == [("done",)]
    assert local.rows("SELECT phase FROM round") == [("abandoned",)]
    assert local.rows("SELECT count(*) FROM cohort") == [(1,)]


def test_a_device_that_stops_itself_leaves_the_budget_at_what_it_can_have_spent(local: Local) -> None:
    plan = noisy_plan(replace(NOISE, max_participations=1))
    local.create(plan)
    for version in range(3):
        run_round(local, plan, version)
    assert epsilon_spent(local) == pytest.approx(expected_epsilon(plan, 1))
    with local.parts.database.read() as connection:
        assert spent_reason(connection, plan, LAYOUT) == ""


def test_plans_that_can_never_run_are_refused_when_the_task_is_made(local: Local) -> None:
    wide = Cohort(min_survivors=2, largest=64, corrupt_share=0.0, dropout_share=0.25)
    cases = {
        "privacy-budget-small": noisy_plan(replace(NOISE, max_epsilon=1.0)),
        "grid-too-coarse": replace(
            noisy_plan(replace(NOISE, noise_multiplier=300.0)), update=Update(lane_bits=16), cohort=wide
        ),
    }
    for code, plan in cases.items():
        with local.parts.database.write() as connection, refused(code):
            create_task(
                connection, prepare_task(local.parts.blobs, quadratic_bundle(8), plan, local.release_key, 0.0), 0.0
            )


def test_central_noise_has_the_deviation_that_its_multiplier_says() -> None:
    plan = replace(
        noisy_plan(Privacy("central-gaussian", 1.5, 1e-5, 10, 50.0)), update=Update(max_l2_norm=2.0, lane_bits=32)
    )
    size = 50_000
    exact = AggregateSum(np.zeros(size), 4, 0, Evaluation(1.0, 1, 1), 4)
    noised = with_central_noise(exact, plan, 4, Randomness("central"))
    assert float(noised.values.std()) == pytest.approx(1.5 * 2.0, rel=0.02)
    both = with_central_noise(
        replace(exact, statistics=np.zeros(size)), plan, 4, Randomness("both")
    )  # the budget is shared
    assert float(both.values.std()) == pytest.approx(1.5 * 2.0 * np.sqrt(2), rel=0.02)
    assert float(both.statistics.std()) == pytest.approx(1.5 * 10.0 * np.sqrt(2), rel=0.02)
    assert noised.evaluation == exact.evaluation
    assert with_central_noise(exact, replace(plan, privacy=NOISE), 4, Randomness("none")) is exact


def test_the_extremes_of_the_source_give_finite_numbers_far_out() -> None:
    zeros = gaussian(2, bytes)
    ones = gaussian(2, lambda octets: b"\xff" * octets)
    assert np.all(np.isfinite(zeros))
    assert np.all(np.isfinite(ones))
    assert zeros[0] > 13


def test_gaussian_numbers_are_gaussian() -> None:
    numbers = np.sort(gaussian(100_000, Randomness("normal")))
    for deviations, share in ((-2.0, 0.02275), (-1.0, 0.15866), (0.0, 0.5), (1.0, 0.84134), (3.0, 0.99865)):
        assert np.searchsorted(numbers, deviations) / numbers.size == pytest.approx(share, abs=0.005)


def test_a_round_with_central_noise_is_charged_and_published_with_noise(local: Local) -> None:
    plan = noisy_plan(Privacy("central-gaussian", 1.0, 1e-5, 1000, 8.5))
    local.create(plan)
    members = local.enrol(plan, 4)
    local.meet(members)
    for step in STEPS:
        local.do(members, step)
    assert np.count_nonzero(load(members[0].weights(1))["theta"]) == DIMENSION
    assert local.rows("SELECT survivors FROM privacy_event") == [(4,)]


def test_a_task_without_noise_claims_no_epsilon(local: Local) -> None:
    local.create(small_plan("point"))
    with local.parts.database.read() as connection:
        found = privacy_report(connection, load_task(connection, "point").plan)
    assert (found["mechanism"], found["epsilon"], found["cohorts_charged"]) == ("none", None, 0)

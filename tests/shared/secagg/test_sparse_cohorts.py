"""Cohorts with a sparse graph: exact sums whoever vanishes, or no sum and a reason."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

import numpy as np
import pytest

from shared.errors import FedloomError, UnmaskingFailed
from shared.numeric.packing import pack, unpack_sum
from shared.numeric.quantization import Grid
from shared.secagg import recovery
from shared.secagg.graph import Graph
from shared.secagg.masking import add_into
from shared.secagg.parameters import CohortRules, thresholds
from shared.secagg.session import UnmaskAnswer
from tests.shared.cohort_simulation import STEPS, CohortSimulation
from tests.shared.refusals import refused

RULES = CohortRules(min_survivors=10, largest=400, corrupt_share=0.05, dropout_share=0.1)
pytestmark = pytest.mark.usefixtures("one_verification")


def graph_of(simulation: CohortSimulation) -> Graph:
    return simulation.roster.graph(simulation.thresholds.neighbours)


def run_with(simulation: CohortSimulation, vanishing: Mapping[int, str]) -> None:
    """Run all steps; each device in ``vanishing`` is gone before the step named there."""
    for step in STEPS:
        simulation.drop([device for device, last in vanishing.items() if last == step])
        simulation.run(step)


@pytest.mark.parametrize("devices", [65, 66, 97])
def test_everybody_is_counted_once(devices: int) -> None:
    simulation = CohortSimulation(devices, RULES)
    run_with(simulation, {})
    assert simulation.counted() == [1] * devices
    assert len(simulation.shares[0].boxes) == thresholds(devices, RULES).neighbours < devices - 1


@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("seed", [1, 2])
def test_as_many_as_planned_may_vanish_before_any_step(step: str, seed: int) -> None:
    gone = random.Random(seed).sample(range(90), 9)
    simulation = CohortSimulation(90, RULES, seed=seed)
    run_with(simulation, dict.fromkeys(gone, step))
    counted_despite = step in {"agree", "unmask"}  # its vector had arrived
    assert simulation.counted() == [int(device not in gone or counted_despite) for device in range(90)]


@pytest.mark.parametrize(
    ("devices", "delta", "lane_bits"), [(70, 0.3, 32), (110, 0.2, 16), (180, 0.1, 21), (300, 0.1, 21)]
)
def test_drop_outs_spread_over_all_steps(devices: int, delta: float, lane_bits: int) -> None:
    rules = dataclasses.replace(RULES, dropout_share=delta)
    source = random.Random(devices)
    gone = source.sample(range(devices), int(devices * delta))
    vanishing = {device: source.choice(STEPS[1:]) for device in gone}
    simulation = CohortSimulation(devices, rules, lane_bits=lane_bits)
    run_with(simulation, vanishing)
    never_masked = {device for device, step in vanishing.items() if step in {"share", "mask"}}
    assert not simulation.refusals
    total = simulation.total()
    assert np.rint(total.values).tolist() == [int(device not in never_masked) for device in range(devices)]
    assert total.survivors == devices - len(never_masked)


def test_more_than_planned_give_no_sum_whatever_the_step() -> None:
    for step in ("mask", "unmask"):
        simulation = CohortSimulation(70, RULES)
        run_with(simulation, dict.fromkeys(range(40), step))
        with pytest.raises(FedloomError):
            simulation.total()


def test_a_device_with_fewer_than_t_neighbours_left_reveals_nothing() -> None:
    simulation = CohortSimulation(100, RULES)
    simulation.run_to("join")
    limits, graph = simulation.thresholds, graph_of(simulation)
    victim = 17
    gone = graph.neighbours_of(victim)[: limits.neighbours - limits.threshold + 1]
    assert len(gone) == 11
    simulation.drop(gone)
    simulation.run("share")
    simulation.run("mask")
    assert simulation.refusals[victim].code == "too-few-shares"
    assert victim not in simulation.masked


def test_a_survivor_with_fewer_than_t_surviving_neighbours_does_not_agree() -> None:
    simulation = CohortSimulation(160, RULES)
    simulation.run_to("share")
    graph, limits = graph_of(simulation), simulation.thresholds
    victim = 3
    simulation.drop(graph.neighbours_of(victim)[: limits.neighbours - limits.threshold + 1])
    simulation.run("mask")
    assert len(simulation.masked) >= limits.survivors
    simulation.run("agree")
    assert simulation.refusals[victim].code == "too-few-survivors"


def finished(gone: set[int], devices: int = 80) -> CohortSimulation:
    """Return a finished cohort in which ``gone`` vanished after sharing."""
    simulation = CohortSimulation(devices, RULES)
    run_with(simulation, dict.fromkeys(gone, "mask"))
    return simulation


def leave_out(simulation: CohortSimulation, member: int, owner: int) -> None:
    """Take the share of ``owner``'s secret out of a member's answer."""
    halves = simulation.answers[member].self_mask, simulation.answers[member].mask_key
    kept = [{index: share for index, share in half.items() if index != owner} for half in halves]
    simulation.answers[member] = UnmaskAnswer(*kept)


@pytest.mark.parametrize("owner", [5, 40])
def test_t_answers_from_an_owners_neighbours_are_enough_and_one_fewer_gives_no_output(owner: int) -> None:
    simulation = finished({5, 60})
    limits, neighbours = simulation.thresholds, graph_of(simulation).neighbours_of(owner)
    answering = [member for member in neighbours if member in simulation.answers]
    assert len(answering) > limits.threshold
    for member in answering[limits.threshold :]:
        leave_out(simulation, member, owner)
    assert simulation.counted() == [int(device not in {5, 60}) for device in range(80)]
    leave_out(simulation, answering[0], owner)
    with refused("too-few-shares", UnmaskingFailed):
        simulation.total()


def test_shares_that_strangers_claim_to_hold_do_not_count() -> None:
    simulation = finished(set())
    owner = 8
    neighbours = graph_of(simulation).neighbours_of(owner)
    for stranger in set(range(80)) - {owner, *neighbours}:
        answer = simulation.answers[stranger]
        simulation.answers[stranger] = UnmaskAnswer({**answer.self_mask, owner: bytes(32)}, answer.mask_key)
    assert simulation.counted() == [1] * 80


def test_neighbours_that_answer_garbage_are_worked_around() -> None:
    simulation = finished({1})
    for liar in (2, 30):
        answer = simulation.answers[liar]
        garbage = dict.fromkeys(answer.self_mask, bytes(32)), dict.fromkeys(answer.mask_key, b"\x01" * 32)
        simulation.answers[liar] = UnmaskAnswer(*garbage)
    assert simulation.counted() == [int(device != 1) for device in range(80)]


def test_masks_are_recovered_alike_by_one_process_and_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = finished({1, 2, 3})
    alone = simulation.total(workers=1)
    monkeypatch.setattr(recovery, "MASK_BYTES_PER_WORKER", 1)
    together = simulation.total(workers=3)
    np.testing.assert_array_equal(alone.values, together.values)
    assert alone == dataclasses.replace(together, values=alone.values, statistics=alone.statistics)


def _die(*_: object) -> None:
    """What the operating system does to a process when memory runs out."""
    raise SystemExit(9)


def test_a_process_that_dies_is_named_and_gives_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = finished(set(), devices=66)
    monkeypatch.setattr(recovery, "MASK_BYTES_PER_WORKER", 1)
    monkeypatch.setattr(recovery, "_send_masks", _die)
    with refused("worker-died", FedloomError):
        simulation.total(workers=2)


@pytest.mark.parametrize("lane_bits", [16, 21, 32])
@pytest.mark.parametrize("sign", [-1, 1])
def test_two_thousand_members_at_full_scale_do_not_wrap_a_lane(lane_bits: int, sign: int) -> None:
    members = 2000
    grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=1.0)
    steps = np.array([sign, -sign, 0, sign, sign, -sign, 0], dtype=np.int64) * grid.levels
    one = pack([steps], levels=grid.levels, lane_bits=lane_bits)
    total = np.zeros_like(one)
    for _ in range(members):
        add_into(total, one)
    assert [int(word) for word in total] == [int(word) * members for word in one]  # as in numbers that never wrap
    summed = unpack_sum(total, dimension=7, levels=grid.levels, lane_bits=lane_bits, survivors=members)
    assert summed.tolist() == [int(value) * members for value in steps]

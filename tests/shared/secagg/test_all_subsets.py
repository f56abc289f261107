"""Every subset of small cohorts vanishes before every step, on the complete graph and on a sparse one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from shared.errors import FedloomError
from shared.secagg.parameters import CohortRules
from tests.shared.cohort_simulation import STEPS, CohortSimulation
from tests.shared.secagg.small_sparse import THRESHOLD, make_sparse
from tests.shared.secagg.test_dropouts import subsets


def rules(devices: int) -> CohortRules:
    return CohortRules(min_survivors=3, largest=devices, corrupt_share=0.0, dropout_share=0.25)


def outcome(beginning: CohortSimulation, gone: set[int]) -> list[int] | None:
    """Let ``gone`` vanish now; return how often each device was counted, None without a sum."""
    simulation = beginning.fork()
    simulation.drop(gone)
    simulation.run_to("unmask")
    try:
        return simulation.counted()
    except FedloomError:
        return None


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("devices", [6, 7, 8])
def test_on_the_complete_graph(devices: int, step: str) -> None:
    beginning = CohortSimulation(devices, rules(devices))
    for earlier in STEPS[: STEPS.index(step)]:
        beginning.run(earlier)
    threshold = devices // 2 + 1  # t and the quorum at gamma = 0
    for gone in subsets(set(range(devices))):
        left, joined = devices - len(gone), devices - (len(gone) if step == "join" else 0)
        if step == "join":
            possible = left >= 3
        elif step in {"share", "mask"}:
            possible = left >= joined - joined // 4
        else:
            possible = left >= threshold
        late = step in {"agree", "unmask"}
        expected = [int(late or device not in gone) for device in range(devices)]
        assert outcome(beginning, gone) == (expected if possible else None)


@pytest.mark.parametrize("step", STEPS[1:])
def test_on_a_sparse_graph(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two neighbours each, both needed, so who loses one is lost as well, and so on around the ring."""
    make_sparse(monkeypatch)
    beginning = CohortSimulation(6, rules(6))
    for earlier in STEPS[: STEPS.index(step)]:
        beginning.run(earlier)
    graph = CohortSimulation(6, rules(6))
    graph.run_to("join")
    ring = graph.roster.graph(THRESHOLD)
    sums = 0
    for gone in subsets(set(range(6))):
        counted = outcome(beginning, gone)
        if not gone:
            assert counted == [1] * 6
        lost = {device for device in range(6) if gone & set(ring.neighbours_of(device))}
        if gone and (step == "unmask" or lost - gone):
            assert counted is None  # some secret, or somebody's sum, has fewer than two holders left
        sums += counted is not None
    assert sums == 1


@pytest.mark.parametrize("devices", [2, 3, 4, 6, 7, 8])
def test_every_multiset_of_steps_on_the_complete_graph(devices: int) -> None:
    """How many vanish before each step, in every combination; who it is makes no difference to the rules."""
    least = 2 if devices == 2 else 3
    limits = CohortRules(min_survivors=least, largest=devices, corrupt_share=0.0, dropout_share=0.25)
    patterns = list(_continuations(CohortSimulation(devices, limits), [devices]))
    assert len(patterns) == math.comb(devices + len(STEPS), len(STEPS))
    for (_, joined, shared, masked, agreed, answered), counted in patterns:
        threshold = joined // 2 + 1  # t and the quorum at gamma = 0
        needed = max(least, joined - joined // 4)
        enough = (shared >= threshold, masked >= needed, agreed >= threshold, answered >= threshold)
        possible = joined >= least and all(enough) and threshold <= joined - joined // 4
        assert counted == ([int(device < masked) for device in range(devices)] if possible else None)


def _continuations(simulation: CohortSimulation, alive: list[int]) -> Iterator[tuple[list[int], list[int] | None]]:
    if len(alive) > len(STEPS):
        try:
            yield alive, simulation.counted()
        except FedloomError:
            yield alive, None
        return
    for left in range(alive[-1] + 1):
        branch = simulation.fork()
        branch.drop(range(left, alive[-1]))
        branch.run(STEPS[len(alive) - 1])
        yield from _continuations(branch, [*alive, left])

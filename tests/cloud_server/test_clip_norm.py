"""The clip norm follows what devices clipped, from version to version, and no cohort mixes two."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.aggregation.clip_norm import RATE, next_plan
from cloud_server.rounds.records import load_cohort
from cloud_server.tasks import create_task, load_task, prepare_task
from shared.bundle import TensorSpec
from shared.errors import ProtocolAbort, UsageError
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.plan import LARGEST_NORM, SMALLEST_NORM, Plan, Privacy, Stop, Update
from shared.release import PLAN_FILE
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import sha256
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS, Member, one_hot
from tests.e2e.servers import quadratic_bundle
from tests.shared.refusals import refused

DIMENSION = 8
NORM = 0.5


def adaptive(quantile: float = 0.5, norm: float = NORM) -> Plan:
    update = Update(max_l2_norm=norm, clip_quantile=quantile, lane_bits=32)
    return replace(small_plan("point", stop=Stop(rounds=3)), update=update)


def counted(clipped: int, survivors: int) -> AggregateSum:
    return AggregateSum(np.zeros(1), survivors, clipped, Evaluation(0.0, 0, 0), survivors)


def meet(local: Local, members: list[Member], version: int, lengths: list[float]) -> None:
    local.meet(members, version)
    for member, length in zip(members, lengths, strict=True):
        member.values = one_hot(member.number, DIMENSION, length)


def published(members: list[Member], local: Local, version: int) -> Plan:
    """Return the plan that a version's signed release names."""
    entry = members[0].release(version).files[PLAN_FILE]
    return Plan.from_bytes(local.parts.blobs.get(entry.sha256))


def run_round(local: Local, members: list[Member], version: int, lengths: list[float]) -> None:
    for member in members:
        member.plan = published(members, local, version)
    meet(local, members, version, lengths)
    for step in STEPS:
        local.do(members, step)


@given(st.integers(1, 1000), st.data(), st.floats(0.01, 1.0), st.floats(SMALLEST_NORM, LARGEST_NORM))
def test_the_norm_moves_towards_the_quantile_and_never_far(
    survivors: int, data: st.DataObject, quantile: float, norm: float
) -> None:
    clipped = data.draw(st.integers(0, survivors))
    plan = adaptive(quantile, norm)
    following = next_plan(plan, counted(clipped, survivors)).update.max_l2_norm
    unclipped = 1 - clipped / survivors
    assert SMALLEST_NORM <= following <= LARGEST_NORM
    assert abs(math.log(following / norm)) <= RATE + 1e-5
    if unclipped > quantile + 1e-3:
        assert following < norm or following == SMALLEST_NORM
    if unclipped < quantile - 1e-3:
        assert following > norm or following == LARGEST_NORM
    assert Plan.from_bytes(replace(plan, update=replace(plan.update, max_l2_norm=following)).to_bytes())


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_norm_finds_the_quantile_of_the_devices_norms(quantile: float, start: float) -> None:
    norms = np.random.default_rng(5).lognormal(0.0, 0.5, 300)
    plan = adaptive(quantile, start)
    for _ in range(400):
        clipped = int((norms > plan.update.max_l2_norm).sum())
        plan = next_plan(plan, counted(clipped, norms.size))
    assert np.mean(norms <= plan.update.max_l2_norm) == pytest.approx(quantile, abs=0.03)


def test_without_a_quantile_the_plan_stays_the_same() -> None:
    plan = adaptive(0.0)
    assert next_plan(plan, counted(4, 4)) is plan


def test_each_version_is_signed_with_the_norm_that_follows_from_the_sum_before(local: Local) -> None:
    local.create(adaptive())
    members = local.enrol(adaptive(), 4)
    run_round(local, members, 0, [9.0, 9.0, 9.0, 0.1])  # three clip
    first = published(members, local, 1).update.max_l2_norm
    assert first == pytest.approx(NORM * math.exp(RATE * 0.25), rel=1e-5)
    run_round(local, members, 1, [0.1] * 4)  # nobody does
    second = published(members, local, 2).update.max_l2_norm
    assert second == pytest.approx(first * math.exp(-RATE * 0.5), rel=1e-5)
    assert published(members, local, 0).update.max_l2_norm == NORM
    with local.parts.database.read() as connection:
        assert load_task(connection, "point").plan.update.max_l2_norm == second


def test_updates_are_summed_under_the_norm_of_their_version(local: Local) -> None:
    """The second sum holds four updates of the second norm, exactly."""
    local.create(adaptive())
    members = local.enrol(adaptive(), 4)
    run_round(local, members, 0, [9.0] * 4)
    run_round(local, members, 1, [9.0] * 4)
    norm = published(members, local, 1).update.max_l2_norm
    assert norm > NORM
    with local.parts.database.read() as connection:
        query = "SELECT master_sha256 FROM version ORDER BY number"
        masters = [
            np.frombuffer(local.parts.blobs.get(digest), "<f4")
            for digest in connection.exec_driver_sql(query).scalars()
        ]
    np.testing.assert_allclose((masters[2] - masters[1])[:4], norm, rtol=1e-5)


def test_a_device_with_another_clip_norm_cannot_join(local: Local) -> None:
    local.create(adaptive())
    members = local.enrol(adaptive(), 4)
    run_round(local, members, 0, [9.0] * 4)
    stale = members[0]
    stale.plan = adaptive()  # of version 0
    meet(local, members, 1, [9.0] * 4)
    with refused("other-plan"):
        stale.do("join")


def test_a_finished_cohort_keeps_the_plan_that_its_members_signed(local: Local) -> None:
    local.create(adaptive())
    members = local.enrol(adaptive(), 4)
    run_round(local, members, 0, [9.0] * 4)
    with local.parts.database.read() as connection:
        record = load_cohort(connection, members[0].cohort)
        assert record.binding.plan_sha256 == sha256(adaptive().to_bytes())
        assert record.binding.plan_sha256 != load_task(connection, "point").plan.sha256
    assert [member.counted() for member in members] == [True] * 4


def test_owners_keep_their_floor_whatever_the_norm_becomes() -> None:
    floors = DeviceFloors(min_survivors=2, max_l2_norm=NORM, min_corrupt_share=0.0)
    floors.check(adaptive().rules, NORM)
    grown = next_plan(adaptive(), counted(4, 4))
    with pytest.raises(ProtocolAbort) as raised:
        floors.check(grown.rules, grown.update.max_l2_norm)
    assert raised.value.code == "floor-clip-norm"


def test_with_noise_the_count_of_clipped_devices_is_the_noised_one(local: Local) -> None:
    plan = replace(adaptive(), privacy=Privacy("skellam", 0.1, 1e-5, 10, 1000.0))
    local.create(plan)
    members = local.enrol(plan, 4)
    run_round(local, members, 0, [9.0] * 4)
    norm = published(members, local, 1).update.max_l2_norm
    ((result,),) = local.rows("SELECT result FROM round WHERE phase = 'closed'")
    clipped = json.loads(result)["clipped"]
    assert norm == pytest.approx(NORM * math.exp(-RATE * (1 - clipped / 4 - 0.5)), rel=1e-5)


def test_what_would_be_counted_wrongly_or_without_noise_is_refused(local: Local) -> None:
    with pytest.raises(UsageError, match="has no noise"):
        Plan.from_toml(
            'task = "a"\nupdate = { clip_quantile = 0.5 }\n[privacy]\nmechanism = "central-gaussian"\n'
            "noise_multiplier = 1\nmax_participations = 5\nmax_epsilon = 8"
        )
    bundle = quadratic_bundle(DIMENSION)
    tensors = (
        TensorSpec("theta", (DIMENSION - 2,), 0, DIMENSION - 2, "shared"),
        TensorSpec("moments", (2,), DIMENSION - 2, 2, "statistic"),
    )
    moving = replace(bundle, manifest=replace(bundle.manifest, tensors=tensors))
    with local.parts.database.write() as connection, refused("clip-quantile-statistics"):
        create_task(connection, prepare_task(local.parts.blobs, moving, adaptive(), local.release_key, 0.0), 0.0)

"""Devices that add noise: what it does to a round, what they count, and when they stop."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edge_client import report
from edge_client.agent import open_agent
from edge_client.state_folder import StateFolder
from shared.errors import FedloomError, ProtocolAbort
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.plan import Plan, Privacy, Server
from shared.privacy.charges import PrivacyFloors, epsilon_of, loss_of
from shared.privacy.rdp import gaussian_rdp
from shared.wire.canonical import decode
from tests.edge_client.aggregator import DIMENSION, Aggregator, publish
from tests.edge_client.devices import enrolled, work_on, write_points
from tests.edge_client.loopback import serve
from tests.shared.refusals import refused

MEMBERS: Final = 3
NOISE: Final = Privacy("skellam", noise_multiplier=0.5, delta=1e-5, max_participations=2, max_epsilon=500.0)


def ignore(_line: str) -> None:
    """Drop a log line."""


def aggregator_with(folder: Path, privacy: Privacy, rounds: int = 2) -> Aggregator:
    aggregator = Aggregator(folder, MEMBERS, rounds=rounds)
    plan = aggregator.plan
    aggregator.plan = replace(
        plan, privacy=privacy, server=Server("mean", 0.01), cohort=replace(plan.cohort, cipher="chacha20")
    )
    aggregator.versions = [publish(0, aggregator.master, aggregator.plan, aggregator.now_s)]
    return aggregator


def once(path: Path, errors: list[FedloomError]) -> None:
    with open_agent(StateFolder(path / "state"), log=ignore) as agent:
        try:
            agent.once()
        except FedloomError as error:
            errors.append(error)


def all_once(paths: list[Path]) -> list[FedloomError]:
    errors: list[FedloomError] = []
    threads = [threading.Thread(target=once, args=(path, errors)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


def noisy_encoding(plan: Plan) -> NoisyEncoding:
    encoding = plan.encoding(MEMBERS, DIMENSION, 0)
    assert isinstance(encoding, NoisyEncoding)
    return encoding


def test_a_round_with_noise_is_the_round_without_and_noise(tmp_path: Path, certificates: Path) -> None:
    aggregator = aggregator_with(certificates, NOISE)
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        assert all_once(paths) == []
    points = [write_points(tmp_path / "again", number) for number in range(MEMBERS)]
    aggregate = aggregator.cohorts[0].aggregate
    assert aggregate is not None
    exact = np.sum([2 * part.mean(axis=0) for part in points], axis=0)
    noise = noisy_encoding(aggregator.plan).noise
    step = noise.grids[0].step
    difference = np.abs(aggregate.values - exact)
    assert difference.max() > 2 * step  # it is there
    # Each coordinate's noise, eight of its deviations, spread by a rotation over a block of eight.
    assert difference.max() < 8 * step * (np.sqrt(noise.device_variance * MEMBERS) + MEMBERS)
    assert (aggregate.weight_sum, aggregate.survivors) == (MEMBERS, MEMBERS)
    assert 0 <= aggregate.evaluation.correct <= aggregate.evaluation.count <= MEMBERS


def test_the_ledger_says_what_the_noise_leaves_open(tmp_path: Path, certificates: Path) -> None:
    aggregator = aggregator_with(certificates, NOISE)
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        folder = StateFolder(paths[0] / "state")
        assert report.ledger(folder)["privacy"] == {
            "participations": 0,
            "epsilon": 0.0,
            "epsilon_of_models": 0.0,
            "delta": None,
        }
        loss = loss_of(aggregator.plan, noisy_encoding(aggregator.plan))
        for times in (1, 2):
            assert all_once(paths) == []
            ledger = report.ledger(folder)
            assert ledger["privacy"] == {
                "participations": times,
                "epsilon": pytest.approx(epsilon_of([loss] * times, 1e-5)),
                "epsilon_of_models": pytest.approx(epsilon_of([loss] * times, 1e-5)),
                "delta": 1e-5,
            }
        assert (
            "2 masked vectors have left this device; all of their sums together reveal at most epsilon"
            in report.ledger_text(ledger)
        )


def test_of_sums_without_noise_the_ledger_claims_nothing_though_models_get_some(
    tmp_path: Path, certificates: Path
) -> None:
    aggregator = aggregator_with(certificates, replace(NOISE, mechanism="central-gaussian"))
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        assert all_once(paths) == []
    ledger = report.ledger(StateFolder(paths[0] / "state"))
    assert ledger["privacy"]["epsilon"] is None
    assert ledger["privacy"]["epsilon_of_models"] == pytest.approx(epsilon_of([gaussian_rdp(0.5)], 1e-5))
    text = report.ledger_text(ledger)
    assert "if the aggregator adds its noise; the sums themselves: no limit" in text
    assert "all of their sums together reveal" not in text


def test_without_noise_the_ledger_claims_nothing(tmp_path: Path, certificates: Path) -> None:
    aggregator = aggregator_with(certificates, Privacy())
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        assert all_once(paths) == []
    ledger = report.ledger(StateFolder(paths[0] / "state"))
    assert ledger["privacy"]["epsilon"] is None
    assert "no limit to what their sums reveal" in report.ledger_text(ledger)


@pytest.mark.parametrize(
    ("privacy", "floors", "code"),
    [
        (replace(NOISE, max_participations=1), PrivacyFloors(), "privacy-budget-spent"),
        (replace(NOISE, max_epsilon=13.0), PrivacyFloors(), "privacy-budget-spent"),
        (NOISE, PrivacyFloors(max_participations=1), "floor-participations"),
        (NOISE, PrivacyFloors(max_epsilon=13.0), "floor-epsilon"),
    ],
)
def test_a_device_stops_where_plan_or_owner_say(
    tmp_path: Path, certificates: Path, privacy: Privacy, floors: PrivacyFloors, code: str
) -> None:
    """Once is allowed, twice is not; the second round gets nothing from it, not even its presence."""
    aggregator = aggregator_with(certificates, privacy)
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number, privacy_floors=floors)
        assert all_once(paths) == []
        errors = all_once(paths)
    assert [error.code for error in errors] == [code] * MEMBERS
    assert all(isinstance(error, ProtocolAbort) for error in errors)
    assert aggregator.cohorts[1].steps == {}


def test_a_plan_cannot_stretch_the_owners_epsilon_by_a_larger_delta(certificates: Path) -> None:
    plan = aggregator_with(certificates, replace(NOISE, delta=1e-4)).plan
    loss = loss_of(plan, plan.encoding(MEMBERS, DIMENSION, 0))
    generous, strict = epsilon_of([loss], 1e-4), epsilon_of([loss], 1e-6)
    assert generous < strict
    floors = PrivacyFloors(max_epsilon=(generous + strict) / 2)
    replace(floors, delta=1e-4).check_next(plan, [], loss)
    with refused("floor-epsilon", ProtocolAbort):
        floors.check_next(plan, [], loss)


@pytest.mark.parametrize(
    ("privacy", "floors"),
    [
        (Privacy(), PrivacyFloors(min_noise_multiplier=0.1)),
        (NOISE, PrivacyFloors(min_noise_multiplier=0.6)),
        (replace(NOISE, mechanism="central-gaussian"), PrivacyFloors(min_noise_multiplier=0.4)),
        (replace(NOISE, mechanism="central-gaussian"), PrivacyFloors(max_epsilon=500.0)),
        (Privacy(), PrivacyFloors(max_epsilon=500.0)),
    ],
)
def test_a_plan_with_less_noise_than_the_owner_wants_is_not_even_installed(
    tmp_path: Path, certificates: Path, privacy: Privacy, floors: PrivacyFloors
) -> None:
    """What the aggregator promises to add does not count: the device cannot see it."""
    aggregator = aggregator_with(certificates, privacy)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url, privacy_floors=floors)
        with open_agent(StateFolder(tmp_path / "state"), log=ignore) as agent, refused("floor-noise", ProtocolAbort):
            agent.once()
    assert aggregator.cohorts[0].steps == {}
    asked = [decode(request.body) for request in aggregator.requests if "check-in" in request.path]
    assert [one["declined"] for one in asked] == [0, 1]  # its place goes to another device


def test_a_device_that_no_plan_of_the_task_can_have_ends_when_the_task_is_done(
    tmp_path: Path, certificates: Path
) -> None:
    aggregator = aggregator_with(certificates, Privacy())
    aggregator.rounds = 0  # done
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url, privacy_floors=PrivacyFloors(min_noise_multiplier=0.1))
        with open_agent(StateFolder(tmp_path / "state"), log=ignore) as agent, refused("floor-noise", ProtocolAbort):
            work_on(agent)


def test_a_device_that_may_take_part_no_more_ends_and_says_so(tmp_path: Path, certificates: Path) -> None:
    """Its plan goes on for ever; a loop that was asked to end must not wait for rounds that cannot have it."""
    aggregator = aggregator_with(certificates, replace(NOISE, max_participations=1))
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        assert all_once(paths) == []
        folder = StateFolder(paths[0] / "state")
        with open_agent(folder, log=ignore) as agent, refused("privacy-budget-spent", ProtocolAbort):
            work_on(agent)
        rows = report.ledger(folder)["contributions"]
        assert [(row["state"], row["reason"]) for row in rows] == [
            ("counted", ""),
            ("refused", "privacy-budget-spent"),
        ]
        with open_agent(folder, log=ignore) as agent, refused("privacy-budget-spent", ProtocolAbort):
            agent.once()
        assert report.ledger(folder)["contributions"] == rows  # said once per round


def test_a_plan_below_the_owners_floor_is_in_the_ledger(tmp_path: Path, certificates: Path) -> None:
    aggregator = aggregator_with(certificates, Privacy())
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url, 0, privacy_floors=PrivacyFloors(min_noise_multiplier=1.0))
        folder = StateFolder(tmp_path / "state")
        with open_agent(folder, log=ignore) as agent, refused("floor-noise", ProtocolAbort):
            work_on(agent)
    text = report.ledger_text(report.ledger(folder))
    assert "[floor-noise]" in text
    assert "0 masked vectors have left this device." in text
    assert "noise of 1 or more" in report.status_text(report.status(folder))

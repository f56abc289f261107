"""A device uses what the newest decision says, goes back when told to, and never follows what was said before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_client import report
from edge_client.agent import Agent, open_agent
from edge_client.journal import State
from edge_client.model_store import kept_versions
from edge_client.state_folder import StateFolder, current_version
from shared.decision import PLACES, Decision
from shared.errors import Refused, TryLater, Unauthenticated
from shared.release_key import ReleaseKey, certify_release_key
from shared.wire.canonical import sha256
from shared.wire.signed import SigningKey
from tests.edge_client.aggregator import AUTHORITY, DIMENSION, Aggregator, publish
from tests.edge_client.devices import enrolled
from tests.edge_client.loopback import serve
from tests.shared.refusals import refused

TO_UPLOADING = tuple(State)[1 : tuple(State).index(State.UPLOADING) + 1]
FAR_S = 2_000_000_000


def decision(sequence: int, released: int, candidate: int | None = None, limit: int = 0, **more: int) -> Decision:
    return Decision(
        "point", sequence, released, candidate, limit, more.get("pinned"), 0, more.get("expires_at_s", FAR_S)
    )


class Scene:
    """One device and an aggregator with three versions, whose task is done."""

    def __init__(self, path: Path, certificates: Path) -> None:
        self.folder = StateFolder(path / "state")
        self.aggregator = Aggregator(certificates, 2, rounds=2)
        self.aggregator.versions = [
            publish(number, np.full(DIMENSION, number, np.float32), self.aggregator.plan, self.aggregator.now_s)
            for number in range(3)
        ]
        self.lines: list[str] = []

    def do(self, what: Callable[[Agent], object]) -> None:
        with open_agent(self.folder, log=self.lines.append, jitter=lambda: 0.0) as agent:
            what(agent)

    def ask(self) -> int | None:
        """Let the agent ask what to do in a process of its own, and return the version in use."""
        self.do(lambda agent: agent.once())
        return current_version(self.folder)

    @property
    def told(self) -> str:
        """What ``status`` says of the version in use."""
        lines = report.status_text(report.status(self.folder)).splitlines()
        return next(line for line in lines if line.startswith("version"))


@pytest.fixture
def scene(tmp_path: Path, certificates: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, certificates)
    with serve(certificates, made.aggregator) as url:
        enrolled(tmp_path, made.aggregator, url)
        yield made


def test_without_a_decision_the_newest_is_used(scene: Scene) -> None:
    assert scene.ask() == 2
    assert "2, the newest" in scene.told


def test_what_is_decided_is_used_and_a_rollback_followed(scene: Scene) -> None:
    scene.aggregator.decide(decision(1, 1))
    assert scene.ask() == 1
    assert "1, released to all devices" in scene.told
    scene.aggregator.decide(decision(2, 1, 2, PLACES))
    assert scene.ask() == 2
    assert "2, on its way to all devices" in scene.told
    scene.aggregator.decide(decision(3, 1))
    assert scene.ask() == 1
    scene.aggregator.decide(decision(4, 2, pinned=0))
    assert scene.ask() == 0
    assert "0, pinned by the operator" in scene.told


def test_a_device_that_used_the_newest_goes_back_only_when_told_to(scene: Scene) -> None:
    assert scene.ask() == 2
    scene.aggregator.decide(decision(1, 0))
    assert scene.ask() == 0
    assert set(kept_versions(scene.folder)) == {0, 2}  # where training goes on stays


def test_an_old_decision_played_again_changes_nothing(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 1))
    assert scene.ask() == 1
    scene.aggregator.decide(decision(3, 0))
    scene.aggregator.sequence = 9  # the server claims that it is new
    with refused("decision-replayed", Refused):
        scene.ask()
    assert current_version(scene.folder) == 1


def test_a_server_that_forgets_its_decisions_changes_nothing(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 1))
    assert scene.ask() == 1
    scene.aggregator.decision, scene.aggregator.sequence = None, 0
    assert scene.ask() == 1


@pytest.mark.parametrize(
    ("code", "told", "key"),
    [
        ("bad-signature", decision(6, 0), SigningKey(sha256(b"stranger"))),
        ("decision-expired", decision(6, 0, expires_at_s=1), None),
    ],
)
def test_what_must_not_be_followed_leaves_the_last_good_one(
    scene: Scene, code: str, told: Decision, key: SigningKey | None
) -> None:
    scene.aggregator.decide(decision(5, 1))
    assert scene.ask() == 1
    scene.aggregator.decide(told, *(() if key is None else (key,)))
    with refused(code):
        scene.ask()
    assert current_version(scene.folder) == 1
    assert "1, released" in scene.told


def test_the_version_in_use_stays_until_the_next_is_whole(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 1))
    assert scene.ask() == 1
    whole = scene.aggregator.versions[2]
    scene.aggregator.versions[2] = scene.aggregator.versions[0]
    scene.aggregator.decide(decision(6, 2))
    with refused("wrong-version", Refused):
        scene.ask()
    assert current_version(scene.folder) == 1
    assert "1, until 2 is fetched" in scene.told
    scene.aggregator.versions[2] = whole
    assert scene.ask() == 2


def test_a_lower_version_that_no_decision_names_is_refused_as_ever(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 2))
    assert scene.ask() == 2
    scene.do(lambda agent: _refused_install(agent, 0))
    assert current_version(scene.folder) == 2


def _refused_install(agent: Agent, version: int) -> None:
    with refused("version-rollback", Refused):
        agent._store.install(version)


@pytest.mark.parametrize("told", [decision(5, 1), decision(5, 1, 2, 0), decision(5, 0, 1, PLACES)])
def test_nothing_is_evaluated_that_the_decision_does_not_give_this_device(scene: Scene, told: Decision) -> None:
    scene.aggregator.decide(told)
    scene.aggregator.evaluates = 2
    with refused("not-in-stage", Refused):
        scene.ask()
    assert report.ledger(scene.folder)["contributions"] == []
    assert [request.path for request in scene.aggregator.requests if "cohorts" in request.path] == []


def test_an_evaluation_that_was_cut_off_is_in_the_ledger(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 1, 2, PLACES))
    scene.aggregator.evaluates = 2
    scene.aggregator.over = {"roster": "round-abandoned"}
    scene.aggregator.rounds = 1  # so that no cohort forms afterwards
    with refused("version-closed", TryLater):
        scene.ask()
    rows = report.ledger(scene.folder)["contributions"]
    assert [(row["purpose"], row["version"], row["baseline"], row["state"]) for row in rows] == [
        ("evaluation", 2, 1, "abandoned")
    ]
    text = report.ledger_text(report.ledger(scene.folder))
    assert "evaluation of version 2 beside 1" in text


def _leave_counts(agent: Agent) -> None:
    """Write down that masked counts of version 2, compared with 0, may have left."""
    entry = agent._journal.begin(1, 2, 0.0, baseline=0)
    for state in TO_UPLOADING:
        agent._journal.record(entry, state, 1.0, cohort="cohort-a")


def test_a_version_whose_counts_may_have_left_is_not_measured_again_against_another_one(scene: Scene) -> None:
    scene.aggregator.decide(decision(5, 1, 2, PLACES))
    scene.aggregator.evaluates = 2
    scene.do(_leave_counts)
    with refused("already-evaluated", Refused):
        scene.ask()
    assert [request.path for request in scene.aggregator.requests if "cohorts" in request.path] == []


NEXT_KEY, STRANGER = SigningKey(sha256(b"next release key")), SigningKey(sha256(b"stranger"))


def rotate(scene: Scene, number: int, key: SigningKey, authority: SigningKey = AUTHORITY) -> None:
    """Let the aggregator sign by another key, with the authority's word on it."""
    scene.aggregator.key_word = certify_release_key(authority, ReleaseKey(number, key.public), 0.0)
    scene.aggregator.key_number = number
    scene.aggregator.versions = [
        publish(n, np.full(DIMENSION, n, np.float32), scene.aggregator.plan, scene.aggregator.now_s, key)
        for n in range(3)
    ]


def test_a_key_that_the_authority_certified_takes_over_and_the_old_one_is_worth_nothing(scene: Scene) -> None:
    scene.aggregator.decide(decision(1, 1))
    assert scene.ask() == 1
    rotate(scene, 1, NEXT_KEY)
    scene.aggregator.decide(decision(2, 2), NEXT_KEY)
    assert scene.ask() == 2
    scene.aggregator.decide(decision(3, 0))  # whoever stole the old key
    with refused("bad-signature", Unauthenticated):
        scene.ask()
    assert current_version(scene.folder) == 2


def test_a_key_that_a_stranger_certified_changes_nothing(scene: Scene) -> None:
    assert scene.ask() == 2
    rotate(scene, 1, STRANGER, STRANGER)
    with refused("bad-signature", Unauthenticated):
        scene.ask()
    assert current_version(scene.folder) == 2


def test_an_earlier_key_played_again_is_refused(scene: Scene) -> None:
    rotate(scene, 2, NEXT_KEY)
    assert scene.ask() == 2
    rotate(scene, 1, STRANGER)
    scene.aggregator.key_number = 3
    with refused("release-key-replayed", Refused):
        scene.ask()

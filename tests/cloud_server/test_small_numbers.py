"""What few devices measured is told nowhere: by no page, log that stays for ever, JSON of a command or difference."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from sqlalchemy import update

from cloud_server.cli import main
from cloud_server.devices import set_state
from cloud_server.releases.gate import Rule
from cloud_server.storage.schema import round_
from shared.numeric.contribution_vector import Evaluation
from shared.wire.canonical import Json, encode
from tests.cloud_server.local import HOUR_S, Local
from tests.cloud_server.members import STEPS, Member
from tests.cloud_server.signed_in import Browser, SignedIn
from tests.cloud_server.test_releases import GOOD, TASK, Scene

NOTHING = (Evaluation(0.0, 0, 0), Evaluation(0.0, 0, 0))
EVERYWHERE = ("/console/audit", "/console/models", "/console/models/point/1")


@pytest.fixture
def scene(local: Local, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    return Scene(local)


@pytest.fixture
def viewer(scene: Scene) -> Browser:
    return SignedIn(scene.local).browser("vera", "viewer")


def evaluate(scene: Scene, members: list[Member], found: Callable[[int], tuple[Evaluation, Evaluation]]) -> None:
    """Let devices evaluate a stage of all, each its own."""
    for number, member in enumerate(members):
        assert scene.ask(member).action == "evaluate"
        member.meet_to_evaluate(scene.promotion.candidate, scene.promotion.baseline, found(number))
    for step in STEPS:
        if step == "share" and len(members) < 6:
            scene.local.clock.time_s += HOUR_S
            scene.local.settle()
        scene.local.do(members, step)


def told(scene: Scene, viewer: Browser, capsys: pytest.CaptureFixture[str]) -> str:
    """Return all that viewers can read of versions."""
    texts = [viewer.get(path + form).get_data(as_text=True) for path in EVERYWHERE for form in ("", ".json")]
    data = ["--data", str(scene.local.parts.folder.path), "--json"]
    for words in (["audit", "list"], ["task", "show", TASK], ["model", "show", TASK], ["model", "list", TASK]):
        assert main([*words, *data]) == 0
    return "\n".join([*texts, capsys.readouterr().out])


def test_where_one_device_alone_has_examples_nobody_reads_what_it_measured(
    scene: Scene, viewer: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    alone = (Evaluation(12.34375, 0, 10), Evaluation(45.671875, 0, 10))
    evaluate(scene, scene.members, lambda number: NOTHING if number else alone)
    assert scene.promotion.phase == "rolled-back"
    text = told(scene, viewer, capsys)
    assert "release-evaluated" in text
    for secret in ("12.34", "45.67", "1.23", "4.56"):
        assert secret not in text


def test_two_promotions_over_almost_the_same_devices_do_not_tell_of_the_one_that_is_missing(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.publish(2.0)
    scene.act("promote", 1, Rule((1.0,)))
    evaluate(scene, scene.members, lambda _: GOOD)
    scene.act("roll_back")
    with scene.local.parts.database.write() as connection:
        set_state(connection, scene.members[0].device, "quarantined", "", scene.now_s)
    scene.act("promote", 2, Rule((1.0,)))
    evaluate(scene, scene.members[1:], lambda _: GOOD)
    assert scene.promotion.phase == "released"  # judged all the same
    assert main(["model", "show", TASK, "--json", "--data", str(scene.local.parts.folder.path)]) == 0
    first, second = json.loads(capsys.readouterr().out)["evaluations"]
    assert (first["suppressed"], second["suppressed"]) == (False, True)
    assert second["baseline"] is None
    viewer = SignedIn(scene.local).browser("vera", "viewer")
    page = viewer.get("/console/models.json").get_json()["release"]["ended"][0]["stages"][0]["found"]
    assert (page["candidate"], page["baseline"], page["examples"]) == (None, None, None)


def test_a_card_counts_the_devices_that_had_examples(scene: Scene, viewer: Browser) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    evaluate(scene, scene.members, lambda number: GOOD if number < 3 else NOTHING)
    assert viewer.get("/console/models/point/1.json").get_json()["evaluation"]["devices"] == 3


def test_programs_read_no_more_of_a_small_round_than_people(
    scene: Scene, viewer: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    result: dict[str, Json] = {
        "participants": 1,
        "survivors": 1,
        "evaluated": 10,
        "correct": 7,
        "loss_sum": 77.125,
        "clipped": 0,
    }
    with scene.local.parts.database.write() as connection:
        values = {"phase": "closed", "closed_s": 1.0, "result": encode(result)}
        connection.execute(update(round_).where(round_.c.number == 1).values(values))
    text = told(scene, viewer, capsys)
    assert "77.125" not in text
    assert "7.7125" not in text

"""Promotions through the aggregator's real application and driver: stages, gates, operators, what devices are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load, save
from sqlalchemy import Connection, text, update

from cloud_server import audit
from cloud_server.api.operator import METRICS
from cloud_server.devices import set_state
from cloud_server.releases import actions
from cloud_server.releases.card import card_text, model_card
from cloud_server.releases.catalogue import NeedsTensorFlow, file_in_form, list_versions, release_report
from cloud_server.releases.gate import Rule
from cloud_server.releases.importing import import_weights
from cloud_server.releases.state import Promotion, ReleaseState, list_promotions, load_release
from cloud_server.rounds.retention import (
    DAY_S,
    Retention,
    forget_cohorts,
    forget_versions,
    is_kept,
    remove_unneeded,
    retire_versions,
)
from cloud_server.storage.database import bump
from cloud_server.storage.schema import setting, version
from shared.decision import PLACES, Decision, verify_decision
from shared.errors import Conflict, FedloomError, Missing, Refused, UsageError
from shared.limits import RETRY_AFTER_MS
from shared.numeric.contribution_vector import Evaluation
from shared.plan import Eligibility, Plan, Privacy
from shared.wire.messages import Assignment, CheckIn, read_signed
from shared.wire.requests import CHECK_IN, DECISION
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.shared.refusals import refused

TASK = "point"
DIMENSION = 8
PLAN = small_plan(TASK, 6, dropout_share=0.0)
GOOD = (Evaluation(1.0, 0, 10), Evaluation(5.0, 0, 10))  # candidate and baseline; the textbook model has a loss alone
BAD = GOOD[::-1]
ME, OTHER = "ada", "ben"


class Scene:
    """A held task with two versions and six devices."""

    def __init__(self, local: Local, plan: Plan = PLAN) -> None:
        self.local = local
        local.create(plan)
        self.members = local.enrol(plan, 6)
        self.spent: set[str] = set()
        self.publish(1.0)
        for member in self.members:
            self.ask(member)  # seen, so that stages count on them

    @property
    def now_s(self) -> float:
        return self.local.clock.now_s()

    def publish(self, value: float) -> int:
        parts = self.local.parts
        weights = save({"theta": np.full(DIMENSION, value, np.float32)})
        key = self.local.release_key
        made = import_weights(parts.database, parts.blobs, ME, None, TASK, weights, key=key, now_s=self.now_s)
        self.local.settle()
        return made.version

    def act(self, action: str, *values: object, revision: int | None = None, who: str = ME, **more: object) -> None:
        """Let an operator do something, and the driver what follows."""
        if action in {"promote", "pin"}:
            more["release_key"] = self.local.release_key.public
        with self.local.parts.database.write() as connection:
            getattr(actions, action)(connection, who, revision, TASK, *values, now_s=self.now_s, **more)
        self.local.settle()

    @property
    def state(self) -> ReleaseState:
        with self.local.parts.database.read() as connection:
            found = load_release(connection, TASK)
        assert found is not None
        return found

    @property
    def promotion(self) -> Promotion:
        with self.local.parts.database.read() as connection:
            return list_promotions(connection, TASK)[-1]

    def ask(self, member: Member, declined: int = 0) -> Assignment:
        body = CheckIn(-1, 512, 0, declined).to_bytes()
        return Assignment.from_bytes(member.transport.send("POST", CHECK_IN, body).body)

    def told(self, member: Member, min_sequence: int = 0) -> Decision:
        """Return the decision that a device is shown, verified as it does."""
        signed = read_signed(member.transport.send("GET", DECISION).body, "decision")
        key, now_s = member.root.release_key, self.now_s
        return verify_decision(signed, public_key=key, task=TASK, min_sequence=min_sequence, now_s=now_s)

    def uses(self) -> list[int]:
        """Return which version each device is told to use."""
        return [self.told(member).use(member.device).version for member in self.members]

    def stage(self) -> list[Member]:
        return [member for member in self.members if self.told(member).includes(member.device)]

    def evaluate(self, found: tuple[Evaluation, Evaluation], steps: Sequence[str] = STEPS) -> list[Member]:
        """Let the stage's devices evaluate that have not."""
        members = [member for member in self.stage() if member.device not in self.spent]
        candidate, baseline = self.promotion.candidate, self.promotion.baseline
        for member in members:
            assert self.ask(member).action == "evaluate"
            member.meet_to_evaluate(candidate, baseline, found)
        if "upload" in steps:
            self.spent |= {member.device for member in members}
        for step in steps:
            if step == "share" and len(members) < PLAN.cohort.largest:  # nobody else comes
                self.local.clock.time_s += HOUR_S
                self.local.settle()
            self.local.do(members, step)
        return members


@pytest.fixture
def scene(local: Local, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    return Scene(local)


def actions_of(local: Local) -> list[str]:
    with local.parts.database.read() as connection:
        return [str(entry["action"]) for entry in audit.entries(connection) if str(entry["action"]).startswith("rel")]


def test_a_good_version_goes_from_stage_to_stage_and_is_released(scene: Scene) -> None:
    assert (scene.state.released, scene.uses()) == (0, [0] * 6)  # an import is used by nobody
    scene.act("promote", 1, Rule((0.001, 0.002, 1.0)))
    inside: set[str] = set()
    sequences = []
    for number in range(3):
        assert (scene.promotion.phase, scene.promotion.stage) == ("evaluating", number)
        members = scene.stage()
        assert inside <= {member.device for member in members}
        assert len(members) == 2 * (number + 1)
        inside = {member.device for member in members}
        assert scene.uses() == [int(member.device in inside) for member in scene.members]
        for member in scene.members:
            if member.device not in inside or member.device in scene.spent:
                assert scene.ask(member).action != "evaluate"
        assert all(member.counted() for member in scene.evaluate(GOOD))
        sequences.append(scene.state.sequence)
    assert len(inside) == 6
    assert sequences == sorted(set(sequences))
    assert (scene.promotion.phase, scene.state.released, scene.uses()) == ("released", 1, [1] * 6)
    assert actions_of(scene.local) == [
        "release-held",
        "release-promoted",
        "release-evaluated",
        "release-stage",
        "release-evaluated",
        "release-stage",
        "release-evaluated",
        "release-completed",
    ]


def test_nobodys_counts_are_in_two_sums(scene: Scene) -> None:
    scene.act("promote", 1, Rule((0.001, 1.0)))
    first = scene.evaluate(GOOD)
    assert scene.promotion.stage == 1
    first[0].meet_to_evaluate(1, 0, GOOD)
    with refused("already-evaluated", Refused):
        first[0].do("join")
    others = scene.evaluate(GOOD)
    assert {member.device for member in first} & {member.device for member in others} == set()
    assert scene.promotion.phase == "released"
    scene.act("roll_back")
    scene.act("promote", 1, Rule())  # once more, and nobody is left who could measure it
    assert all(scene.ask(member).action != "evaluate" for member in scene.members)


def test_nobody_measures_a_version_again_against_another_one(scene: Scene) -> None:
    scene.publish(2.0)
    scene.act("promote", 1, Rule((1.0,)))
    scene.act("roll_back")
    scene.act("promote", 2, Rule((0.001, 1.0)))
    first = scene.evaluate(GOOD)
    scene.act("roll_back")
    scene.act("pin", 0)
    scene.act("promote", 1, Rule((1.0,)))
    scene.spent.clear()
    scene.evaluate(GOOD)
    assert scene.state.released == 1
    scene.act("promote", 2, Rule((0.001, 1.0)))  # now over 1, and before over 0
    assert scene.promotion.baseline == 1
    others = scene.stage()
    assert all(scene.ask(member).action != "evaluate" for member in first)
    assert {member.device for member in others} > {member.device for member in first}
    first[0].meet_to_evaluate(2, 1, GOOD)
    with refused("already-evaluated", Refused):
        first[0].do("join")


def test_a_stage_grows_by_those_that_a_failed_cohort_has_spent(scene: Scene) -> None:
    scene.act("promote", 1, Rule((0.001, 1.0)))
    first = scene.evaluate(GOOD, STEPS[:3])
    scene.local.clock.time_s += 2 * HOUR_S
    scene.local.settle()
    assert scene.local.rows("SELECT phase FROM cohort WHERE purpose = 'evaluation'") == [("failed",), ("forming",)]
    assert len(scene.stage()) == 4
    others = scene.evaluate(GOOD)
    assert len(others) == 2
    assert not {member.device for member in first} & {member.device for member in others}
    assert scene.promotion.stage == 1
    assert actions_of(scene.local)[1:4] == ["release-promoted", "release-stage-grown", "release-evaluated"]


def test_a_stage_for_which_too_few_are_left_ends_and_nobody_else_is_given_the_version(scene: Scene) -> None:
    scene.act("promote", 1, Rule((0.001, 1.0)))
    inside = scene.stage()
    scene.evaluate(GOOD, STEPS[:1])
    with scene.local.parts.database.write() as connection:
        for member in scene.members:
            if member is not inside[0]:
                set_state(connection, member.device, "revoked", "lost", scene.now_s)
    while scene.promotion.phase == "evaluating":
        assert scene.told(inside[0]).limit < PLACES
        assert scene.promotion.attempts < 5
        scene.local.clock.time_s += HOUR_S
        scene.local.settle()
    assert scene.promotion.phase == "rolled-back"
    assert "only 1 devices are left that can evaluate it" in scene.promotion.reason
    scene.local.settle()
    assert (scene.state.released, scene.told(inside[0]).candidate) == (0, None)


def test_the_cohorts_of_a_promotion_under_way_are_not_forgotten(scene: Scene) -> None:
    """Who has measured a version must not do so again, however long an operator thinks about it."""
    scene.act("promote", 1, Rule((0.001, 1.0), automatic=False))
    first = scene.evaluate(GOOD)
    scene.local.clock.time_s += 100 * DAY_S
    forget_cohorts(scene.local.parts.database, Retention(cohort_days=8.0), scene.now_s)
    scene.act("proceed")
    first[0].meet_to_evaluate(1, 0, GOOD)
    with refused("already-evaluated", Refused):
        first[0].do("join")
    scene.act("roll_back")


def test_who_has_measured_a_version_is_known_as_long_as_it_can_be_promoted(scene: Scene) -> None:
    database, local = scene.local.parts.database, scene.local
    scene.act("promote", 1, Rule((0.001, 1.0)))
    first = scene.evaluate(GOOD)
    scene.act("roll_back")
    local.clock.time_s += 9 * DAY_S
    assert forget_cohorts(database, Retention(cohort_days=8.0), scene.now_s)
    assert not forget_cohorts(database, Retention(cohort_days=8.0), scene.now_s)
    assert [local.rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("box", "commitment")] == [0, 0]  # noqa: S608
    for member in scene.members:
        scene.ask(member)  # seen lately
    scene.act("promote", 1, Rule((0.001, 1.0)))
    first[0].meet_to_evaluate(1, 0, GOOD)
    with refused("already-evaluated", Refused):
        first[0].do("join")
    scene.act("roll_back")
    for value in range(2, 8):
        scene.publish(float(value))
    retire_versions(database, Retention(2))
    local.clock.time_s += 9 * DAY_S
    for _ in range(
        2
    ):  # rows of cohorts that trained from a version go before its own, and those that measured it after
        forget_cohorts(database, Retention(cohort_days=8.0), scene.now_s)
        forget_versions(database)
    assert local.rows("SELECT number FROM version WHERE number = 1") == []
    assert local.rows("SELECT count(*) FROM step WHERE step = 'vector'") == [(0,)]


def test_a_last_stage_of_too_few_is_judged_by_the_stages_before(scene: Scene) -> None:
    scene.act("promote", 1, Rule((0.001, 0.002, 0.003, 1.0)))
    for _ in range(3):
        scene.evaluate(GOOD)
    assert (scene.promotion.phase, scene.state.released) == ("released", 1)
    with scene.local.parts.database.read() as connection:
        last = [entry for entry in audit.entries(connection) if entry["action"] == "release-stage"][-1]
    assert "only 0 devices are left" in str(last["detail"])


def test_a_worse_version_ends_after_the_first_stage_and_old_decisions_are_not_followed(scene: Scene) -> None:
    scene.act("promote", 1, Rule())
    old = scene.told(scene.members[0])
    scene.evaluate(BAD)
    assert scene.promotion.phase == "rolled-back"
    assert "stage 1: loss is 400 % higher on 2 devices" in scene.promotion.reason
    assert (scene.state.released, scene.uses()) == (0, [0] * 6)
    now = scene.told(scene.members[0])
    assert now.sequence > old.sequence
    with refused("decision-replayed", Refused):
        scene.told(scene.members[0], min_sequence=now.sequence + 1)


@pytest.mark.parametrize("killed_before", [*STEPS, "end"])
def test_a_driver_that_is_killed_in_the_middle_loses_nothing(scene: Scene, killed_before: str) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    for step in STEPS:
        if step == killed_before:
            scene.local.kill_driver()
            scene.local.settle()
        if step == STEPS[0]:
            scene.evaluate(GOOD, [])
        for member in scene.members:
            member.do(step)
        if step == STEPS[-1] and killed_before == "end":
            scene.local.kill_driver()
        scene.local.settle()
    assert (scene.promotion.phase, scene.promotion.attempts) == ("released", 1)
    assert scene.uses() == [1] * 6
    assert scene.local.rows("SELECT contributions, vectors FROM device") == [(1, 1)] * 6


def test_an_operator_may_look_at_every_stage(scene: Scene) -> None:
    scene.act("promote", 1, Rule((0.001, 1.0), automatic=False))
    with refused("not-waiting", Conflict):
        scene.act("proceed")
    scene.evaluate(GOOD)
    assert scene.promotion.phase == "waiting"
    assert sorted(scene.uses()) == [0, 0, 0, 0, 1, 1]  # the stage goes on using it
    scene.act("proceed")
    assert (scene.promotion.phase, scene.promotion.stage) == ("evaluating", 1)
    scene.evaluate(GOOD)
    scene.act("proceed")
    assert scene.promotion.phase == "released"
    with refused("no-promotion", Missing):
        scene.act("proceed")


def test_the_second_of_two_operators_gets_a_conflict_and_changes_nothing(scene: Scene) -> None:
    seen = scene.state.revision
    scene.act("promote", 1, Rule(), revision=seen)
    before = scene.state
    with refused("release-changed", Conflict):
        scene.act("promote", 1, Rule(), revision=seen, who=OTHER)
    with refused("release-changed", Conflict):
        scene.act("roll_back", revision=seen, who=OTHER)
    with refused("promotion-under-way", Conflict):
        scene.act("promote", 1, Rule(), revision=before.revision, who=OTHER)
    assert scene.state == before


def test_pinned_means_pinned_whatever_is_promoted(scene: Scene) -> None:
    with refused("not-evaluated", Refused):
        scene.act("pin", 1)
    scene.act("pin", 0)
    with refused("already-pinned", Conflict):
        scene.act("pin", 0)
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(GOOD)
    assert (scene.state.released, scene.uses()) == (1, [0] * 6)
    scene.act("unpin")
    assert scene.uses() == [1] * 6
    scene.act("pin", 1)  # its stage has evaluated it
    with refused("nothing-pinned", Missing):
        scene.act("unpin")
        scene.act("unpin")


def test_a_release_is_rolled_back_to_the_one_before(scene: Scene) -> None:
    with refused("nothing-released", Missing):
        scene.act("roll_back")
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(GOOD)
    sequence = scene.state.sequence
    scene.act("roll_back", reason="complaints")
    assert (scene.state.released, scene.uses()) == (0, [0] * 6)
    assert scene.told(scene.members[0], min_sequence=sequence + 1).released == 0
    assert (scene.promotion.phase, scene.promotion.reason) == ("rolled-back", "complaints")
    with refused("nothing-released", Missing):
        scene.act("roll_back")


def test_whoever_rolls_back_again_and_again_is_led_to_versions_that_are_there(scene: Scene) -> None:
    for number in (1, 2, 3):
        if number > 1:
            scene.publish(float(number))
        scene.spent.clear()
        scene.act("promote", number, Rule((1.0,)))
        scene.evaluate(GOOD)
    for value in range(4, 10):
        scene.publish(float(value))
    database = scene.local.parts.database
    retire_versions(database, Retention(2))
    forget_versions(database)
    remove_unneeded(database, scene.local.parts.blobs, scene.now_s + 9 * DAY_S)
    scene.act("roll_back")
    assert scene.uses() == [2] * 6
    for number in (1, 0):
        scene.act("roll_back")
        assert scene.uses() == [number] * 6
        assert scene.members[0].weights(number)
    with refused("nothing-released", Missing):
        scene.act("roll_back")


def test_nobody_is_led_back_to_a_version_that_expired(scene: Scene) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(GOOD)
    scene.local.clock.time_s += 400 * DAY_S  # while no driver ran
    with scene.local.parts.database.write() as connection, refused("release-expired", Refused):
        actions.roll_back(connection, ME, None, TASK, now_s=scene.now_s)


def test_a_form_of_an_import_is_taken_once(scene: Scene) -> None:
    parts, revision = scene.local.parts, scene.state.revision

    def send(value: float) -> None:
        weights = save({"theta": np.full(DIMENSION, value, np.float32)})
        import_weights(
            parts.database, parts.blobs, ME, revision, TASK, weights, key=scene.local.release_key, now_s=scene.now_s
        )

    send(5.0)
    with refused("release-changed", Conflict):
        send(6.0)


def test_rolling_back_ends_the_cohort_that_evaluates(scene: Scene) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    members = scene.evaluate(GOOD, STEPS[:2])
    scene.act("roll_back", reason="I changed my mind")
    assert scene.promotion.reason == "I changed my mind"
    assert scene.local.rows("SELECT phase FROM cohort WHERE purpose = 'evaluation'") == [("failed",)]
    with refused("round-abandoned"):
        members[0].do("upload")
    assert scene.uses() == [0] * 6
    assert scene.local.rows("SELECT count(*) FROM invitation WHERE purpose = 'evaluation'") == [(0,)]


def test_what_is_expired_or_not_signed_is_not_promoted(scene: Scene) -> None:
    scene.publish(2.0)
    scene.local.clock.time_s += PLAN.release.valid_s + 1  # held versions and the newest are renewed, others are not
    scene.local.settle()
    with refused("release-expired", Refused):
        scene.act("promote", 1, Rule())
    with scene.local.parts.database.write() as connection:
        connection.execute(update(version).where(version.c.number == 2).values(signature=bytes(64)))
    with refused("bad-signature", Refused):
        scene.act("promote", 2, Rule())
    with refused("version-unknown", Missing):
        scene.act("promote", 7, Rule())
    assert scene.state.promotion == 0


def test_nobody_comes_in_time(scene: Scene) -> None:
    scene.act("promote", 1, Rule())
    scene.local.clock.time_s += PLAN.deadlines.round_s + 1
    scene.local.settle()
    assert scene.promotion.phase == "rolled-back"
    assert "too few devices came" in scene.promotion.reason
    assert scene.uses() == [0] * 6


@pytest.mark.parametrize(("rest_s", "waits"), [(PLAN.deadlines.round_s / 2, True), (2 * PLAN.deadlines.round_s, False)])
def test_a_stage_counts_on_devices_that_rest_only_if_they_are_back_in_time(
    local: Local, monkeypatch: pytest.MonkeyPatch, rest_s: float, *, waits: bool
) -> None:
    """Otherwise it would wait for its whole time for devices of which it is known that they may not come."""
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    scene = Scene(local, dataclasses.replace(PLAN, eligibility=Eligibility(min_interval_s=rest_s)))
    names = ", ".join(f"'{member.device}'" for member in scene.members)
    values = f"contributions = 1, last_contribution_s = {scene.now_s}"
    local.change(f"UPDATE device SET {values} WHERE device IN ({names})")  # noqa: S608
    scene.act("promote", 1, Rule((1.0,)))
    if waits:
        assert (scene.promotion.phase, scene.promotion.reason) == ("evaluating", "")
    else:
        assert scene.promotion.phase == "rolled-back"
        assert "only 0 devices are left that can evaluate it" in scene.promotion.reason
    if waits:
        spent_s = 0.75 * PLAN.deadlines.round_s  # nobody has come, and who contributes again now would be late
        local.clock.time_s += spent_s
        local.change(f"UPDATE device SET last_contribution_s = {scene.now_s}")  # noqa: S608
        local.change(f"UPDATE cohort SET phase = 'failed' WHERE id = '{scene.promotion.cohort}'")  # noqa: S608
        local.settle()
        assert scene.promotion.phase == "rolled-back"
        assert "only 0 devices are left" in scene.promotion.reason


def test_without_held_out_examples_nothing_is_released(scene: Scene) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate((Evaluation(0.0, 0, 0),) * 2)
    assert "0 devices had held-out examples, 2 are needed" in scene.promotion.reason
    assert scene.state.released == 0


def test_a_device_outside_the_stage_cannot_join_and_training_keys_are_worth_nothing(scene: Scene) -> None:
    scene.act("promote", 1, Rule())
    outside = next(member for member in scene.members if member not in scene.stage())
    outside.meet_to_evaluate(1, 0, GOOD)
    with refused("other-stage", Refused):
        outside.do("join")
    inside = scene.stage()[0]
    inside.meet_to_evaluate(1, 0, GOOD)
    as_training = dataclasses.replace(inside.session._binding, purpose="training")
    inside.session._binding = as_training
    with refused("bad-signature"):
        inside.do("join")


def test_a_device_that_declines_is_not_asked_again_and_may_train_meanwhile(scene: Scene) -> None:
    scene.act("promote", 1, Rule())
    inside = scene.stage()[0]
    assert scene.ask(inside).action == "evaluate"
    assert scene.ask(inside, declined=scene.promotion.number).action == "train"
    assert scene.local.rows("SELECT count(*) FROM invitation WHERE purpose = 'evaluation'") == [(0,)]


def test_a_task_with_noise_is_not_evaluated_without(local: Local) -> None:
    privacy = Privacy("skellam", 1.0, max_participations=9, max_epsilon=500.0)
    plan = dataclasses.replace(PLAN, privacy=privacy)
    scene = Scene(local, plan)
    with refused("evaluation-without-noise", Refused):
        scene.act("promote", 1, Rule())


def test_devices_of_a_finished_task_are_told_soon_while_a_release_goes_on(scene: Scene) -> None:
    scene.local.change("UPDATE task SET state = 'done'")
    with scene.local.parts.database.write() as connection:
        bump(connection)
    assert scene.ask(scene.members[0]).retry_after_ms > RETRY_AFTER_MS
    scene.act("promote", 1, Rule())
    outside = next(member for member in scene.members if member not in scene.stage())
    answer = scene.ask(outside)
    assert (answer.action, answer.retry_after_ms) == ("done", RETRY_AFTER_MS)
    scene.evaluate(GOOD)
    assert scene.promotion.stage == 1


def test_what_devices_use_is_kept(scene: Scene) -> None:
    local = scene.local
    for value in range(2, 8):
        scene.publish(float(value))
    scene.act("pin", 0)
    retire_versions(local.parts.database, Retention(2))
    forget_versions(local.parts.database)
    local.clock.time_s += 10 * 86400
    remove_unneeded(local.parts.database, local.parts.blobs, local.clock.now_s())
    with local.parts.database.read() as connection:
        assert [number for number in range(8) if is_kept(connection, TASK, number)] == [0, 6, 7]
    scene.local.settle()
    assert len(scene.members[0].weights(0)) > DIMENSION
    with refused("version-removed"):
        scene.members[0].release(3)


def test_a_version_without_files_is_neither_promoted_nor_pinned(scene: Scene) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(GOOD)  # so that it could be pinned
    scene.act("roll_back")
    for value in range(2, 8):
        scene.publish(float(value))
    retire_versions(scene.local.parts.database, Retention(2))
    before = scene.state
    for action, more in (("pin", ()), ("promote", (Rule(),))):
        with refused("version-removed", Refused):
            scene.act(action, 1, *more)
    assert scene.state == before


def test_a_version_that_is_held_meanwhile_is_not_forgotten(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in range(2, 8):
        scene.publish(float(value))
    database = scene.local.parts.database
    retire_versions(database, Retention(2))
    write = database.write

    def pinned_before() -> AbstractContextManager[Connection]:
        monkeypatch.undo()
        scene.act("pin", 0)  # between the look and the deletion
        return write()

    with write() as connection:
        connection.execute(setting.delete().where(setting.c.name == "kept-from:" + TASK))
        connection.execute(setting.insert().values(name="kept-from:" + TASK, value="6"))
    monkeypatch.setattr(database, "write", pinned_before)
    forget_versions(database)
    assert scene.uses() == [0] * 6
    assert (0,) in scene.local.rows("SELECT number FROM version")


def test_an_import_gives_up_the_round_and_changes_what_nobody_uses(scene: Scene) -> None:
    local = scene.local
    scene.publish(2.0)
    rounds = local.rows("SELECT phase, reason, base_version FROM round ORDER BY number")
    assert rounds[-2:] == [("abandoned", "version 2 was imported", 1), ("open", "", 2)]
    assert scene.uses() == [0] * 6
    weights = save({"theta": np.zeros(DIMENSION - 1, np.float32)})
    for wrong in (weights, b"no safetensors", save({"other": np.zeros(DIMENSION, np.float32)})):
        with refused("wrong-weights", UsageError):
            import_weights(
                local.parts.database, local.parts.blobs, ME, None, TASK, wrong, key=local.release_key, now_s=0.0
            )
    assert local.rows("SELECT max(number) FROM version") == [(2,)]


def test_files_cards_and_lists(scene: Scene) -> None:
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(GOOD)
    parts = scene.local.parts
    with parts.database.read() as connection:
        data = file_in_form(connection, parts.blobs, TASK, 1, "safetensors")
        assert load(data)["theta"].tolist() == [1.0] * DIMENSION
        with refused("needs-tensorflow", NeedsTensorFlow):
            file_in_form(connection, parts.blobs, TASK, 1, "keras")
        with refused("file-unknown", Missing):  # the textbook model has no program
            file_in_form(connection, parts.blobs, TASK, 1, "int8")
        versions = list_versions(connection, TASK, scene.now_s)
        assert [(one["version"], one["use"], one["evaluated"]) for one in versions] == [(1, "released", 60), (0, "", 0)]
        assert versions[0]["loss"] == pytest.approx(0.1)
        card = model_card(connection, parts.blobs, TASK, 1)
        report = release_report(connection, TASK)
    assert card["evaluation"]["devices"] == 6
    assert card["releases"][0]["passed"]
    words = card_text(card)
    assert "8 parameters" in words
    assert "loss 0.1000 on 60 held-out examples of 6 devices" in words
    assert "no bound on what sums and models reveal" in words
    assert (report["released"], report["follows"], report["told"]) == (1, "promoted", True)


def test_a_task_that_follows_the_newest_begins_to_hold_with_its_first_promotion(local: Local) -> None:
    local.create(PLAN)
    with local.parts.database.write() as connection:
        connection.execute(text("UPDATE task SET state = 'done'"))
        with pytest.raises(FedloomError) as caught:
            actions.promote(
                connection, ME, 0, TASK, 0, Rule(), release_key=local.release_key.public, now_s=local.clock.now_s()
            )
    assert caught.value.code == "nothing-to-compare"
    member = local.enrol(PLAN, 1)[0]
    with refused("no-decision", Missing):
        member.transport.send("GET", DECISION)


def test_the_metric_tells_which_version_devices_of_which_stage_use(scene: Scene) -> None:
    def told() -> dict[str, float]:
        page = scene.local.app.test_client().get(METRICS).get_data(as_text=True)
        found = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return {one.labels["stage"]: one.value for one in found if one.name == "fedloom_released_version"}

    assert told() == {"all": 0.0}  # held, and version 1 is the newest
    scene.act("promote", 1, Rule((0.001, 1.0)))
    assert told() == {"all": 0.0, "1": 1.0}
    scene.evaluate(GOOD)
    assert told() == {"all": 0.0, "2": 1.0}
    scene.act("pin", 0)
    assert told() == {"all": 0.0}
    scene.act("unpin")
    scene.evaluate(GOOD)
    assert told() == {"all": 1.0}
    assert scene.uses() == [1] * 6

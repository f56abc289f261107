"""Wrong, repeated and late steps of a cohort: one named 4xx problem each, nothing changed, and the round goes on."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import pytest

from shared.secagg.roster import CohortBinding
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import encode
from shared.wire.messages import Meeting, read_answer, read_shares, write_answer, write_octets, write_shares
from shared.wire.signed import SigningKey
from tests.cloud_server.members import STEPS, Member
from tests.e2e.scene import (
    MEMBERS,
    Answer,
    Attack,
    Scene,
    assert_refused,
    finish,
    go_on,
    set_scene,
    state,
)
from tests.e2e.servers import Deployment

pytestmark = pytest.mark.xdist_group("bad-input")


def late_join(scene: Scene) -> Answer:
    return scene.put("join", b'{"late":1}')


def without_a_byte(scene: Scene) -> Answer:
    return scene.put("vector", scene.ready["vector"][:-1])


def with_a_byte_more(scene: Scene) -> Answer:
    return scene.put("vector", scene.ready["vector"] + b"\0")


def empty(scene: Scene) -> Answer:
    return scene.put("vector", b"")


def far_too_long(scene: Scene) -> Answer:
    return scene.put("vector", bytes(20_000_000))


def other_than_signed(scene: Scene) -> Answer:
    headers = scene.attacker.transport.signed("PUT", scene.attacker.target("vector"), scene.ready["vector"])
    return scene.raw("PUT", scene.attacker.target("vector"), headers, bytes(len(scene.ready["vector"])))


def early(step: str) -> Attack:
    return lambda scene: scene.put(step, b"{}")


def _join(scene: Scene, **changed: object) -> Answer:
    attacker = scene.attacker
    binding = replace(attacker.session._binding, **changed)  # type: ignore[arg-type]
    session = _session(attacker, binding)
    return scene.put("join", encode(session.join().to_json()))


def _session(member: Member, binding: CohortBinding) -> DeviceSession:
    return DeviceSession(
        identity=member.key,
        certificate=member.certificate,
        binding=binding,
        rules=member.plan.rules,
        authority_key=member.root.authority_key,
        random_bytes=os.urandom,
    )


def for_another_cohort(scene: Scene) -> Answer:
    return _join(scene, cohort=scene.other.cohort)


def for_another_plan(scene: Scene) -> Answer:
    return _join(scene, plan_sha256=bytes(32))


def for_another_model(scene: Scene) -> Answer:
    return _join(scene, model_sha256=bytes(32))


def that_expires_later(scene: Scene) -> Answer:
    return _join(scene, expires_at_s=scene.attacker.session._binding.expires_at_s + 1)


def of_another_device(scene: Scene) -> Answer:
    query = "SELECT body FROM step WHERE cohort = ? AND step = 'join' AND device = ?"
    return scene.put("join", scene.running.rows(query, scene.attacker.cohort, scene.members[1].device)[0][0])


def with_a_self_made_certificate(scene: Scene) -> Answer:
    attacker = scene.attacker
    forged = type(attacker.certificate).issue(
        attacker.key,
        task=attacker.plan.task,
        device=attacker.device,
        identity_key=attacker.key.public,
        expires_at_s=attacker.certificate.expires_at_s,
    )
    session = _session(replace(attacker, certificate=forged), attacker.session._binding)
    return scene.put("join", encode(session.join().to_json()))


def _own_shares(scene: Scene) -> SharesMessage:
    return read_shares(scene.ready["shares"])


def for_one_receiver_less(scene: Scene) -> Answer:
    message = _own_shares(scene)
    boxes = dict(list(message.boxes.items())[1:])
    return scene.put("shares", write_shares(SharesMessage(message.commitment, boxes)))


def for_itself_too(scene: Scene) -> Answer:
    message = _own_shares(scene)
    boxes = {index: bytes(SEALED_BYTES) for index in range(MEMBERS)}
    return scene.put("shares", write_shares(SharesMessage(message.commitment, boxes)))


def for_a_receiver_that_is_not_there(scene: Scene) -> Answer:
    message = _own_shares(scene)
    boxes = {index + 1 if index == max(message.boxes) else index: box for index, box in message.boxes.items()}
    boxes |= {99: bytes(SEALED_BYTES)}
    return scene.put("shares", write_shares(SharesMessage(message.commitment, boxes)))


def with_short_boxes(scene: Scene) -> Answer:
    return scene.put("shares", write_shares(SharesMessage(bytes(32), {0: b"short"})))


def signed_by_another_key(scene: Scene) -> Answer:
    return scene.put("agreement", write_octets("signature", SigningKey.generate(os.urandom).sign(b"bitmap")))


def over_another_bitmap(scene: Scene) -> Answer:
    return scene.put("agreement", write_octets("signature", scene.attacker.key.sign(b"bitmap")))


def with_both_shares_of_one_member(scene: Scene) -> Answer:
    honest = read_answer(scene.ready["answer"])
    return scene.put("answer", write_answer(UnmaskAnswer(honest.self_mask, {0: bytes(32)})))


def for_the_wrong_fates(scene: Scene) -> Answer:
    honest = read_answer(scene.ready["answer"])
    first, *rest = honest.self_mask.items()
    return scene.put("answer", write_answer(UnmaskAnswer(dict(rest), dict([first]))))


def for_too_few_members(scene: Scene) -> Answer:
    honest = read_answer(scene.ready["answer"])
    return scene.put("answer", write_answer(UnmaskAnswer(dict(list(honest.self_mask.items())[1:]), {})))


STEP_ATTACKS: Final[dict[str, list[tuple[Attack, int, str]]]] = {
    "join": [
        (for_another_cohort, 403, "other-cohort"),
        (for_another_plan, 403, "other-plan"),
        (for_another_model, 403, "other-model"),
        (that_expires_later, 403, "other-cohort"),
        (of_another_device, 401, "wrong-device"),
        (with_a_self_made_certificate, 401, "bad-signature"),
        (early("join"), 400, "bad-field"),
        (early("shares"), 410, "phase-over"),
        (early("vector"), 410, "phase-over"),
        (early("agreement"), 410, "phase-over"),
        (early("answer"), 410, "phase-over"),
    ],
    "share": [
        (late_join, 409, "different-repeat"),
        (for_one_receiver_less, 400, "wrong-receivers"),
        (for_itself_too, 400, "wrong-receivers"),
        (for_a_receiver_that_is_not_there, 400, "wrong-receivers"),
        (with_short_boxes, 400, "bad-field"),
        (early("vector"), 410, "phase-over"),
    ],
    "upload": [
        (without_a_byte, 400, "wrong-vector-length"),
        (with_a_byte_more, 400, "wrong-vector-length"),
        (empty, 400, "wrong-vector-length"),
        (far_too_long, 400, "wrong-vector-length"),
        (other_than_signed, 400, "body-hash"),
        (early("agreement"), 410, "phase-over"),
    ],
    "agree": [
        (signed_by_another_key, 401, "bad-signature"),
        (over_another_bitmap, 401, "bad-signature"),
        (early("agreement"), 400, "bad-field"),
    ],
    "answer": [
        (with_both_shares_of_one_member, 400, "bad-field"),
        (for_the_wrong_fates, 400, "wrong-shares"),
        (for_too_few_members, 400, "wrong-shares"),
    ],
}


@pytest.mark.parametrize("step", STEPS)
def test_a_wrong_step_changes_nothing_and_the_round_goes_on(running: Deployment, step: str) -> None:
    scene = set_scene(running, step, f"wrong-{step}")
    before = state(running)
    for attack, status, code in STEP_ATTACKS[step]:
        assert_refused(attack(scene), status, code)
        assert state(running) == before
    finish(scene, step)


@pytest.mark.parametrize("step", STEPS)
def test_a_different_repeat_of_any_step_is_refused(running: Deployment, step: str) -> None:
    scene = set_scene(running, step, f"repeat-{step}")
    route, body = next(iter(scene.ready.items()))
    assert scene.put(route, body).status == 200
    assert scene.put(route, body).status == 200
    for other in (b"", body[:-1], body + b" ", b"{}"):
        assert_refused(scene.put(route, other), 409, "different-repeat")
    go_on(scene, step)


def test_a_device_that_did_not_join_sees_nothing_of_a_cohort(running: Deployment) -> None:
    scene = set_scene(running, "upload", "outsider")
    outsider = running.enrol(scene.attacker.plan, 1)[0]
    binding = scene.attacker.session._binding
    outsider.enter(Meeting(binding.cohort, binding.expires_at_s), binding.model_sha256.hex())
    seen = replace(scene, members=[outsider])
    for step in ("roster", "inbox", "survivors", "agreements", "outcome"):
        assert_refused(seen.signed("GET", outsider.target(step)), 404, "not-in-roster")
    assert_refused(seen.put("join", b"{}"), 410, "phase-over")
    assert_refused(seen.put("vector", scene.ready["vector"]), 404, "not-in-roster")
    finish(scene, "upload")

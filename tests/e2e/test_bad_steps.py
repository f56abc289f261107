"""Wrong, repeated and late steps of a cohort: one named 4xx problem each, nothing changed, and the round goes on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.secagg.roster import CohortBinding, make_member
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import encode, octets_from_text
from shared.wire.messages import (
    Meeting,
    read_answer,
    read_octets,
    read_shares,
    write_answer,
    write_octets,
    write_shares,
)
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


def _join_with(scene: Scene, channel_key: bytes) -> Answer:
    attacker = scene.attacker
    mask_key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    binding = attacker.session._binding
    made = make_member(attacker.key, attacker.certificate, binding, channel_key=channel_key, mask_key=mask_key)
    return scene.put("join", encode(made.to_json()))


def with_a_key_of_low_order(scene: Scene) -> Answer:
    return _join_with(scene, bytes(32))


def with_another_key_of_low_order(scene: Scene) -> Answer:
    return _join_with(scene, (1).to_bytes(32, "little"))


def with_a_key_beyond_the_field(scene: Scene) -> Answer:
    return _join_with(scene, (2**255 - 19 + 9).to_bytes(32, "little"))


def with_a_key_of_another_member(scene: Scene) -> Answer:
    query = "SELECT body FROM step WHERE cohort = ? AND step = 'join' AND device = ?"
    stored = json.loads(scene.running.rows(query, scene.attacker.cohort, scene.members[1].device)[0][0])
    body = json.loads(octets_from_text(stored["join"]["body"]))
    return _join_with(scene, octets_from_text(body["channel_key"]))


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


def _renamed(scene: Scene, step: str, field: str, name: str) -> Answer:
    message = json.loads(scene.ready[step])
    first, *rest = message[field]
    message[field] = {name: message[field][first], **{index: message[field][index] for index in rest}}
    return scene.put(step, json.dumps(message).encode())


def for_an_index_with_a_zero_in_front(scene: Scene) -> Answer:
    return _renamed(scene, "shares", "boxes", "01")


def for_a_negative_index(scene: Scene) -> Answer:
    return _renamed(scene, "shares", "boxes", "-1")


def for_one_receiver_twice(scene: Scene) -> Answer:
    body = scene.ready["shares"]
    entry = body.partition(b'"boxes":{')[2].partition(b",")[0]
    return scene.put("shares", body.replace(b'"boxes":{', b'"boxes":{' + entry + b",", 1))


def for_an_owner_with_a_zero_in_front(scene: Scene) -> Answer:
    return _renamed(scene, "answer", "self_mask", "00")


def with_s_beyond_the_order(scene: Scene) -> Answer:
    good = read_octets(scene.ready["agreement"], "signature")
    scalar = int.from_bytes(good[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    return scene.put("agreement", write_octets("signature", good[:32] + scalar.to_bytes(32, "little")))


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
        (with_a_key_of_low_order, 403, "bad-public-key"),
        (with_another_key_of_low_order, 403, "bad-public-key"),
        (with_a_key_beyond_the_field, 403, "bad-public-key"),
        (with_a_key_of_another_member, 409, "duplicate-member"),
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
        (for_an_index_with_a_zero_in_front, 400, "bad-field"),
        (for_a_negative_index, 400, "bad-field"),
        (for_one_receiver_twice, 400, "bad-json"),
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
        (with_s_beyond_the_order, 401, "bad-signature"),
        (early("agreement"), 400, "bad-field"),
    ],
    "answer": [
        (with_both_shares_of_one_member, 400, "bad-field"),
        (for_the_wrong_fates, 400, "wrong-shares"),
        (for_too_few_members, 400, "wrong-shares"),
        (for_an_owner_with_a_zero_in_front, 400, "bad-field"),
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

"""Wrong, repeated, late and foreign requests: one named 4xx problem each, nothing changed, and the round goes on.

Every attack is one function that sends one request as a device that is a member of a running cohort; the table says
which answer it must get. Routes, headers and bodies are as real devices send them, with one thing wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import load

from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Update
from shared.root import EnrolmentCode
from shared.secagg.roster import CohortBinding
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import encode, octets_to_text, sha256
from shared.wire.messages import Meeting, read_answer, read_shares, write_answer, write_octets, write_shares
from shared.wire.requests import (
    BLOBS,
    BODY_HEADER,
    CHECK_IN,
    COHORTS,
    COUNTER_HEADER,
    DEVICE_HEADER,
    ENROL,
    JSON,
    PROBLEM,
    RELEASES,
    RENDEZVOUS,
    SIGNATURE_HEADER,
    request_message,
)
from shared.wire.signed import SigningKey
from tests.cloud_server.members import STEPS, Member, one_hot, redeem_body
from tests.e2e.servers import Deployment, run_steps

pytestmark = pytest.mark.xdist_group("bad-input")
MEMBERS: Final = 3
HOUR_S: Final = 3600.0
WAIT_BODY: Final = b'{"contributed_round":-1}'


@dataclass(frozen=True)
class Answer:
    """What the server said: status, media type and the problem's fields."""

    status: int
    content_type: str
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document."""
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class Scene:
    """A cohort of ``members`` that has come to a phase, and a device of another task.

    Attributes:
        running: the server.
        members: of the cohort; the first one is the attacker.
        ready: the attacker's next honest message, by route.
        other: enrolled in another task, whose cohort forms.
    """

    running: Deployment
    members: list[Member]
    other: Member
    ready: dict[str, bytes]

    @property
    def attacker(self) -> Member:
        """The device that misbehaves."""
        return self.members[0]

    def raw(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send exactly this, once."""
        transport = self.attacker.transport
        length = {"Content-Length": str(len(body))} if body else {}
        with transport.open(method, target, {"Content-Type": JSON, **headers, **length}, body) as response:
            data = response.read()
            return Answer(response.status, response.headers.get("Content-Type", ""), data)

    def signed(self, method: str, target: str, body: bytes = b"", **changed: str) -> Answer:
        """Send a signed request, with headers changed after signing."""
        headers = self.attacker.transport.signed(method, target, body)
        return self.raw(method, target, headers | {_HEADERS[name]: value for name, value in changed.items()}, body)

    def put(self, step: str, body: bytes) -> Answer:
        """Send a step of the attacker's cohort."""
        return self.signed("PUT", self.attacker.target(step), body)


_HEADERS: Final = {
    "device": DEVICE_HEADER,
    "counter": COUNTER_HEADER,
    "digest": BODY_HEADER,
    "signature": SIGNATURE_HEADER,
}
Attack = Callable[[Scene], Answer]


def small_plan(task: str) -> Plan:
    return Plan(
        task,
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=MEMBERS, corrupt_share=0.0, dropout_share=0.0),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


def new_members(running: Deployment, task: str, count: int) -> list[Member]:
    plan = small_plan(task)
    running.create_task(plan, MEMBERS)
    members = running.enrol(plan, count)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    return members


def set_scene(running: Deployment, step: str, name: str) -> Scene:
    """Bring a cohort to where it waits for the attacker to do ``step``."""
    members = new_members(running, name, MEMBERS)
    for earlier in STEPS[: STEPS.index(step)]:
        for member in members:
            member.do(earlier)
    if step != "answer":  # the last answer that is needed ends the cohort
        for member in members[1:]:
            member.do(step)
    route, body = members[0].prepare(step)
    return Scene(running, members, new_members(running, f"{name}-other", 1)[0], {route: body})


def go_on(scene: Scene, step: str) -> None:
    """Let everybody do what follows ``step``, and see every device counted."""
    if step == "answer":
        run_steps(scene.members[1:], [step])
    run_steps(scene.members, STEPS[STEPS.index(step) + 1 :])
    assert all(member.counted() for member in scene.members)


def finish(scene: Scene, step: str) -> None:
    """Let the attacker do what it should have done, and see every device counted once."""
    route, body = next(iter(scene.ready.items()))
    assert scene.put(route, body).status == 200
    go_on(scene, step)
    np.testing.assert_allclose(load(scene.attacker.weights(1))["theta"], np.ones(MEMBERS), atol=1e-6)


def state(running: Deployment) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that the server remembers, apart from which counters were used."""
    tables = ("task", "version", "round", "cohort", "step")
    rows = {table: running.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables}  # noqa: S608  # constants
    rows["device"] = running.rows("SELECT device, task, certificate, identity_key FROM device ORDER BY 1")
    uploads = running.data / "uploads"
    rows["uploads"] = sorted((str(path), path.read_bytes()) for path in uploads.rglob("*") if path.is_file())
    return rows


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.content_type) == (status, PROBLEM), answer
    problem = answer.problem
    assert problem.keys() == {"type", "title", "status", "code", "detail", "try"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:fedloom:problem:{code}"
    assert problem["detail"]


# Who sends it


def by_nobody(scene: Scene) -> Answer:
    return scene.raw("POST", CHECK_IN, {}, WAIT_BODY)


def by_an_unknown_device(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, device="device-" + "0" * 32)


def in_the_name_of_another_device(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, device=scene.members[1].device)


def with_another_key(scene: Scene) -> Answer:
    signer = scene.attacker.transport._signer
    assert signer is not None
    forged = replace(signer, key=SigningKey.generate(os.urandom))
    return scene.raw("POST", CHECK_IN, forged.headers("POST", CHECK_IN, WAIT_BODY), WAIT_BODY)


def recorded_at_another_server(scene: Scene) -> Answer:
    signer = scene.attacker.transport._signer
    assert signer is not None
    foreign = replace(signer, fingerprint=bytes(32))
    return scene.raw("POST", CHECK_IN, foreign.headers("POST", CHECK_IN, WAIT_BODY), WAIT_BODY)


def signed_for_another_route(scene: Scene) -> Answer:
    headers = scene.attacker.transport.signed("POST", RENDEZVOUS, WAIT_BODY)
    return scene.raw("POST", CHECK_IN, headers, WAIT_BODY)


def with_a_query_that_was_not_signed(scene: Scene) -> Answer:
    headers = scene.attacker.transport.signed("POST", CHECK_IN, WAIT_BODY)
    return scene.raw("POST", CHECK_IN + "?a=b", headers, WAIT_BODY)


def without_a_counter(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, counter="")


def with_a_negative_counter(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, counter="-1")


def with_a_huge_counter(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, counter="9" * 400)


def with_a_counter_in_other_digits(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, counter="\u00b2")


def with_a_signature_in_other_letters(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, signature="!" * 86)


def with_a_short_signature(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, signature="AAAA")


def with_a_short_body_hash(scene: Scene) -> Answer:
    return scene.signed("POST", CHECK_IN, WAIT_BODY, digest="00")


def with_a_body_hash_that_is_none(scene: Scene) -> Answer:
    """Even signed: the header is no hash."""
    return _signed_digest(scene, "\u00e9" * 64)


def with_the_hash_of_another_body(scene: Scene) -> Answer:
    return _signed_digest(scene, sha256(b"another").hex())


def _signed_digest(scene: Scene, digest: str) -> Answer:
    signer = scene.attacker.transport._signer
    assert signer is not None
    counter = signer.next_counter()
    message = request_message(signer.fingerprint, signer.device, counter, "POST", CHECK_IN, digest)
    headers = {
        DEVICE_HEADER: signer.device,
        COUNTER_HEADER: str(counter),
        BODY_HEADER: digest,
        SIGNATURE_HEADER: octets_to_text(signer.key.sign(message)),
    }
    return scene.raw("POST", CHECK_IN, headers, WAIT_BODY)


def replayed(scene: Scene) -> Answer:
    old = scene.attacker.transport.signed("POST", RENDEZVOUS, b'{"version":1}')
    assert scene.signed("GET", f"{RELEASES}/0").status == 200
    return scene.raw("POST", RENDEZVOUS, old, b'{"version":1}')


def same_counter_for_another_body(scene: Scene) -> Answer:
    signer = scene.attacker.transport._signer
    assert signer is not None
    counter = signer.next_counter()
    fixed = replace(signer, next_counter=lambda: counter)
    target = f"{RELEASES}/0"
    assert scene.raw("GET", target, fixed.headers("GET", target, b"")).status == 200
    assert scene.raw("GET", target, fixed.headers("GET", target, b"")).status == 200  # an exact repeat
    return scene.raw("POST", CHECK_IN, fixed.headers("POST", CHECK_IN, WAIT_BODY), WAIT_BODY)


# What it says


def _check_in(body: bytes) -> Attack:
    return lambda scene: scene.signed("POST", CHECK_IN, body)


def _get(target: str) -> Attack:
    return lambda scene: scene.signed("GET", target)


def an_unknown_blob_of_this_form(scene: Scene) -> Answer:
    return scene.signed("GET", f"{BLOBS}/{'0' * 64}")


def a_cohort_of_another_task(scene: Scene) -> Answer:
    return scene.signed("GET", f"{COHORTS}/{scene.other.cohort}/roster")


def joining_a_cohort_of_another_task(scene: Scene) -> Answer:
    return scene.signed("PUT", f"{COHORTS}/{scene.other.cohort}/join", b"{}")


ANYWHERE: Final[list[tuple[str, Attack, int, str]]] = [
    (attack.__name__, attack, status, code)
    for attack, status, code in (
        (by_nobody, 401, "unsigned-request"),
        (by_an_unknown_device, 401, "unknown-device"),
        (in_the_name_of_another_device, 401, "bad-signature"),
        (with_another_key, 401, "bad-signature"),
        (recorded_at_another_server, 401, "bad-signature"),
        (signed_for_another_route, 401, "bad-signature"),
        (with_a_query_that_was_not_signed, 401, "bad-signature"),
        (without_a_counter, 401, "unsigned-request"),
        (with_a_negative_counter, 401, "unsigned-request"),
        (with_a_huge_counter, 401, "unsigned-request"),
        (with_a_counter_in_other_digits, 401, "unsigned-request"),
        (with_a_signature_in_other_letters, 400, "bad-octets"),
        (with_a_short_signature, 401, "unsigned-request"),
        (with_a_short_body_hash, 401, "unsigned-request"),
        (with_a_body_hash_that_is_none, 401, "unsigned-request"),
        (with_the_hash_of_another_body, 400, "body-hash"),
        (replayed, 409, "replayed-request"),
        (same_counter_for_another_body, 409, "replayed-request"),
        (an_unknown_blob_of_this_form, 404, "blob-unknown"),
        (a_cohort_of_another_task, 404, "cohort-unknown"),
        (joining_a_cohort_of_another_task, 404, "cohort-unknown"),
    )
] + [
    ("an empty body", _check_in(b""), 400, "bad-json"),
    ("invalid UTF-8", _check_in(b'{"contributed_round":"\xff\xfe"}'), 400, "bad-json"),
    ("a duplicate key", _check_in(b'{"contributed_round":-1,"contributed_round":-1}'), 400, "bad-json"),
    ("an unknown key", _check_in(b'{"contributed_round":-1,"admin":"yes"}'), 400, "bad-field"),
    ("a missing key", _check_in(b"{}"), 400, "bad-field"),
    ("a text for a number", _check_in(b'{"contributed_round":"1"}'), 400, "bad-field"),
    ("NaN", _check_in(b'{"contributed_round":NaN}'), 400, "bad-json"),
    ("a big integer", _check_in(b'{"contributed_round":' + b"9" * 5000 + b"}"), 400, "bad-json"),
    ("a list", _check_in(b"[1]"), 400, "bad-json"),
    ("nesting of 100,000", _check_in(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), 400, "bad-json"),
    ("10 MB of JSON", _check_in(b'{"a":"' + b"a" * 10_000_000 + b'"}'), 400, "body-too-large"),
    ("NUL, right-to-left and HTML", _check_in('{"\\u0000\u202e<script>":1}'.encode()), 400, "bad-field"),
    ("SQL in a cohort's name", _get(f"{COHORTS}/x';--/roster"), 404, "cohort-unknown"),
    ("a path in a blob's hash", _get(f"{BLOBS}/../../server.db"), 404, "not-found"),
    ("an encoded path in a blob's hash", _get(f"{BLOBS}/..%2F..%2Fserver.db"), 404, "not-found"),
    ("a file's name as a blob", _get(f"{BLOBS}/release.key"), 404, "blob-unknown"),
    ("a blob's hash in capitals", _get(f"{BLOBS}/{'A' * 64}"), 404, "blob-unknown"),
    ("a version that is not there", _get(f"{RELEASES}/7"), 404, "version-unknown"),
    ("a version beyond the database's integers", _get(f"{RELEASES}/{10**30}"), 404, "version-unknown"),
    ("a negative version", _get(f"{RELEASES}/-1"), 404, "not-found"),
    ("a route that is not there", _get("/v1/admin"), 404, "not-found"),
    ("another method", lambda scene: scene.signed("PUT", CHECK_IN, WAIT_BODY), 405, "method-not-allowed"),
    ("an old version", lambda scene: scene.signed("POST", RENDEZVOUS, b'{"version":9}'), 409, "version-closed"),
]


# A step of the cohort with something wrong


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


@pytest.fixture(scope="module")
def scene(running: Deployment) -> Iterator[Scene]:
    """Return a cohort that collects vectors, and see it end well after all attacks."""
    made = set_scene(running, "upload", f"anywhere-{os.urandom(4).hex()}")
    yield made
    finish(made, "upload")


@pytest.mark.parametrize(("attack", "status", "code"), [row[1:] for row in ANYWHERE], ids=[row[0] for row in ANYWHERE])
def test_a_wrong_request_changes_nothing(scene: Scene, attack: Attack, status: int, code: str) -> None:
    before = state(scene.running)
    assert_refused(attack(scene), status, code)
    assert state(scene.running) == before


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


def enrol_answer(scene: Scene, code: EnrolmentCode, key: SigningKey, fingerprint: bytes | None = None) -> Answer:
    return scene.raw("POST", ENROL, {}, redeem_body(code, key, fingerprint))


def test_wrong_expired_and_used_codes_enrol_nobody(scene: Scene) -> None:
    running, task = scene.running, scene.attacker.plan.task
    key, other = (SigningKey.generate(os.urandom) for _ in range(2))
    good, expired = running.codes(task, 1)[0], running.codes(task, 1, valid_s=-1.0)[0]
    wrong = replace(good, secret=bytes(20))
    before = state(running)
    assert_refused(enrol_answer(scene, wrong, key), 403, "code-unknown")
    assert_refused(enrol_answer(scene, expired, key), 403, "code-expired")
    assert_refused(enrol_answer(scene, good, key, bytes(32)), 401, "bad-signature")
    assert_refused(scene.raw("POST", ENROL, {}, b'{"secret":"AA"}'), 400, "bad-field")
    forged = redeem_body(good, key).replace(octets_to_text(key.public).encode(), octets_to_text(other.public).encode())
    assert_refused(scene.raw("POST", ENROL, {}, forged), 401, "bad-signature")
    assert state(running) == before
    first = enrol_answer(scene, good, key)
    assert first.status == 200
    assert enrol_answer(scene, good, key) == first  # its answer may have been lost
    after = state(running)
    assert_refused(enrol_answer(scene, good, other), 409, "code-used")
    assert state(running) == after


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

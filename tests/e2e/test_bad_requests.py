"""Wrong, repeated and foreign requests of anybody: one named 4xx problem each, and nothing has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from shared.root import EnrolmentCode
from shared.wire.canonical import octets_to_text, sha256
from shared.wire.requests import (
    BLOBS,
    BODY_HEADER,
    CHECK_IN,
    COHORTS,
    COUNTER_HEADER,
    DEVICE_HEADER,
    ENROL,
    RELEASES,
    RENDEZVOUS,
    SIGNATURE_HEADER,
    request_message,
)
from shared.wire.signed import SigningKey
from tests.cloud_server.members import redeem_body
from tests.e2e.scene import (
    WAIT_BODY,
    Answer,
    Attack,
    Scene,
    assert_refused,
    finish,
    set_scene,
    state,
)
from tests.e2e.servers import Deployment

pytestmark = pytest.mark.xdist_group("bad-input")


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
    old = scene.attacker.transport.signed("POST", RENDEZVOUS, b'{"purpose":"training","version":1}')
    assert scene.signed("GET", f"{RELEASES}/0").status == 200
    return scene.raw("POST", RENDEZVOUS, old, b'{"purpose":"training","version":1}')


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
    ("a version beyond the database's integers", _get(f"{RELEASES}/{10**30}"), 404, "not-found"),
    ("a negative version", _get(f"{RELEASES}/-1"), 404, "not-found"),
    ("a route that is not there", _get("/v1/admin"), 404, "not-found"),
    ("another method", lambda scene: scene.signed("PUT", CHECK_IN, WAIT_BODY), 405, "method-not-allowed"),
    (
        "an old version",
        lambda scene: scene.signed("POST", RENDEZVOUS, b'{"purpose":"training","version":9}'),
        409,
        "version-closed",
    ),
]


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
    scene.running.reinstate()  # some attacks look like a copied identity


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

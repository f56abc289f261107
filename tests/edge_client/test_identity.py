"""Who a device is: files' modes, damage, and what enrolment does when answers get lost or are forged."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edge_client.identity import load_identity
from edge_client.state_folder import StateFolder
from shared.errors import BrokenState, FedloomError, ProtocolAbort, Refused, UsageError
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import encode, sha256
from shared.wire.signed import Certificate, SigningKey
from tests.edge_client.aggregator import AUTHORITY, FAR_S, Aggregator
from tests.edge_client.devices import enrolled
from tests.edge_client.loopback import Answer, Request, refusal, serve
from tests.shared.refusals import refused


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_enrolment_is_private_and_complete(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolment = enrolled(tmp_path, aggregator, url)
    folder = StateFolder(tmp_path / "state")
    assert (mode(folder.path), mode(folder.key_file), mode(folder.enrolment_file)) == (0o700, 0o600, 0o600)
    identity = load_identity(folder)
    assert identity.enrolment == enrolment
    assert identity.key.public == enrolment.certificate.identity_key
    assert enrolment.root == aggregator.root
    assert identity.key.secret.hex() not in repr(identity)


def test_a_second_enrolment_is_refused(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        with refused("already-enrolled", Refused):
            enrolled(tmp_path, aggregator, url)


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    keys: list[bytes] = []

    def lose_the_first(request: Request) -> Answer:
        answer = aggregator(request)
        if request.path.endswith("enrol"):
            keys.append(request.body)
            return refusal(403, "power-cut") if len(keys) == 1 else answer
        return answer

    with serve(certificates, lose_the_first) as url:
        with refused("power-cut"):
            enrolled(tmp_path, aggregator, url)
        enrolled(tmp_path, aggregator, url)
    assert keys[0] == keys[1]


def test_nobody_is_enrolled(tmp_path: Path) -> None:
    with refused("identity-missing", Refused):
        load_identity(StateFolder(tmp_path))


@pytest.mark.parametrize("damage", ["no key", "half a key", "another key", "no enrolment", "half an enrolment"])
def test_damage_is_named_and_never_healed_by_a_new_identity(tmp_path: Path, certificates: Path, damage: str) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
    folder = StateFolder(tmp_path / "state")
    if damage == "no key":
        folder.key_file.unlink()
    elif damage == "no enrolment":
        folder.enrolment_file.unlink()
    elif damage == "another key":
        folder.key_file.write_bytes(sha256(b"another"))
    else:
        path = folder.key_file if damage == "half a key" else folder.enrolment_file
        path.write_bytes(path.read_bytes()[:20])
    before = sorted(folder.path.iterdir())
    expected: type[FedloomError] = Refused if damage == "no enrolment" else BrokenState
    with refused("identity-missing" if damage == "no enrolment" else "identity-damaged", expected):
        load_identity(folder)
    assert sorted(folder.path.iterdir()) == before


def test_another_root_document_is_refused(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)

    def other_root(request: Request) -> Answer:
        answer = aggregator(request)
        return Answer(body=answer.body[:-1] + b" }") if request.path.endswith("root") else answer

    with serve(certificates, other_root) as url, refused("wrong-root", Refused):
        enrolled(tmp_path, aggregator, url)
    assert not any(request.path.endswith("enrol") for request in aggregator.requests)


@pytest.mark.parametrize("forgery", ["another key", "another authority"])
def test_a_forged_certificate_is_refused(tmp_path: Path, certificates: Path, forgery: str) -> None:
    aggregator = Aggregator(certificates, 2)
    issuer = AUTHORITY if forgery == "another key" else SigningKey(sha256(b"stranger"))
    key = SigningKey(sha256(b"somebody")).public
    forged = Certificate.issue(issuer, task="point", device="device-x", identity_key=key, expires_at_s=FAR_S)

    def forge(request: Request) -> Answer:
        body = encode({"certificate": forged.signed.to_json()})
        return Answer(body=body) if request.path.endswith("enrol") else aggregator(request)

    code = "wrong-certificate" if forgery == "another key" else "bad-signature"
    with serve(certificates, forge) as url, refused(code, Refused):
        enrolled(tmp_path, aggregator, url)
    assert not StateFolder(tmp_path / "state").enrolment_file.exists()


def test_a_code_is_not_used_up_by_missing_examples(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples" / "examples.npz").mkdir()
        with pytest.raises((UsageError, OSError)):
            enrolled(tmp_path, aggregator, url)
    assert aggregator.requests == []


def test_without_a_word_of_colluders_an_owner_wants_one_in_twenty_withstood(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolment = enrolled(tmp_path, aggregator, url)
    with refused("floor-corrupt-share", ProtocolAbort) as caught:
        DeviceFloors(min_survivors=2).check(aggregator.plan.rules, 1.0)
    assert "--min-corrupt-share 0" in caught.value.remedy
    folder = StateFolder(tmp_path / "state")
    document = json.loads(folder.enrolment_file.read_bytes())
    document.pop("sha256")
    assert document.pop("min_corrupt_share") == enrolment.floors.min_corrupt_share == 0.0
    folder.enrolment_file.write_bytes(encode(document))  # as it was written before there was such a demand
    assert load_identity(folder).enrolment.floors.min_corrupt_share == 0.0

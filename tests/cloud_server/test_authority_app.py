"""The authority's own application, asked by strangers, devices and its aggregator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cloud_server.authority.app import AGGREGATOR_FILE, MAX_BODY_BYTES, create_app
from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import Description, RemoteAuthority
from shared.errors import Refused, UsageError
from shared.root import EnrolmentCode, Root
from shared.wire.canonical import decode, sha256
from shared.wire.messages import EnrolRequest, SeedRequest, read_signed
from shared.wire.requests import ENROL, SEEDS, seed_request_message
from shared.wire.signed import Certificate, SigningKey
from tests.cloud_server.members import redeem_body
from tests.edge_client.devices import ManualClock
from tests.shared.refusals import refused

RELEASE_KEY = SigningKey(sha256(b"release"))
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
URL = "https://authority.test:8444"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, ManualClock(), os.urandom)


@pytest.fixture
def root(authority: Authority, tmp_path: Path) -> Root:
    """The aggregator's root document, which the authority was given."""
    found = RemoteAuthority(Description(authority.public_key, URL, PEM), RELEASE_KEY.sign).root(RELEASE_KEY.public, PEM)
    (tmp_path / AGGREGATOR_FILE).write_bytes(found.to_bytes())
    return found


@pytest.fixture
def client(authority: Authority, tmp_path: Path) -> FlaskClient:
    return create_app(authority, tmp_path).test_client()


def code_of(client: FlaskClient, target: str, body: bytes) -> tuple[int, object]:
    answer = client.post(target, data=body)
    return answer.status_code, decode(answer.get_data()).get("code")


def test_a_root_document_sends_devices_to_the_authority(root: Root) -> None:
    read = Root.verified(root.to_bytes(), root.fingerprint)
    assert read == root
    assert (read.authority_url, read.authority_tls_root_pem) == (URL, PEM)
    with refused("bad-url", UsageError):
        data = root.to_bytes().replace(b"https://authority", b"http://authority")
        Root.verified(data, sha256(data))


def test_a_code_is_redeemed_for_the_aggregator_that_its_root_names(
    authority: Authority, client: FlaskClient, root: Root
) -> None:
    key = SigningKey.generate(os.urandom)
    secret = authority.mint("point", count=1, valid_s=60)[0]
    body = redeem_body(EnrolmentCode("https://aggregator", root.fingerprint, secret), key)
    certificate = Certificate.verified(
        read_signed(client.post(ENROL, data=body).get_data(), "certificate"), root.authority_key
    )
    assert (certificate.identity_key, certificate.task) == (key.public, "point")
    other = redeem_body(EnrolmentCode("https://aggregator", sha256(b"other root"), secret), key)
    assert code_of(client, ENROL, other) == (401, "bad-signature")


def test_before_it_knows_its_aggregator_nothing_is_given_out(authority: Authority, client: FlaskClient) -> None:
    key = SigningKey.generate(os.urandom)
    secret = authority.mint("point", count=1, valid_s=60)[0]
    body = redeem_body(EnrolmentCode("https://aggregator", bytes(32), secret), key)
    assert code_of(client, ENROL, body) == (503, "no-aggregator")
    signature = RELEASE_KEY.sign(seed_request_message("cohort-a", bytes(32)))
    assert code_of(client, SEEDS, SeedRequest("cohort-a", bytes(32), signature).to_bytes()) == (503, "no-aggregator")


@pytest.mark.usefixtures("root")
class TestSeeds:
    """The route for seeds."""

    def ask(self, client: FlaskClient, cohort: str, roster_root: bytes, signed: bytes) -> tuple[int, object]:
        return code_of(client, SEEDS, SeedRequest(cohort, roster_root, RELEASE_KEY.sign(signed)).to_bytes())

    def test_the_signature_covers_cohort_and_root(self, client: FlaskClient) -> None:
        message = seed_request_message("cohort-a", bytes(32))
        assert self.ask(client, "cohort-b", bytes(32), message) == (401, "bad-signature")
        assert self.ask(client, "cohort-a", b"1" * 32, message) == (401, "bad-signature")
        assert self.ask(client, "cohort-a", bytes(32), message) == (200, None)

    def test_a_second_roster_of_a_cohort_is_refused(self, client: FlaskClient) -> None:
        assert self.ask(client, "cohort-a", bytes(32), seed_request_message("cohort-a", bytes(32)))[0] == 200
        second = self.ask(client, "cohort-a", b"1" * 32, seed_request_message("cohort-a", b"1" * 32))
        assert second == (409, "seed-drawn")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"", 400, "bad-json"),
            (b"[]", 400, "bad-json"),
            (b"{}", 400, "bad-field"),
            (b" " * (MAX_BODY_BYTES + 1), 413, "request-entity-too-large"),
        ],
    )
    def test_what_is_no_request_is_named(self, client: FlaskClient, body: bytes, status: int, code: str) -> None:
        assert code_of(client, SEEDS, body) == (status, code)


def test_an_aggregator_with_an_authority_elsewhere_makes_and_takes_no_codes(authority: Authority) -> None:
    remote = RemoteAuthority(Description(authority.public_key, URL, PEM), RELEASE_KEY.sign)
    with refused("other-authority", UsageError):
        remote.mint("point", count=1, valid_s=60)
    with refused("other-authority", Refused):
        remote.redeem(EnrolRequest(bytes(20), bytes(32), bytes(64)), bytes(32))


@pytest.mark.parametrize(
    "change", [(b"https:", b"http:"), (b"fedloom-authority-1", b"fedloom-authority-2"), (b"{", b"[")]
)
def test_a_description_that_is_none_is_refused(authority: Authority, change: tuple[bytes, bytes]) -> None:
    data = Description(authority.public_key, URL, PEM).to_bytes()
    assert Description.from_bytes(data).public_key == authority.public_key
    with pytest.raises(UsageError):
        Description.from_bytes(data.replace(*change))

"""Signatures: over exact bytes, for one purpose; certificates and signed requests."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from shared.errors import Unauthenticated, UsageError
from shared.wire.canonical import Json, decode, encode, transcript
from shared.wire.requests import enrolment_message, request_message
from shared.wire.signed import CERTIFICATE_DOMAIN, Certificate, Signed, SigningKey, verify
from tests.shared.cohort_simulation import AUTHORITY, Identity
from tests.shared.refusals import refused

KEY, OTHER = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the Ed25519 group
BODY = encode({"x": 1})


def test_ed25519_gives_the_standards_signature() -> None:
    """RFC 8032, section 7.1, test 1: the empty message."""
    key = SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_a_signature_counts_for_its_key_message_and_nothing_else() -> None:
    signature = KEY.sign(b"message")
    verify(KEY.public, b"message", signature, "a test")
    for key, message, sent in [
        (OTHER.public, b"message", signature),
        (KEY.public, b"massage", signature),
        (KEY.public, b"", signature),
        (KEY.public, b"message", signature[:-1]),
        (KEY.public, b"message", signature + b"\0"),
        (KEY.public, b"message", b""),
        (KEY.public[:-1], b"message", signature),
        (b"", b"message", signature),
    ]:
        with refused("bad-signature", Unauthenticated):
            verify(key, message, sent, "a test")


def test_a_signature_has_one_form() -> None:
    """S plus the group's order verifies the same equation; RFC 8032, section 5.1.7, refuses it."""
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    with refused("bad-signature", Unauthenticated):
        verify(KEY.public, b"message", signature[:32] + scalar.to_bytes(32, "little"), "a test")


def test_what_is_signed_for_one_purpose_is_worthless_for_another() -> None:
    signed = Signed.make(KEY, "fedloom/1/join", BODY)
    signed.verify(KEY.public, "fedloom/1/join", "a test")
    with refused("bad-signature", Unauthenticated):
        signed.verify(KEY.public, CERTIFICATE_DOMAIN, "a test")
    with refused("bad-signature", Unauthenticated):
        Signed(BODY, KEY.sign(BODY)).verify(KEY.public, "fedloom/1/join", "a test")


def test_the_exact_bytes_are_signed_not_their_meaning() -> None:
    signed = Signed.make(KEY, "d", BODY)
    respaced = b'{"x": 1}'
    assert decode(respaced) == decode(BODY)
    with refused("bad-signature", Unauthenticated):
        Signed(respaced, signed.signature).verify(KEY.public, "d", "a test")


def test_signed_bytes_travel_unchanged() -> None:
    signed = Signed.make(KEY, "d", b"\xff\x00 any bytes")
    assert Signed.from_json(signed.to_json(), "a test") == signed


@pytest.mark.parametrize("value", [None, {}, {"body": "AA"}, {"body": "AA", "signature": "AA"}, {"body": 1}])
def test_other_shapes_are_not_signed_bytes(value: Json) -> None:
    with refused("bad-field", UsageError):
        Signed.from_json(value, "a test")


def test_a_key_does_not_print_its_secret() -> None:
    assert repr(KEY.secret) not in repr(KEY)


class TestCertificates:
    """The authority's word."""

    certificate = Identity.enrolled(3).certificate

    def test_is_read_back_from_its_signed_bytes(self) -> None:
        assert Certificate.verified(self.certificate.signed, AUTHORITY.public) == self.certificate

    def test_of_another_authority_is_refused(self) -> None:
        with refused("bad-signature", Unauthenticated):
            Certificate.verified(self.certificate.signed, OTHER.public)

    @pytest.mark.parametrize(
        ("field", "value"), [("device", "device-004"), ("task", "other"), ("expires_at_s", 253_402_300_799)]
    )
    def test_with_a_changed_field_is_refused(self, field: str, value: str | int) -> None:
        body = encode({**decode(self.certificate.signed.body), field: value})
        with refused("bad-signature", Unauthenticated):
            Certificate.verified(dataclasses.replace(self.certificate.signed, body=body), AUTHORITY.public)

    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("format", "fedloom-certificate-2", "bad-field"),
            ("task", "../x", "bad-name"),
            ("device", "<script>", "bad-name"),
            ("device", "", "bad-name"),
            ("identity_key", "AA", "bad-field"),
            ("expires_at_s", -1, "bad-field"),
            ("role", "admin", "bad-field"),
        ],
    )
    def test_that_the_authority_signed_in_another_form_is_refused(
        self, field: str, value: str | int, code: str
    ) -> None:
        body = encode({**decode(self.certificate.signed.body), field: value})
        with refused(code, UsageError):
            Certificate.verified(Signed.make(AUTHORITY, CERTIFICATE_DOMAIN, body), AUTHORITY.public)


def test_a_request_differs_in_every_field_that_is_signed() -> None:
    choices = [
        (b"f" * 32, b"g" * 32),
        ("device-1", "device-2"),
        (7, 8),
        ("PUT", "GET"),
        ("/v1/a", "/v1/b"),
        ("00", "01"),
    ]
    messages = {request_message(*fields) for fields in itertools.product(*choices)}  # type: ignore[arg-type]
    assert len(messages) == 2 ** len(choices)


def test_a_request_cannot_be_split_elsewhere() -> None:
    assert request_message(b"f", "ab", 1, "GET", "/x", "00") != request_message(b"f", "a", 1, "GET", "/x", "00")
    assert request_message(b"f", "a", 1, "GET/", "x", "00") != request_message(b"f", "a", 1, "GET", "/x", "00")


def test_an_enrolment_proof_is_no_request_and_binds_its_code_key_and_server() -> None:
    assert enrolment_message(b"f", b"s", b"k") == transcript("fedloom/1/enrol", b"f", b"s", b"k")
    assert len({enrolment_message(f, s, k) for f, s, k in itertools.product((b"1", b"2"), repeat=3)}) == 8

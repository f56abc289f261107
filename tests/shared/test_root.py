"""What a pasted enrolment code leads to, and what it does not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FedloomError, Refused, UsageError
from shared.root import CODE_PREFIX, EnrolmentCode, Root
from shared.wire.canonical import decode, encode, octets_from_text, octets_to_text, sha256
from tests.shared.refusals import refused

ROOT = Root(b"a" * 32, b"r" * 32, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
CODE = EnrolmentCode("https://fl.example.org:8443", ROOT.fingerprint, b"s" * 20)


def code_with(**changes: str | int | None) -> str:
    fields = {**decode(octets_from_text(CODE.to_text().removeprefix(CODE_PREFIX))), **changes}
    return CODE_PREFIX + octets_to_text(encode({key: value for key, value in fields.items() if value is not None}))


def test_a_code_is_one_word_and_is_read_back() -> None:
    text = CODE.to_text()
    assert text.startswith(CODE_PREFIX)
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert EnrolmentCode.from_text(text) == CODE
    assert EnrolmentCode.from_text(f"  {text}\n") == CODE


def test_a_trailing_slash_of_the_address_does_not_matter() -> None:
    assert EnrolmentCode.from_text(code_with(url=CODE.url + "/")) == CODE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        CODE_PREFIX,
        CODE.to_text()[:-1],
        CODE.to_text()[:40],
        CODE.to_text() + "A",
        CODE.to_text() + "=",
        CODE.to_text().removeprefix(CODE_PREFIX),
        CODE.to_text().replace("fedloom1", "fedloom2"),
        CODE.to_text().upper(),
        CODE.to_text()[:30] + " " + CODE.to_text()[30:],
        CODE.to_text() + CODE.to_text(),
        CODE_PREFIX + "\u0661\ud800",
    ],
)
def test_what_is_not_a_whole_code_is_refused(text: str) -> None:
    with refused("bad-code", UsageError):
        EnrolmentCode.from_text(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", None),
        ("url", "http://fl.example.org"),
        ("url", "https://"),
        ("url", "https:///path"),
        ("url", "ftp://x"),
        ("url", "file:///etc/passwd"),
        ("url", "https://x\n"),
        ("url", 1),
        ("root", octets_to_text(bytes(31))),
        ("root", None),
        ("secret", octets_to_text(bytes(19))),
        ("secret", octets_to_text(bytes(21))),
        ("extra", "x"),
    ],
)
def test_a_code_with_a_field_that_is_wrong_is_refused(field: str, value: str | int | None) -> None:
    with refused("bad-code", UsageError):
        EnrolmentCode.from_text(code_with(**{field: value}))


@given(st.text(max_size=60))
def test_any_text_is_a_code_or_refused_by_name(text: str) -> None:
    with refused("bad-code", UsageError):
        EnrolmentCode.from_text(CODE_PREFIX + text)


def test_the_root_document_is_read_back_under_its_fingerprint() -> None:
    assert Root.verified(ROOT.to_bytes(), ROOT.fingerprint) == ROOT
    assert ROOT.fingerprint == sha256(ROOT.to_bytes())


@pytest.mark.parametrize("field", ["authority_key", "release_key", "tls_root_pem"])
def test_another_root_has_another_fingerprint(field: str) -> None:
    other = dataclasses.replace(ROOT, **{field: "" if field == "tls_root_pem" else b"x" * 32})  # type: ignore[arg-type]
    with refused("wrong-root", Refused):
        Root.verified(other.to_bytes(), ROOT.fingerprint)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "fedloom-root-2"},
        {"authority_key": octets_to_text(bytes(31))},
        {"release_key": ""},
        {"tls_root_pem_octets": octets_to_text("Größe".encode())},
        {"tls_root_pem_octets": "="},
        {"tls_root_pem_octets": octets_to_text(bytes(30_000))},
        {"extra": 1},
    ],
)
def test_a_pinned_but_malformed_document_is_refused_by_name(changes: dict[str, str | int]) -> None:
    data = encode({**decode(ROOT.to_bytes()), **changes})
    with pytest.raises(FedloomError) as caught:
        Root.verified(data, sha256(data))
    assert caught.value.code in {"bad-field", "bad-octets"}

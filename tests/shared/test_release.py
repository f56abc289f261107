"""A release that a device must not use, one reason per test."""

from __future__ import annotations

import dataclasses

import pytest

from shared.errors import FedloomError, Refused, Unauthenticated, UsageError
from shared.release import FileEntry, Release, key_id, sign_release, verify_release
from shared.wire.canonical import Json, decode, encode, sha256
from shared.wire.signed import SigningKey
from tests.shared.refusals import refused

KEY, THIEF = SigningKey(sha256(b"release key")), SigningKey(sha256(b"thief"))
ISSUED_S, EXPIRES_S = 1_800_000_000, 1_807_776_000
RELEASE = Release(
    task="activity",
    version=7,
    issued_at_s=ISSUED_S,
    expires_at_s=EXPIRES_S,
    files={"plan.json": FileEntry.of(b"plan"), "weights_int8.safetensors": FileEntry.of(b"weights")},
    key_id=key_id(KEY.public),
    model_sha256="ab" * 32,
)


def accept(
    body: bytes,
    signature: bytes,
    *,
    public_key: bytes = KEY.public,
    task: str = "activity",
    min_version: int = 7,
    now_s: float = EXPIRES_S,
) -> Release:
    return verify_release(body, signature, public_key=public_key, task=task, min_version=min_version, now_s=now_s)


def test_a_release_is_accepted_until_it_expires() -> None:
    assert accept(*sign_release(RELEASE, KEY)) == RELEASE


def test_the_file_is_what_an_operator_can_read() -> None:
    fields = decode(RELEASE.to_bytes())
    assert fields["issued_at"] == "2027-01-15T08:00:00Z"
    assert fields["files"] == {
        "plan.json": {"sha256": sha256(b"plan").hex(), "bytes": 4},
        "weights_int8.safetensors": {"sha256": sha256(b"weights").hex(), "bytes": 7},
    }


def test_signed_by_a_key_that_is_not_pinned() -> None:
    with refused("bad-signature", Unauthenticated):
        accept(*sign_release(RELEASE, THIEF))


def test_altered_after_signing() -> None:
    body, signature = sign_release(RELEASE, KEY)
    for place in range(0, len(body), 7):
        altered = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with refused("bad-signature", Unauthenticated):
            accept(altered, signature)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(65)])
def test_without_a_signature(signature: bytes) -> None:
    with refused("bad-signature", Unauthenticated):
        accept(RELEASE.to_bytes(), signature)


def test_that_names_another_key_than_signed_it() -> None:
    with refused("wrong-key", Refused):
        accept(*sign_release(dataclasses.replace(RELEASE, key_id=key_id(THIEF.public)), KEY))


def test_of_another_task_under_the_same_key() -> None:
    with refused("wrong-task", Refused):
        accept(*sign_release(dataclasses.replace(RELEASE, task="other"), KEY))


def test_older_than_one_already_used() -> None:
    with refused("version-rollback", Refused):
        accept(*sign_release(RELEASE, KEY), min_version=8)


def test_expired() -> None:
    with refused("release-expired", Refused):
        accept(*sign_release(RELEASE, KEY), now_s=EXPIRES_S + 1)


def test_is_usable_before_the_clock_of_a_board_is_set() -> None:
    assert accept(*sign_release(RELEASE, KEY), now_s=0.0) == RELEASE


def with_file(name: str) -> tuple[bytes, bytes]:
    return sign_release(dataclasses.replace(RELEASE, files={name: FileEntry.of(b"x")}), KEY)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../plan.json",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:\\x",
        ".bashrc",
        "a\0b",
        "a\nb",
        "\u202efdp.exe",
        "x" * 300,
    ],
)
def test_with_a_file_outside_its_folder(name: str) -> None:
    with refused("bad-file-name", UsageError):
        accept(*with_file(name))


@pytest.mark.parametrize("name", ["plan.json", "activity.tflite", "MODEL-1_final.tflite", "x" * 64])
def test_ordinary_file_names_are_accepted(name: str) -> None:
    assert list(accept(*with_file(name)).files) == [name]


BAD_FIELDS: list[tuple[str, Json, str]] = [
    ("version", -1, "bad-field"),
    ("version", 1.0, "bad-field"),
    ("version", True, "bad-field"),
    ("task", "Not A Name", "bad-name"),
    ("issued_at", "yesterday", "bad-time"),
    ("expires_at", "2030-02-30T00:00:00Z", "bad-time"),
    ("expires_at", "2030-1-1T00:00:00Z", "bad-time"),
    ("expires_at", "2030-01-01T00:00:00", "bad-time"),
    ("model_sha256", "AB" * 32, "bad-hash"),
    ("model_sha256", "ab" * 31, "bad-hash"),
    ("files", [], "bad-field"),
    ("files", {"x": {"sha256": "ab" * 32}}, "bad-field"),
    ("files", {"x": {"sha256": "ab" * 32, "bytes": -1}}, "bad-field"),
    ("files", {"x": {"sha256": "ab" * 32, "bytes": 2**31 + 1}}, "bad-field"),
    ("files", {"x": {"sha256": "ab" * 32, "bytes": 1, "mode": 7}}, "bad-field"),
    ("files", {f"f{i}": {"sha256": "ab" * 32, "bytes": 1} for i in range(33)}, "bad-field"),
    ("command", "rm", "bad-field"),
]


@pytest.mark.parametrize(("field", "value", "code"), BAD_FIELDS)
def test_well_signed_but_malformed(field: str, value: Json, code: str) -> None:
    body = encode({**decode(RELEASE.to_bytes()), field: value})
    with refused(code, UsageError):
        accept(body, KEY.sign(body))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"task":"activity"}'])
def test_well_signed_bytes_that_are_no_release(body: bytes) -> None:
    with pytest.raises(FedloomError) as caught:
        accept(body, KEY.sign(body))
    assert caught.value.code in {"bad-json", "bad-field"}


def test_a_file_is_used_only_if_it_is_the_one_that_was_signed() -> None:
    entry = FileEntry.of(b"weights")
    assert entry.check(b"weights", "weights") == b"weights"
    for data in (b"weightz", b"weights\0", b"weight", b""):
        with refused("wrong-file-hash", Refused):
            entry.check(data, "weights")
    with refused("wrong-file-hash", Refused):
        FileEntry(entry.sha256, 8).check(b"weights", "weights")

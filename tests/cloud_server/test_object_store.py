"""Files of releases in a folder and in an S3 server: the same answers, and what happens while the store is away."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from sqlalchemy.exc import DBAPIError

from cloud_server.api.health import READYZ
from cloud_server.audit import ANCHOR_FILE
from cloud_server.cli import main
from cloud_server.settings import DataFolder
from cloud_server.storage.blobs import BlobStore, FolderBlobs, blob_name
from cloud_server.storage.check import find_damage
from cloud_server.storage.object_store import Address, ObjectBlobs
from cloud_server.tasks import file_of_release, release_of
from shared.errors import BrokenState, Missing
from shared.limits import OBJECT_PIECE_BYTES
from shared.release import WEIGHTS_FILE
from shared.wire.canonical import sha256
from shared.wire.requests import BLOBS
from tests.cloud_server.local import Local, LocalPool, small_plan
from tests.cloud_server.members import STEPS
from tests.s3 import CREDENTIALS, S3
from tests.shared.refusals import refused

Captured = pytest.CaptureFixture[str]
CONTENT = bytes(range(256)) * (OBJECT_PIECE_BYTES // 100)  # more than two pieces


@pytest.fixture(params=["folder", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """Return an empty store of each kind."""
    if request.param == "folder":
        return FolderBlobs(tmp_path)
    s3: S3 = request.getfixturevalue("s3")
    made = ObjectBlobs(s3.address(s3.new_bucket()))
    made.claim()
    return made


@pytest.fixture
def local(tmp_path: Path, s3: S3, new_database: Callable[[], str | None]) -> Iterator[Local]:
    """Return an aggregator in this process whose files are in an S3 server."""
    made = Local(tmp_path / "data", new_database(), s3.address(s3.new_bucket()))
    yield made
    s3.way.open() if s3.way._listener is None else None
    made.close()


def test_what_was_put_comes_back_whole_and_in_parts(blobs: BlobStore) -> None:
    digest = blobs.put(CONTENT)
    assert digest == sha256(CONTENT).hex() == blobs.put(CONTENT)
    assert blobs.get(digest) == CONTENT
    content = blobs.open(digest)
    with content.file as file:
        assert content.size_bytes == len(CONTENT)
        assert file.read() == CONTENT
        for start in (0, 1, OBJECT_PIECE_BYTES - 1, OBJECT_PIECE_BYTES, len(CONTENT) - 1, len(CONTENT)):
            file.seek(start)
            assert file.read(300) == CONTENT[start : start + 300]
    empty = blobs.put(b"")
    assert blobs.get(empty) == b""
    with blobs.open(empty).file as file:
        assert file.read() == b""
    assert blobs.missing() == ""


def test_differences_are_found_by_both_ends(blobs: BlobStore) -> None:
    before, after = blobs.put(b"before"), blobs.put(b"after")
    blobs.put_difference(before, after, b"a difference")
    with blobs.open_difference(before, after).file as file:
        assert file.read() == b"a difference"
    with refused("no-difference", Missing):
        blobs.open_difference(after, before)
    found = sorted((stored.digest, stored.is_difference) for stored in blobs.stored())
    assert found == sorted([(before, False), (after, False), (after, True)])


@pytest.mark.parametrize("digest", ["", "..", "../../server.db", "A" * 64, "0" * 63, "0" * 64, "owner", "/etc/passwd"])
def test_no_name_leads_elsewhere(blobs: BlobStore, digest: str) -> None:
    for look in (blobs.get, blobs.open):
        with refused("blob-unknown", Missing):
            look(digest)
    with refused("no-difference", Missing):
        blobs.open_difference(digest, "0" * 64)


def test_what_was_removed_is_gone_and_may_be_removed_again(blobs: BlobStore) -> None:
    digest = blobs.put(b"content")
    for stored in list(blobs.stored()):
        for _ in range(2):
            blobs.remove(stored.name, stored.modified_s + 1)
    with refused("blob-unknown", Missing):
        blobs.get(digest)
    assert list(blobs.stored()) == []
    assert blobs.put(b"content") == digest
    assert blobs.get(digest) == b"content"


def first_blob(local: Local) -> str:
    with local.parts.database.read() as connection:
        release, _ = release_of(connection, "point", 0)
    return file_of_release(release, WEIGHTS_FILE).sha256


RANGES = [
    "bytes=0-9",
    "bytes=5-",
    "bytes=-7",
    "bytes=0-0",
    "bytes=3-100000000",
    "bytes=90000000-",
    "bytes=0-1,4-5",
    "x",
]


def test_both_stores_answer_devices_alike(local: Local, tmp_path: Path) -> None:
    other = Local(tmp_path / "folder")
    answers = []
    for one in (local, other):
        one.create(small_plan("point"))
        (member,) = one.enrol(small_plan("point"), 1)
        target = f"{BLOBS}/{first_blob(one)}"
        client, found = one.app.test_client(), []
        for headers in (
            {},
            *({"Range": text} for text in RANGES),
            {"If-None-Match": f'"{first_blob(one)}"'},
            {"Range": "bytes=0-9", "If-Range": f'"{first_blob(one)}"'},
            {"Range": "bytes=0-9", "If-Range": '"another"'},
        ):
            for method in ("GET", "HEAD"):
                signed = member.transport.signed(method, target)
                with client.open(target, method=method, headers=signed | headers) as answer:
                    kept = {name: answer.headers.get(name) for name in HEADERS}
                    found.append((method, headers, answer.status_code, kept, answer.status_code < 400 and answer.data))
        missing = f"{BLOBS}/{'0' * 64}"
        found.append(client.get(missing, headers=member.transport.signed("GET", missing)).get_json()["code"])
        answers.append(found)
    assert answers[0] == answers[1]
    statuses = {entry[2] for entry in answers[0][:-1]}
    assert statuses == {200, 206, 304, 416}
    other.close()


HEADERS = ("Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Content-Type", "Cache-Control")


def settle_through_outage(local: Local) -> int:
    failures = 0
    while True:
        try:
            if not local.driver.tick():
                return failures
        except (OSError, DBAPIError):
            local.driver.forget()
            failures += 1
            if failures == 3:
                return failures


def test_while_the_store_is_away_everybody_waits_and_then_the_round_ends(local: Local, s3: S3) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in STEPS[:-1]:
        local.do(members, step)
    for member in members:
        member.do("answer")
    s3.way.close()
    assert settle_through_outage(local) == 3
    assert local.rows("SELECT phase FROM cohort") == [("unmasking",)]
    assert local.rows("SELECT number FROM version") == [(0,)]
    target = f"{BLOBS}/{first_blob(local)}"
    answer = local.app.test_client().get(target, headers=members[0].transport.signed("GET", target))
    assert (answer.status_code, answer.get_json()["code"]) == (503, "storage-unavailable")
    assert CREDENTIALS[1] not in answer.get_data(as_text=True)
    assert "object store: the object store does not answer" in local.app.test_client().get(READYZ).get_json()["detail"]
    s3.way.open()
    local.settle()
    assert all(member.counted() for member in members)
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], [1.0] * 4 + [0.0] * 4, atol=1e-6)
    assert local.app.test_client().get(READYZ).status_code == 200
    parts = local.parts
    assert find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor)["problems"] == []
    assert list(parts.folder.blobs.iterdir()) == []


def test_other_content_in_the_store_is_named(local: Local, s3: S3, tmp_path: Path, capsys: Captured) -> None:
    local.create(small_plan("point"))
    digest = first_blob(local)
    address = Address.from_bytes(local.parts.folder.object_store_file.read_bytes())
    s3.write(address.bucket, f"{address.prefix}/{blob_name(digest)}", b"other")
    with refused("blob-damaged", BrokenState):
        local.parts.blobs.get(digest)
    code, document = run(capsys, "db", "check", "--data", local.parts.folder.path)
    assert (code, document["error"]["code"]) == (1, "damaged")
    assert digest in document["error"]["message"]
    code, document = run(capsys, "db", "backup", "--data", local.parts.folder.path, "--out", tmp_path / "backup.tar")
    assert (code, document["error"]["code"]) == (1, "blob-damaged")


def run(captured: Captured, *words: str | Path) -> tuple[int, Any]:
    code = main([*map(str, words), "--json"])
    return code, json.loads(captured.readouterr().out)


def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(CREDENTIALS) + "\n"))


def use(s3: S3, bucket: str, data: Path, *more: str) -> list[str | Path]:
    return ["blobs", "use", f"s3://{bucket}/models", "--endpoint", s3.endpoint, "--data", data, "--credentials", *more]


def test_an_operator_moves_to_an_object_store_and_a_backup_back(
    tmp_path: Path, s3: S3, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Local(tmp_path / "data")
    members = before.cohort(small_plan("point"), 4)
    for step in STEPS:
        before.do(members, step)
    before.close()
    bucket, data = s3.new_bucket(), tmp_path / "data"
    credentials(monkeypatch)
    code, used = run(capsys, *use(s3, bucket, data))
    assert (code, used["copied"] > 4) == (0, True)
    kept = DataFolder(data).object_store_file
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for path in (data / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    assert run(capsys, "db", "check", "--data", data)[0] == 0
    after = Local(data)
    assert not isinstance(after.parts.blobs, FolderBlobs)
    members[0].transport._pool = LocalPool(after.app)
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], [1.0] * 4 + [0.0] * 4, atol=1e-6)
    after.close()

    backup = tmp_path / "backup.tar"
    assert run(capsys, "db", "backup", "--data", data, "--out", backup)[0] == 0
    assert CREDENTIALS[1].encode() not in backup.read_bytes()
    anchor: list[str | Path] = ["--anchor", data / ANCHOR_FILE]
    assert run(capsys, "db", "restore", backup, "--data", tmp_path / "folder", *anchor)[0] == 0
    assert run(capsys, "db", "check", "--data", tmp_path / "folder")[0] == 0
    credentials(monkeypatch)
    assert run(capsys, *use(s3, s3.new_bucket(), tmp_path / "objects"))[0] == 0
    assert run(capsys, "db", "restore", backup, "--data", tmp_path / "objects", *anchor)[0] == 0
    assert run(capsys, "db", "check", "--data", tmp_path / "objects")[0] == 0
    assert list((tmp_path / "objects" / "blobs").iterdir()) == []


def test_two_deployments_never_share_a_prefix(
    tmp_path: Path, s3: S3, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.new_bucket()
    for _ in range(2):  # the same one may name it again
        credentials(monkeypatch)
        assert run(capsys, *use(s3, bucket, tmp_path / "one"))[0] == 0
    credentials(monkeypatch)
    code, document = run(capsys, *use(s3, bucket, tmp_path / "two"))
    assert (code, document["error"]["code"]) == (3, "blobs-in-use")
    assert not DataFolder(tmp_path / "two").object_store_file.exists()
    credentials(monkeypatch)
    assert run(capsys, *use(s3, bucket, tmp_path / "two", "--take-over"))[0] == 0
    one = ObjectBlobs(Address.from_bytes(DataFolder(tmp_path / "one").object_store_file.read_bytes()))
    assert one.missing() == "belongs to another deployment, or to none"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["http://bucket/x"], "bad-object-store"),
        (["s3://"], "bad-object-store"),
        (["s3://bucket?x=y"], "bad-object-store"),
        (["s3://bucket", "--endpoint", "file:///etc"], "bad-object-store"),
        (["s3://bucket", "--endpoint", "http://127.0.0.1:1", "--credentials"], "bad-credentials"),
        (["s3://bucket", "--endpoint", "http://127.0.0.1:1"], "storage-unavailable"),
    ],
)
def test_wrong_addresses_are_refused(
    words: list[str], code: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), CREDENTIALS, strict=True):
        monkeypatch.setenv(name, value)
    _, document = run(capsys, "blobs", "use", *words, "--data", tmp_path / "data")
    assert document["error"]["code"] == code
    assert not DataFolder(tmp_path / "data").object_store_file.exists()


def test_credentials_may_come_from_the_environment(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), CREDENTIALS, strict=True):
        monkeypatch.setenv(name, value)
    blobs = ObjectBlobs(Address(s3.new_bucket(), "", s3.endpoint))
    assert blobs.get(blobs.put(b"content")) == b"content"


def test_a_damaged_address_is_named(tmp_path: Path, capsys: Captured) -> None:
    folder = DataFolder.open(tmp_path / "data")
    folder.object_store_file.write_bytes(b"{}")
    Local(tmp_path / "other").close()
    code, document = run(capsys, "blobs", "use", "s3://bucket", "--data", folder.path)
    assert (code, document["error"]["code"]) == (1, "bad-object-store")

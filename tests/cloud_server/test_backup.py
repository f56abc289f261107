"""Backups hold everything, come back whole on either database, and never take a deployment back in time."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server import audit
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.cli import main
from cloud_server.rounds.driver import RENEWAL_CHECK_S
from shared.errors import BrokenState, UsageError
from shared.root import EnrolmentCode
from shared.wire.messages import EnrolRequest, write_signed
from shared.wire.requests import ADMIT, ENROL, JSON
from shared.wire.signed import SigningKey
from tests.cloud_server.local import HOUR_S, URL, Local, LocalPool, small_plan
from tests.cloud_server.members import STEPS, redeem_body
from tests.shared.refusals import refused
from tools.own_postgres import Cluster

Captured = pytest.CaptureFixture[str]


def run(captured: Captured, *words: str | Path) -> tuple[int, Any]:
    code = main([*map(str, words), "--json"])
    return code, json.loads(captured.readouterr().out)


def one_round(local: Local, task: str = "point") -> None:
    members = local.cohort(small_plan(task), 4)
    for step in STEPS:
        local.do(members, step)
    assert all(member.counted() for member in members)


def data_of(local: Local) -> Path:
    return local.parts.folder.path


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_restored_server_goes_on_where_the_backup_was_made(
    local: Local, tmp_path: Path, capsys: Captured, target: str, request: pytest.FixtureRequest
) -> None:
    one_round(local)
    members = local.cohort(small_plan("other"), 4)
    for step in ("join", "share"):
        local.do(members, step)
    members[0].do("upload")  # a cohort is in the middle
    backup = tmp_path / "backup.tar"
    code, made = run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)
    assert code == 0
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert made["audit_entries"] == local.rows("SELECT count(*) FROM audit")[0][0]
    words: list[str | Path] = ["--anchor", data_of(local) / ANCHOR_FILE]
    if target == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        words += ["--database", cluster.new_database()]
    code, _ = run(capsys, "db", "restore", backup, "--data", tmp_path / "new", *words)
    assert code == 0
    code, checked = run(capsys, "db", "check", "--data", tmp_path / "new")
    assert (code, checked["problems"]) == (0, [])

    again = Local(tmp_path / "new")
    again.clock.time_s = local.clock.time_s
    assert again.parts.root == local.parts.root  # devices and codes stay good
    assert again.rows("SELECT number FROM version WHERE task = 'point' ORDER BY number") == [(0,), (1,)]
    assert [row for row in again.rows("SELECT phase, failure FROM cohort WHERE task = 'other'") if row[0] == "failed"]
    model = members[0].release(0).model_sha256
    again.settle()
    pool = LocalPool(again.app)
    for member in members:  # they contribute anew, to the restored server
        member.transport._pool = pool
        member.meet(model, 0)
    for step in STEPS:
        again.do(members, step)
    assert all(member.counted() for member in members)
    expected = sum(member.values for member in members)
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], expected, atol=0.02)
    again.close()


def test_an_older_backup_is_refused_once_something_happened_since(
    local: Local, tmp_path: Path, capsys: Captured
) -> None:
    local.create(small_plan("first"))
    backup = tmp_path / "backup.tar"
    assert run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)[0] == 0
    one_round(local)
    code, document = run(
        capsys, "db", "restore", backup, "--data", tmp_path / "new", "--anchor", data_of(local) / ANCHOR_FILE
    )
    assert (code, document["error"]["code"]) == (2, "backup-behind")
    code, document = run(capsys, "db", "restore", backup, "--data", tmp_path / "newer")
    assert (code, document["error"]["code"]) == (2, "no-anchor")
    assert not (tmp_path / "new").exists()  # nothing is left of what was refused
    assert not (tmp_path / "newer").exists()


@pytest.mark.parametrize("authority", ["here", "elsewhere"])
def test_a_backup_from_before_a_device_enrolled_is_refused(
    local: Local, tmp_path: Path, capsys: Captured, authority: str
) -> None:
    """Else its code could be redeemed again, with another key, and the device that has it would be a stranger."""
    plan = small_plan("point")
    local.create(plan)
    local.settle()
    backup = tmp_path / "backup.tar"
    assert run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)[0] == 0
    if (
        authority == "elsewhere"
    ):  # the device shows the certificate of an authority whose database is in no backup of this server
        (secret,) = local.authority.mint("point", count=1, valid_s=HOUR_S)
        redeemed = redeem_body(
            EnrolmentCode(URL, local.parts.root.fingerprint, secret), SigningKey.generate(os.urandom)
        )
        request = EnrolRequest.from_bytes(redeemed)
        certificate = local.authority.redeem(request, local.parts.root.fingerprint)
        body = write_signed("certificate", certificate.signed)
        assert local.app.test_client().post(ADMIT, data=body, content_type=JSON).status_code == 200
        name = certificate.device
    else:
        (member,) = local.enrol(plan, 1)
        name = member.device
    # Whoever has been answered is in the anchor, also where the server dies before a driver looks again.
    words = ("db", "restore", backup, "--data", tmp_path / "new", "--anchor", data_of(local) / ANCHOR_FILE)
    code, document = run(capsys, *words)
    assert (code, document["error"]["code"]) == (2, "backup-behind")
    with local.parts.database.read() as connection:
        last = list(audit.entries(connection))[-1]
    assert (last["actor"], last["action"], last["subject"]) == ("device", "device-enrolled", name)
    assert last["detail"] == {"task": "point", "group": ""}


def test_a_device_that_enrols_again_with_its_code_is_recorded_once(local: Local) -> None:
    plan = small_plan("point")
    local.create(plan)
    (secret,) = local.authority.mint("point", count=1, valid_s=HOUR_S)
    code = EnrolmentCode(URL, local.parts.root.fingerprint, secret)
    body = redeem_body(code, SigningKey.generate(os.urandom))
    answers = [local.app.test_client().post(ENROL, data=body, content_type=JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert local.rows("SELECT count(*) FROM audit WHERE action = 'device-enrolled'") == [(1,)]
    ((detail,),) = local.rows("SELECT detail FROM audit WHERE action = 'device-enrolled'")
    assert secret not in bytes(detail)


def test_nothing_serves_from_an_older_copy_of_the_database(tmp_path: Path, capsys: Captured) -> None:
    """An operator who copies files back by hand must not lower versions or the privacy ledger either."""
    local = Local(tmp_path / "data")
    local.create(small_plan("first"))
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(data_of(local) / "server.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    one_round(local)
    local.close()
    data = data_of(local)
    for path in data.glob("server.db*"):
        path.unlink()
    shutil.copy(copy, data / "server.db")
    with refused("database-behind", UsageError):
        Local(data)
    code, document = run(capsys, "db", "check", "--data", data)
    assert (code, document["error"]["code"]) == (1, "damaged")
    assert "database-behind" in document["error"]["message"]


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_a_damaged_backup_restores_nothing(local: Local, tmp_path: Path, capsys: Captured, position: str) -> None:
    local.create(small_plan("first"))
    backup = tmp_path / "backup.tar"
    assert run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)[0] == 0
    with tarfile.open(backup) as tar:
        parts = [member for member in tar.getmembers() if member.size and member.name != "backup.json"]
    part = parts[{"first": 0, "middle": len(parts) // 2, "last": -1}[position]]
    data = bytearray(backup.read_bytes())
    data[part.offset_data + part.size // 2] ^= 1
    backup.write_bytes(data)
    words = ("db", "restore", backup, "--data", tmp_path / "new", "--anchor", data_of(local) / ANCHOR_FILE)
    code, document = run(capsys, *words)
    assert (code, document["error"]["code"]) == (2, "bad-backup")
    assert part.name in document["error"]["message"]
    code, listed = run(capsys, "task", "list", "--data", tmp_path / "new")
    assert listed.get("tasks", []) == []
    backup.write_bytes(b"nothing")
    code, document = run(capsys, *words)
    assert (code, document["error"]["code"]) == (2, "bad-backup")


def test_a_backup_into_a_server_in_use_is_refused(local: Local, tmp_path: Path, capsys: Captured) -> None:
    local.create(small_plan("first"))
    backup = tmp_path / "backup.tar"
    assert run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)[0] == 0
    code, document = run(capsys, "db", "restore", backup, "--data", data_of(local))
    assert (code, document["error"]["code"]) == (2, "not-empty")
    code, document = run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)
    assert (code, document["error"]["code"]) == (2, "backup-exists")


def content_of(folder: Path) -> dict[str, bytes]:
    """Return every file that a command may not change; SQLite's own notes beside a database are no content."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("what", ["behind", "whole", "foreign anchor"])
def test_a_refused_restore_leaves_a_live_folder_as_it_was(
    tmp_path: Path, capsys: Captured, postgres: Cluster, what: str
) -> None:
    data, backup, anchor = tmp_path / "data", tmp_path / "backup.tar", tmp_path / "other.anchor"
    local = Local(data)
    local.create(small_plan("point"))
    assert run(capsys, "db", "backup", "--data", data, "--out", backup)[0] == 0
    if what == "behind":
        one_round(local, "second")
    local.close()
    before = content_of(data)
    anchor.write_text(f"7 {'ab' * 32}\n")
    words = ["--anchor", anchor] if what == "foreign anchor" else ["--database", postgres.new_database()]
    code, document = run(capsys, "db", "restore", backup, "--data", data, *words)
    assert (code, document["error"]["code"]) == (2, "not-empty")
    assert content_of(data) == before
    assert run(capsys, "task", "list", "--data", data)[0] == 0
    # The same where the folder's database is a PostgreSQL one.
    (data / "server.db").unlink()
    url = data / "keys" / "database.url"
    url.write_text(postgres.new_database())
    before = content_of(data)
    code, document = run(capsys, "db", "restore", backup, "--data", data, *words)
    assert (code, document["error"]["code"]) == (2, "not-empty")
    assert content_of(data) == before


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_anchor_of_another_deployment_restores_nothing(
    local: Local, tmp_path: Path, capsys: Captured, number: int
) -> None:
    """The backup ends at entry 2: an anchor that names an earlier entry is compared with that one, too."""
    local.create(small_plan("point"))
    backup, anchor, new = tmp_path / "backup.tar", tmp_path / "other.anchor", tmp_path / "new"
    assert run(capsys, "db", "backup", "--data", data_of(local), "--out", backup)[0] == 0
    anchor.write_text(f"{number} {'ab' * 32}\n")
    code, document = run(capsys, "db", "restore", backup, "--data", new, "--anchor", anchor)
    assert (code, document["error"]["code"]) == (2, "database-behind" if number < 2 else "backup-behind")
    assert content_of(new) == {}
    anchor.write_text("")
    code, document = run(capsys, "db", "restore", backup, "--data", new, "--anchor", anchor)
    assert (code, document["error"]["code"]) == (2, "no-anchor")
    # A refusal is no attempt that has to be finished: with the right anchor the same folder is filled.
    code, document = run(capsys, "db", "restore", backup, "--data", new, "--anchor", data_of(local) / ANCHOR_FILE)
    assert code == 0, document
    assert not list(new.glob("*restor*"))


def test_check_finds_a_damaged_file_and_a_lost_vector(local: Local, capsys: Captured) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in ("join", "share"):
        local.do(members, step)
    members[0].do("upload")
    assert run(capsys, "db", "check", "--data", data_of(local))[0] == 0
    vector = local.parts.uploads.path(members[0].cohort, members[0].device)
    whole = vector.read_bytes()
    vector.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x10]))  # a bit that the disk turned
    code, document = run(capsys, "db", "check", "--data", data_of(local))
    assert (code, document["error"]["code"]) == (1, "damaged")
    assert f"The vector of {members[0].device}" in document["error"]["message"]
    vector.unlink()
    blob = next(path for path in local.parts.folder.blobs.rglob("*") if path.is_file())
    blob.write_bytes(b"x")
    code, document = run(capsys, "db", "check", "--data", data_of(local))
    assert (code, document["error"]["code"]) == (1, "damaged")
    assert members[0].device in document["error"]["message"]
    assert blob.name in document["error"]["message"]


def test_the_audit_log_says_what_happened_and_shows_what_was_changed(local: Local) -> None:
    one_round(local)
    with local.parts.database.read() as connection:
        actions = [entry["action"] for entry in audit.entries(connection)]
        end = audit.verify_chain(connection)
    enrolled = ["device-enrolled"] * 4
    assert actions == ["task-created", "version-published", *enrolled, "version-published", "task-done"]
    anchor = Anchor(data_of(local) / ANCHOR_FILE)
    assert anchor.head() == end
    local.change("UPDATE audit SET subject = 'other' WHERE number = 2")
    with local.parts.database.read() as connection, refused("audit-damaged", BrokenState) as caught:
        audit.verify_chain(connection)
    assert "Entry 2" in caught.value.message


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_anchor_cut_by_a_power_failure_is_mended(local: Local, cut: int) -> None:
    local.create(small_plan("point"))
    anchor = Anchor(data_of(local) / ANCHOR_FILE)
    with local.parts.database.read() as connection:
        anchor.extend(connection)
    whole = anchor.path.read_bytes()
    assert whole.count(b"\n") == 2
    anchor.path.write_bytes(whole[: -cut * 6])
    with local.parts.database.read() as connection:
        anchor.require_contained(connection)
        anchor.extend(connection)
    assert anchor.path.read_bytes() == whole


def test_drivers_keep_the_anchor_up_to_date(local: Local) -> None:
    one_round(local)
    with local.parts.database.read() as connection:
        assert Anchor(data_of(local) / ANCHOR_FILE).head() == audit.head(connection)


def test_drivers_anchor_what_web_processes_record(local: Local) -> None:
    local.create(small_plan("first"))
    local.settle()
    with local.parts.database.write() as connection:  # which no driver has to do anything about
        audit.record(connection, local.clock.now_s(), "ada", "signed-in", "ada", {})
        head = audit.head(connection)
    local.clock.time_s += RENEWAL_CHECK_S
    local.settle()
    assert Anchor(data_of(local) / ANCHOR_FILE).head() == head

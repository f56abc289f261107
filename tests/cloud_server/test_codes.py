"""Codes after they were made: listed by how they stand, taken back at the shell and on the page, never shown again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from cloud_server.authority.codes import id_of
from cloud_server.authority.remote import DESCRIPTION_FILE, Description
from cloud_server.cli import main
from cloud_server.settings import write_private
from cloud_server.storage.database import sqlite_url
from cloud_server.storage.revisions import AUTHORITY, Tables, revision_of
from cloud_server.storage.upgrade import upgrade
from shared.errors import Refused
from shared.root import EnrolmentCode
from shared.wire.canonical import sha256
from tests.cloud_server.local import HOUR_S, URL, Local, LocalPool, small_plan
from tests.cloud_server.members import enrol
from tests.cloud_server.signed_in import SignedIn
from tests.shared.refusals import refused

Captured = pytest.CaptureFixture[str]
PLAN = small_plan("point")


@pytest.fixture
def secrets(local: Local) -> list[bytes]:
    """Return the secrets of a used, a revoked, an expired and an open code, oldest first."""
    local.create(PLAN)
    used = local.authority.mint("point", count=1, valid_s=9 * HOUR_S)
    redeem(local, used[0])
    made = used
    for valid_s in (9 * HOUR_S, HOUR_S, 9 * HOUR_S):
        local.clock.time_s += 1.0
        made += local.authority.mint("point", count=1, valid_s=valid_s, group="kitchen")
    local.clock.time_s += 2 * HOUR_S
    return made


def redeem(local: Local, secret: bytes) -> None:
    code = EnrolmentCode(URL, local.parts.root.fingerprint, secret)
    enrol(LocalPool(local.app), local.parts.root, code, 7, PLAN, local.clock)


def names(secrets: list[bytes]) -> list[str]:
    return [id_of(sha256(secret)) for secret in secrets]


def test_codes_are_listed_and_taken_back_on_the_page(local: Local, secrets: list[bytes]) -> None:
    browser = SignedIn(local).browser("ada", "operator")
    used, second, expired, fresh = names(secrets)

    def read(query: str = "") -> dict[str, Any]:
        found: dict[str, Any] = browser.get(f"/console/codes.json?task=point{query}").get_json()
        return found

    assert [(one["id"], one["state"]) for one in read()["made"]] == [
        (fresh, "open"),
        (expired, "expired"),
        (second, "open"),
        (used, "used"),
    ]
    answer = browser.post(f"/console/codes/{second}/revoke")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/console/codes?task=point&done=code-revoked.")
    page = browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert "The code is good for nothing any more." in page
    assert read()["counts"] == {"open": 1, "used": 1, "expired": 1, "revoked": 1}
    assert [one["id"] for one in read("&state=revoked")["made"]] == [second]
    assert [one["id"] for one in read(f"&after={expired}")["made"]] == [second, used]
    assert browser.post(f"/console/codes/{used}/revoke").status_code == 409
    for wrong in ("code-00", "code-" + "0" * 16, "x" * 300, "code-%27"):
        assert browser.post(f"/console/codes/{wrong}/revoke").status_code == 404, wrong
    assert browser.get("/console/codes?task=point&state=lost").status_code == 400
    with refused("code-revoked", Refused):
        redeem(local, secrets[1])
    rows = local.rows("SELECT actor, subject FROM audit WHERE action = 'code-revoked'")
    assert rows == [("operator:ada", second)]
    browser.post(f"/console/codes/{second}/revoke")  # a second operator, at once: nothing more happens
    assert local.rows("SELECT actor, subject FROM audit WHERE action = 'code-revoked'") == rows


def test_nothing_of_a_code_is_on_the_page_or_in_a_list(local: Local, secrets: list[bytes], capsys: Captured) -> None:
    main(["code", "list", "--data", str(local.parts.folder.path), "--json"])
    shown = capsys.readouterr().out + SignedIn(local).browser("ada", "admin").get("/console/codes").get_data(
        as_text=True
    )
    for secret in secrets:
        code = EnrolmentCode(URL, local.parts.root.fingerprint, secret).to_text()
        assert code not in shown
        assert secret.hex() not in shown
        assert sha256(secret).hex() not in shown  # a part of it names the code


def test_viewers_see_codes_and_take_none_back(local: Local, secrets: list[bytes]) -> None:
    viewer = SignedIn(local).browser("vi", "viewer")
    page = viewer.get("/console/codes?task=point").get_data(as_text=True)
    fresh = names(secrets)[-1]
    assert fresh in page
    assert "/revoke" not in page
    assert viewer.post(f"/console/codes/{fresh}/revoke").status_code == 403
    redeem(local, secrets[-1])


def test_codes_are_listed_and_taken_back_at_the_shell(
    local: Local, secrets: list[bytes], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.clock.SystemClock.now_s", lambda _: local.clock.now_s())
    data = ["--data", str(local.parts.folder.path)]
    main(["code", "list", "--task", "point", "--state", "open", *data])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "task", "group", "state", "created", "expires", "device"]
    used, second, _, fresh = names(secrets)
    assert [row.split()[0] for row in rows] == [fresh, second]
    assert "in 7 h" in rows[0]
    assert main(["code", "revoke", second, *data]) == 0
    capsys.readouterr()
    assert main(["code", "revoke", used, *data, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "code-used"
    assert main(["code", "revoke", "code-1", *data]) == 3
    assert "code: code-unknown" in capsys.readouterr().err
    assert local.rows("SELECT actor, subject FROM audit WHERE action = 'code-revoked'") == [("operator", second)]
    with refused("code-revoked", Refused):
        redeem(local, secrets[1])


def test_codes_of_an_authority_elsewhere_are_listed_there(local: Local, secrets: list[bytes], capsys: Captured) -> None:
    folder = local.parts.folder.authority
    write_private(folder / DESCRIPTION_FILE, Description(local.authority.public_key, URL, "").to_bytes())
    assert main(["code", "list", "--data", str(folder)]) == 0
    assert names(secrets)[0] in capsys.readouterr().out
    fresh = names(secrets)[-1]
    assert main(["code", "revoke", fresh, "--data", str(folder)]) == 0
    main(["code", "list", "--state", "revoked", "--data", str(folder), "--json"])
    assert [one["id"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])["codes"]] == [fresh]


@pytest.mark.parametrize("alone", [True, False])
def test_an_authoritys_database_is_upgraded_with_its_folder(
    local: Local, tmp_path: Path, capsys: Captured, *, alone: bool
) -> None:
    folder = tmp_path / "far" if alone else local.parts.folder.authority
    folder.mkdir(exist_ok=True)
    local.authority.database.close()
    for name in ("authority.db", "authority.db-wal", "authority.db-shm"):
        (folder / name).unlink(missing_ok=True)
    if alone:
        write_private(folder / DESCRIPTION_FILE, Description(bytes(32), URL, "").to_bytes())
    engine = create_engine(sqlite_url(folder / "authority.db"))
    with engine.begin() as connection:
        upgrade(connection, Tables(AUTHORITY.metadata, "a0003", AUTHORITY.first, AUTHORITY.versions))
    data = folder if alone else local.parts.folder.path
    assert main(["code", "list", "--data", str(data)]) == 2
    assert "database-outdated" in capsys.readouterr().err
    assert main(["db", "upgrade", "--data", str(data)]) == 0
    with engine.begin() as connection:
        assert revision_of(connection, AUTHORITY) == AUTHORITY.newest
    engine.dispose()
    assert main(["code", "list", "--data", str(data)]) == 0

"""``fedloom-server operator``: accounts and tokens, with secrets in no command line and in no list."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cloud_server import cli
from shared.limits import MAX_ACCOUNT_ATTEMPTS
from tests.cloud_server.local import Local
from tests.cloud_server.signed_in import BASE, PASSWORD, Browser, SignedIn


class Machine:
    """Somebody at the server's machine, where commands run."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._data = data
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *words: str, typed: str = "") -> Any:  # noqa: ANN401  # whatever JSON the command prints
        """Run a command with something on its standard input, and return its JSON."""
        self._monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        cli.main(["operator", *words, "--data", str(self._data), "--json"])
        return json.loads(self._capsys.readouterr().out)


@pytest.fixture
def machine(local: Local, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    """Return the machine of an aggregator."""
    return Machine(local.parts.folder.path, monkeypatch, capsys)


def test_accounts_are_made_changed_and_removed(local: Local, machine: Machine) -> None:
    assert machine.run("add", "ada", "--role", "admin", typed=f"{PASSWORD}\n") == {"operator": "ada", "role": "admin"}
    machine.run("add", "proxied", "--no-password")
    machine.run("set-role", "proxied", "operator")
    machine.run("set-password", "proxied", typed="another long password")
    listed = machine.run("list")["operators"]
    assert [(entry["name"], entry["role"], entry["password"]) for entry in listed] == [
        ("ada", "admin", True),
        ("proxied", "operator", True),
    ]
    assert "argon2" not in str(listed)
    machine.run("remove", "proxied")
    assert [entry["name"] for entry in machine.run("list")["operators"]] == ["ada"]
    assert machine.run("remove", "ada")["error"]["code"] == "last-admin"
    actions = [row[0] for row in local.rows("SELECT action FROM audit WHERE actor = 'operator' ORDER BY number")]
    assert actions == [
        "operator-added",
        "operator-added",
        "operator-role-set",
        "operator-password-set",
        "operator-removed",
    ]


def test_a_new_password_lets_somebody_in_who_was_locked_out_by_others(local: Local, machine: Machine) -> None:
    SignedIn(local).account("ada", "viewer")
    for number in range(MAX_ACCOUNT_ATTEMPTS):
        Browser(local).sign_in("ada", "guessed", REMOTE_ADDR=f"10.0.0.{number}")
    assert Browser(local).sign_in("ada").status_code == 429
    machine.run("set-password", "ada", typed=PASSWORD)
    assert Browser(local).sign_in("ada").status_code == 303


@pytest.mark.parametrize(
    ("words", "typed", "code"),
    [
        (("add", "Ada"), PASSWORD, "bad-name"),
        (("add", "eve"), "short", "bad-password"),
        (("add", "eve"), "", "bad-password"),
        (("add", "eve", "--role", "root"), PASSWORD, "usage"),
        (("add", "eve", "--password", PASSWORD), "", "usage"),
        (("set-role", "nobody", "admin"), "", "operator-unknown"),
        (("set-password", "nobody"), PASSWORD, "operator-unknown"),
        (("token", "create", "nobody"), "", "operator-unknown"),
        (("token", "revoke", "token-0"), "", "token-unknown"),
    ],
)
def test_what_cannot_be_is_refused_by_name(machine: Machine, words: tuple[str, ...], typed: str, code: str) -> None:
    assert machine.run(*words, typed=typed)["error"]["code"] == code


def test_a_token_is_shown_once_and_opens_the_pages_until_it_is_revoked(local: Local, machine: Machine) -> None:
    machine.run("add", "ada", "--role", "admin", "--no-password")
    token = machine.run("token", "create", "ada", "--role", "viewer", "--expires", "30d", "--label", "grafana")["token"]
    assert machine.run("token", "create", "ada", "--expires", "soon")["error"]["code"] == "bad-duration"
    assert machine.run("token", "create", "ada", "--expires", "9999d")["error"]["code"] == "bad-duration"
    (listed,) = machine.run("token", "list")["tokens"]
    assert (listed["operator"], listed["role"], listed["label"]) == ("ada", "viewer", "grafana")
    secret = token.rpartition(".")[2]
    assert secret not in str(listed)
    assert secret not in str(local.rows("SELECT * FROM operator_token"))

    def status() -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return local.app.test_client().get("/console/overview.json", base_url=BASE, headers=headers).status_code

    local.clock.time_s = listed["created_s"]  # commands have the machine's clock
    assert status() == 200
    machine.run("token", "revoke", listed["id"])
    assert status() == 401

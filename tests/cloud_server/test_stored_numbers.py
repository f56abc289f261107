"""What a database cannot hold is refused by name, on SQLite and PostgreSQL: no bad request looks like a full disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from werkzeug.routing import Rule

from cloud_server.cli import main
from shared.release import MAX_VERSION
from shared.wire.canonical import Json, encode
from shared.wire.messages import CheckIn
from shared.wire.requests import CHECK_IN, DEVICE_HEADER, JSON, RELEASES, RENDEZVOUS
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import Member
from tests.cloud_server.signed_in import Browser, SignedIn
from tools.own_postgres import Cluster

TOO_LARGE: Final = (2**31, 2**53 - 1, 2**63, 10**30)
CHECKED_IN: Final[dict[str, Json]] = {"version": 0, "memory_mib": 1, "declined": 0, "declined_evaluation": 0}


@dataclass
class Scene:
    """A running aggregator, a device, and an administrator's browser."""

    local: Local
    member: Member
    browser: Browser

    def send(self, method: str, path: str, sent: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Send a device's request for ``path``, which is written as ``sent``; both differ where it is quoted."""
        signer = self.member.transport._signer
        assert signer is not None
        headers = signer.headers(method, path, body) | ({"Content-Type": JSON} if body else {})
        with self.local.app.test_client().open(sent, method=method, data=body, headers=headers) as answer:
            return answer.status_code, answer.get_json(force=True)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    url = None
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
    local = Local(tmp_path_factory.mktemp("numbers") / "data", url)
    plan = small_plan("point")
    local.create(plan)
    (member,) = local.enrol(plan, 1)
    local.settle()
    yield Scene(local, member, SignedIn(local).browser("ada", "admin"))
    local.close()


@pytest.mark.parametrize("field", ["version", "declined", "declined_evaluation"])
def test_a_device_says_no_larger_number_than_columns_hold(scene: Scene, field: str) -> None:
    largest = encode(CHECKED_IN | {field: MAX_VERSION})
    assert scene.send("POST", CHECK_IN, CHECK_IN, largest)[0] == 200
    for number in TOO_LARGE:
        body = json.dumps(CHECKED_IN | {field: number}).encode()
        status, problem = scene.send("POST", CHECK_IN, CHECK_IN, body)
        assert (status, problem["code"]) in {(400, "bad-field"), (400, "bad-json")}, number
    body = json.dumps({"version": 2**31, "purpose": "training"}).encode()
    assert scene.send("POST", RENDEZVOUS, RENDEZVOUS, body)[0] == 400
    assert scene.send("POST", CHECK_IN, CHECK_IN, CheckIn(0, 1).to_bytes())[0] == 200


@pytest.mark.parametrize("number", [MAX_VERSION, *TOO_LARGE])
def test_no_version_has_a_number_that_columns_do_not_hold(scene: Scene, number: int) -> None:
    path = f"{RELEASES}/{number}"
    status, problem = scene.send("GET", path, path)
    assert (status, problem["code"]) == (404, "version-unknown" if number == MAX_VERSION else "not-found")


def with_parameters(local: Local, prefix: str) -> list[tuple[str, Rule]]:
    """Return each method and rule whose path has parameters."""
    files = "<path:"  # of the pages, which no database holds
    rules = [rule for rule in local.app.url_map.iter_rules() if rule.arguments and rule.rule.startswith(prefix)]
    rules = [rule for rule in rules if files not in rule.rule]
    return [
        (method, rule) for rule in rules for method in sorted(rule.methods or ()) if method in {"GET", "POST", "PUT"}
    ]


def filled(rule: Rule, name: str, value: str) -> str:
    """Return a rule's path with ``value`` for one parameter and something for the others."""
    path = rule.rule
    for argument in rule.arguments:
        chosen = value if argument == name else "1"
        path = path.replace(f"<int:{argument}>", chosen).replace(f"<{argument}>", chosen)
    assert "<" not in path
    return path


@pytest.mark.parametrize("prefix", ["/v1", "/console"])
def test_no_path_leads_a_nul_or_a_number_beyond_columns_to_the_database(scene: Scene, prefix: str) -> None:
    tried = with_parameters(scene.local, prefix)
    assert len(tried) >= 10
    for method, rule in tried:
        for name in rule.arguments:
            is_number = f"<int:{name}>" in rule.rule
            values = [str(number) for number in TOO_LARGE] if is_number else ["%00", "a%00b"]
            for value in values:
                sent = filled(rule, name, value)
                if prefix == "/v1":
                    status, problem = scene.send(
                        method, sent.replace("%00", "\0"), sent, b"{}" if method != "GET" else b""
                    )
                    assert (status, problem["code"]) == (404, "not-found"), sent
                elif method == "GET":
                    assert scene.browser.get(sent, Accept=JSON).status_code == 404, sent
                else:
                    assert scene.browser.post(sent).status_code == 404, sent


@pytest.mark.parametrize(
    "query",
    [
        "overview?task=%00",
        "rounds?task=%00",
        "devices?search=%00",
        "devices?after=%00",
        "devices?group=%00",
        "models?task=a%00",
        "privacy?task=%00",
        "new-task?like=%00",
        "audit?before=99999999999",
        "rounds?before=99999999999",
        "privacy?before_ms=9007199254740992",
    ],
)
def test_no_query_of_a_page_looks_like_a_full_disk(scene: Scene, query: str) -> None:
    assert scene.browser.get(f"/console/{query}").status_code < 500


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("codes", {"task": "\0", "count": "1"}),
        ("codes", {"task": "point", "count": "1", "group": "\0"}),
        ("new-task/check", {"model": "\0", "plan": ""}),
        ("operators/ada/role", {"role": "\0"}),
    ],
)
def test_no_form_looks_like_a_full_disk(scene: Scene, path: str, fields: dict[str, str]) -> None:
    assert 400 <= scene.browser.post(f"/console/{path}", **fields).status_code < 500


def test_a_reason_with_a_nul_revokes_nobody(scene: Scene) -> None:
    answer = scene.browser.post(f"/console/devices/{scene.member.device}/quarantine", reason="a\0b")
    assert answer.status_code in {303, 400}
    assert Browser(scene.local).sign_in("a\0b").status_code < 500
    scene.local.change(f"UPDATE device SET state = 'active' WHERE device = '{scene.member.device}'")  # noqa: S608


def test_too_few_connections_are_a_storage_that_is_not_there(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy says so with an error of its own, which is none of the driver's."""
    pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    monkeypatch.setattr("cloud_server.storage.database._POOL", pool)
    local = Local(tmp_path / "data", postgres.new_database())
    plan = small_plan("point")
    local.create(plan)
    (member,) = local.enrol(plan, 1)
    local.settle()
    scene = Scene(local, member, Browser(local))
    with local.parts.database.read():  # the only connection
        status, problem = scene.send("POST", CHECK_IN, CHECK_IN, encode(CHECKED_IN))
        assert (status, problem["code"]) == (503, "storage-unavailable")
        assert scene.browser.get("/console/sign-in").status_code in {200, 503}
    assert scene.send("POST", CHECK_IN, CHECK_IN, encode(CHECKED_IN))[0] == 200
    local.close()


def test_a_device_name_with_a_nul_is_unknown(scene: Scene) -> None:
    signer = scene.member.transport._signer
    assert signer is not None
    headers = signer.headers("POST", CHECK_IN, b"{}") | {"Content-Type": JSON}
    environ = {f"HTTP_{DEVICE_HEADER.upper().replace('-', '_')}": "device\0a"}
    answer = scene.local.app.test_client().post(CHECK_IN, data=b"{}", headers=headers, environ_overrides=environ)
    assert (answer.status_code, answer.get_json()["code"]) == (401, "unknown-device")


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "list", "--after", "2147483648"],
        ["audit", "list", "--after", "-99999999999999999999"],
        ["model", "card", "point", "--version", "2147483648", "--json"],
        ["model", "promote", "point", "2147483648"],
        ["model", "pin", "point", "99999999999999999999"],
        ["model", "hold", "point", "--revision", "2147483648"],
    ],
)
def test_commands_refuse_such_numbers(scene: Scene, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    data = str(scene.local.parts.folder.path)
    assert main([*words, "--data", data, *([] if "--json" in words else ["--json"])]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"

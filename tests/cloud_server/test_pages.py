"""The pages over an aggregator with real rounds: numbers, what they leave out, and what hostile names do there."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Final, get_args, get_type_hints
from urllib.parse import quote

import pytest
from sqlalchemy import insert, select

from cloud_server.dashboard.facts.rounds import measured
from cloud_server.dashboard.language import LANGUAGES, catalogue
from cloud_server.dashboard.sentences import CATALOGUES
from cloud_server.dashboard.showing import SECURITY_HEADERS
from cloud_server.dashboard.signing_in import STATIC
from cloud_server.storage.schema import device
from shared.plan import Privacy, Stop
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.cloud_server.signed_in import BASE, Browser, SignedIn
from tools.bench.quadratic import write_quadratic_bundle

TEMPLATES: Final = STATIC.parent / "templates"
HOSTILE: Final = "</script><script>alert(1)</script>\"'{{7*7}}\u202e"
PAGES: Final = ("overview", "rounds", "devices", "models", "privacy", "tasks", "codes", "audit", "system", "operators")


@pytest.fixture
def members(local: Local) -> list[Member]:
    """Return the devices of a task whose first round is closed and whose second one is open."""
    found = local.cohort(small_plan("point", stop=Stop(rounds=5)), 4)
    for step in STEPS:
        local.do(found, step)
    return found


@pytest.fixture
def browser(local: Local) -> Browser:
    """Return an admin's browser."""
    return SignedIn(local).browser("ada", "admin")


def read(browser: Browser, path: str) -> dict[str, object]:
    answer = browser.get(path, Accept="application/json")
    assert answer.status_code == 200, answer.get_data(as_text=True)
    found: dict[str, object] = answer.get_json()
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_before_the_first_task_and_says_what_to_do(browser: Browser, page: str) -> None:
    answer = browser.get(f"/console/{page}")
    assert answer.status_code == 200
    assert "fedloom-server" in answer.get_data(as_text=True) or page in {"audit", "system"}
    assert browser.get(f"/console/{page}.json").status_code == 200


@pytest.mark.usefixtures("members")
def test_a_round_is_shown_with_its_funnel_and_its_steps(browser: Browser) -> None:
    found = read(browser, "/console/rounds/point/1")
    assert {stage["stage"]: stage["devices"] for stage in found["funnel"]} == {  # type: ignore[attr-defined]
        "invited": 0,
        "joined": 4,
        "shared": 4,
        "survived": 4,
    }
    (cohort,) = found["cohorts"]  # type: ignore[misc]
    assert [(step["step"], step["devices"]) for step in cohort["steps"]] == [  # type: ignore[has-type]
        (name, 4) for name in ("join", "shares", "vector", "agreement", "answer")
    ]
    assert found["round"]["update_norm"] == pytest.approx(0.5)  # type: ignore[index]  # of the mean of 4 unit vectors
    assert read(browser, "/console/rounds")["rounds"][0]["phase"] == "open"  # type: ignore[index]
    assert browser.get("/console/rounds/point/7").status_code == 404
    assert browser.get("/console/rounds/point/99999999999999999999").status_code == 404


def test_no_sum_over_fewer_than_the_smallest_cohort_is_shown() -> None:
    plan = small_plan("point")
    result = {"survivors": 1, "evaluated": 10, "correct": 9, "loss_sum": 3.0, "clipped": 1, "update_norm": 1.0}
    shown = measured({**result}, plan)
    assert shown.pop("suppressed") is True
    assert set(shown.values()) == {None}
    assert measured({**result, "survivors": 2}, plan)["accuracy"] == pytest.approx(0.9)


def test_devices_are_paged_searched_and_changed(local: Local, browser: Browser) -> None:
    plan = small_plan("point")
    local.create(plan)
    names = sorted(member.device for member in local.enrol(plan, 60))
    local.enrol(plan, 1, "kitchen")
    first = read(browser, "/console/devices")
    assert first["next"] is not None
    second = read(browser, f"/console/devices?after={first['next']}")
    pages = [row["device"] for row in (*first["devices"], *second["devices"])]  # type: ignore[misc]
    assert pages == sorted(pages)
    assert set(names) < set(pages)
    assert len(pages) == 61
    chosen = names[30]
    for begins in (chosen[:20], chosen.removeprefix("device-")[:12]):
        assert [row["device"] for row in read(browser, f"/console/devices?name={begins}")["devices"]] == [chosen]  # type: ignore[attr-defined]
    assert len(read(browser, "/console/devices?group=kitchen")["devices"]) == 1  # type: ignore[arg-type]
    answer = browser.post(f"/console/devices/{chosen}/revoke", reason=HOSTILE)
    assert answer.status_code == 303
    page = browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert "The device is revoked." in page
    assert [row["device"] for row in read(browser, "/console/devices?state=revoked")["devices"]] == [chosen]  # type: ignore[attr-defined]
    ((actor, action, subject),) = local.rows("SELECT actor, action, subject FROM audit WHERE action = 'device-revoked'")
    assert (actor, action, subject) == ("operator:ada", "device-revoked", chosen)
    assert browser.post(f"/console/devices/{chosen}/reinstate").status_code == 409
    assert browser.post(f"/console/devices/{chosen}/dance").status_code == 404


def hostile_device(local: Local, name: str) -> None:
    """Enrol a device of a name that no authority gives."""
    with local.parts.database.write() as connection:
        row = connection.execute(select(device)).mappings().first()
        assert row is not None
        connection.execute(insert(device).values({**row, "device": name}))


def test_hostile_texts_stay_texts(local: Local, browser: Browser, members: list[Member]) -> None:
    """Whatever reaches a table, by devices, operators or a damaged database, is shown as it is and does nothing."""
    hostile = HOSTILE.replace("'", "''")
    local.change(f"UPDATE device SET code_group = '{hostile}', state_reason = '{hostile}'")  # noqa: S608
    hostile_device(local, HOSTILE)
    local.change(f"UPDATE round SET reason = '{hostile}' WHERE number = 1")  # noqa: S608
    local.change(f"UPDATE cohort SET failure = '{hostile}'")  # noqa: S608
    browser.post(f"/console/devices/{members[0].device}/quarantine", reason=HOSTILE)
    paths = [f"/console/{page}" for page in PAGES]
    paths += [
        "/console/rounds/point/1",
        f"/console/devices/{members[0].device}",
        "/console/devices?name=<script>&group=<b>",
    ]
    paths += [f"/console/devices/{quote(HOSTILE, safe='')}"]
    paths += [
        "/console/overview?task=<script>alert(1)</script>",
        "/console/tasks/<script>",
        "/console/new-task?like=<b>",
    ]
    seen = ""
    for path in paths:
        text = browser.get(path).get_data(as_text=True)
        assert "<script>alert" not in text, path
        assert "<b>&" not in text, path
        assert ">49<" not in text, path
        seen += text
    assert "&lt;script&gt;alert(1)" in seen


def test_codes_are_shown_once_with_pictures(local: Local, browser: Browser) -> None:
    local.create(small_plan("point"))
    local.change("INSERT INTO setting (name, value) VALUES ('url', 'https://aggregator.test')")
    answer = browser.post("/console/codes", task="point", count="2", expires="1h", group="kitchen")
    text = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert text.count("<svg") == 3  # two pictures and the mark
    assert 'style="' not in text
    assert local.rows("SELECT actor, subject FROM audit WHERE action = 'codes-created'") == [("operator:ada", "point")]
    names = re.findall(r"code-[0-9a-f]{16}", text)
    again = browser.get("/console/codes").get_data(as_text=True)
    assert again.count("<svg") == 1
    assert set(names) == set(re.findall(r"code-[0-9a-f]{16}", again))  # so that one of them can be revoked
    assert len(set(names)) == 2
    for fields in (
        {"count": "0"},
        {"count": "101"},
        {"count": "x"},
        {"expires": "soon"},
        {"group": "A B"},
        {"task": "?"},
    ):
        sent = {"task": "point", "count": "1", "expires": "1h", **fields}
        assert browser.post("/console/codes", **sent).status_code in {400, 404}, fields


def test_a_plan_is_checked_while_it_is_written_and_made_a_task(local: Local, browser: Browser) -> None:
    local.create(small_plan("point"))
    for plan, said in (
        ("task = 'x'\n[cohort]\nlargset = 4", "did you mean largest?"),
        ("task = 'x'\n[cohort]\nlargest = 100000", "the nearest is 4096"),
        ("task = 'x'\n[update]\nlane_bits = 16\n[cohort]\nlargest = 4000\nmin_survivors = 4000", ""),
        ("task = [", "not TOML"),
        ("task = 'x'\n[privacy]\nmechanism = 'skelam'", "did you mean skellam?"),
    ):
        text = browser.post("/console/new-task/check", plan=plan, model="point").get_data(as_text=True)
        assert 'role="alert"' in text, plan
        assert said in text, plan
    fine = "task = 'second'\n[cohort]\nmin_survivors = 3\nlargest = 6\n"
    text = browser.post("/console/new-task/check", plan=fine, model="point").get_data(as_text=True)
    assert "The plan of second is sound." in text
    assert "--allow-cohorts-of 3" in text  # a caution
    answer = browser.post("/console/new-task", plan=fine, model="point")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/console/tasks/second?done=task-created.")
    assert local.rows("SELECT actor FROM audit WHERE action = 'task-created' AND subject = 'second'") == [
        ("operator:ada",)
    ]
    assert browser.post("/console/new-task", plan=fine, model="point").status_code == 409
    assert browser.post("/console/new-task", plan=fine, model="").status_code == 400


def test_a_task_is_made_of_an_uploaded_bundle(local: Local, browser: Browser, tmp_path: Path) -> None:
    write_quadratic_bundle(tmp_path / "bundle", 8)
    files = [(io.BytesIO(path.read_bytes()), f"bundle/{path.name}") for path in (tmp_path / "bundle").iterdir()]
    sent = {"form_token": browser.form_token(), "plan": "task = 'first'", "model": "", "bundle": files}
    answer = browser._client.post("/console/new-task", base_url=BASE, data=sent, content_type="multipart/form-data")
    assert answer.status_code == 303
    assert local.rows("SELECT name FROM task") == [("first",)]


def test_polls_are_answered_304_while_nothing_changed(local: Local, browser: Browser, members: list[Member]) -> None:
    local.meet(members, 1)
    for path, step in (("/console/overview/live", "join"), ("/console/rounds/live", "share")):
        first = browser.get(path)
        assert first.status_code == 200
        same = browser.get(path, **{"If-None-Match": first.headers["ETag"]})
        assert (same.status_code, same.get_data()) == (304, b"")
        local.do(members, step)
        assert browser.get(path, **{"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_polls_do_not_keep_a_session_alive(local: Local, browser: Browser) -> None:
    def used_s() -> float:
        return float(local.rows("SELECT used_s FROM operator_session")[0][0])

    begun_s = used_s()
    local.clock.time_s += 300
    browser.get("/console/overview/live", **{"X-Live": "1"})
    assert used_s() == begun_s
    browser.get("/console/overview")
    assert used_s() == begun_s + 300


@pytest.mark.usefixtures("members")
def test_every_answer_keeps_the_browser_from_foreign_scripts_frames_and_guesses(browser: Browser) -> None:
    for path in ("overview", "overview.json", "overview/live", "nothing-here/x", "devices/none", "sign-in"):
        answer = browser.get(f"/console/{path}")
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS, path
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Strict-Transport-Security"]
        assert answer.headers["Cache-Control"] == "no-store"
        text = answer.get_data(as_text=True)
        assert not re.search(r'\s(style|on\w+)="', text), path
        assert not re.search(r"<script(?! src=)", text), path


def test_static_files_are_of_this_folder_alone(browser: Browser) -> None:
    assert browser.get("/console/static/console.css").status_code == 200
    for name in ("../guard.py", "..%2fguard.py", "vendor/../../guard.py", "/etc/passwd", "nothing.css"):
        assert browser.get(f"/console/static/{name}").status_code == 404, name


def test_a_stale_form_changes_nothing_and_is_explained(local: Local, browser: Browser) -> None:
    local.create(small_plan("point"))
    device = local.enrol(small_plan("point"), 1)[0].device
    answer = browser.post(f"/console/devices/{device}/revoke", token="of-an-earlier-session")  # noqa: S106
    assert answer.status_code == 403
    assert "load the page again" in answer.get_data(as_text=True)
    assert local.rows("SELECT state FROM device") == [("active",)]


def test_the_audit_page_verifies_the_chain_and_names_what_was_changed(local: Local, browser: Browser) -> None:
    local.create(small_plan("point"))
    assert "follow from one another" in browser.get("/console/audit/chain").get_data(as_text=True)
    before = read(browser, "/console/audit/chain")["verified"]
    local.create(small_plan("second"))
    local.change("UPDATE audit SET subject = 'third' WHERE subject = 'second' AND action = 'task-created'")
    answer = browser.get("/console/audit/chain", Accept="application/json")
    assert answer.get_json(force=True)["code"] == "audit-damaged"
    assert f"Entry {before + 1} " in answer.get_json(force=True)["detail"]  # type: ignore[operator]


def test_every_text_is_there_in_every_language() -> None:
    texts = {code: json.loads((CATALOGUES / f"{code}.json").read_text("utf-8")) for code in LANGUAGES}
    english = texts["en"]
    for code, found in texts.items():
        assert found.keys() == english.keys(), code
        for key, text in found.items():
            assert text.strip(), key
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", english[key])), key
    used = {
        key
        for path in TEMPLATES.glob("*.html")
        for key in re.findall(r'\bt\("([\w.-]+)"(?! ~)', path.read_text("utf-8"))
    }
    assert used - english.keys() == set()
    begins = {
        key for path in TEMPLATES.glob("*.html") for key in re.findall(r't\("([\w.-]+)" ~', path.read_text("utf-8"))
    }
    assert {prefix for prefix in begins if not any(key.startswith(prefix) for key in english)} == set()


def test_every_mechanism_has_a_name_in_every_language() -> None:
    names = {f"mechanism.{name}" for name in get_args(get_type_hints(Privacy)["mechanism"])}
    assert len(names) == 3
    for code in LANGUAGES:
        assert names - catalogue(code).texts.keys() == set()


@pytest.mark.parametrize(("accepted", "said"), [("zh-CN,zh;q=0.9", "登录"), ("de", "Sign in"), ("", "Sign in")])
def test_the_browsers_language_is_spoken(local: Local, accepted: str, said: str) -> None:
    browser = Browser(local)
    assert said in browser.get("/console/sign-in", **{"Accept-Language": accepted}).get_data(as_text=True)
    browser.get("/console/language/zh")
    assert "登录" in browser.get("/console/sign-in", **{"Accept-Language": accepted}).get_data(as_text=True)
    assert browser.get("/console/language/xx").status_code == 404

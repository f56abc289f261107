"""Forms of the page: what was typed stays after an error, links of answers lead somewhere, and nothing is claimed."""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace
from typing import Final

import pytest

from cloud_server import audit, cli
from cloud_server.dashboard.language import LANGUAGE_COOKIE
from cloud_server.dashboard.showing import SECURITY_HEADERS
from shared.plan import Cohort
from shared.wire.canonical import Json
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.signed_in import BASE, PASSWORD, Browser, SignedIn

CURRENT: Final = "HX-Current-URL"


@pytest.fixture
def browser(local: Local) -> Browser:
    """Return an operator's browser; there is a task."""
    local.create(small_plan("point"))
    local.change("INSERT INTO setting (name, value) VALUES ('url', 'https://aggregator.test')")
    return SignedIn(local).browser("ada", "operator")


def links(text: str) -> list[str]:
    """Return where a page's links lead."""
    return [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', text)]


def require_live_links(browser: Browser, text: str) -> None:
    """Follow every link of a page; the switch of languages also to where it leads."""
    found = [link for link in links(text) if link.startswith("/console")]
    assert found
    for link in found:
        answer = browser.get(link)
        where = answer.headers["Location"] if answer.status_code == 303 else link
        assert browser.get(where).status_code in {200, 303}, link


def test_a_plan_that_is_refused_is_still_in_the_editor(browser: Browser) -> None:
    plan = "# three evenings of work\ntask = 'second'\n[cohort]\nlargset = 4\n"
    answer = browser.post("/console/new-task", plan=plan, model="point")
    text = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert "three evenings of work" in text.partition("<textarea")[2].partition("</textarea>")[0]
    assert '<option value="point" selected>' in text
    alert, _, rest = text.partition('role="alert"')[2].partition("</div>")
    assert "did you mean largest?" in alert
    assert "<textarea" in rest  # the error is above the form
    require_live_links(browser, text)
    text = browser.post("/console/new-task", plan="task = 'a'", model="nothing").get_data(as_text=True)
    assert "task = &#39;a&#39;" in text


def test_a_pin_that_is_refused_is_still_in_its_form(browser: Browser) -> None:
    answer = browser.post("/console/models/point/pin", revision="0", version="7", reason="the shop asked")
    text = answer.get_data(as_text=True)
    assert answer.status_code in {403, 404, 409}
    assert 'id="version-pin" name="version" type="number" min="0" max="0" value="7"' in text
    assert text.count('value="the shop asked"') == 1  # in its own form alone
    require_live_links(browser, text)


def test_codes_that_are_refused_are_still_in_their_form(local: Local, browser: Browser) -> None:
    answer = browser.post("/console/codes", task="point", count="30", expires="soon", group="kitchen")
    text = answer.get_data(as_text=True)
    assert answer.status_code == 400
    for value in ("30", "soon", "kitchen"):
        assert f'value="{value}"' in text
    assert 'role="alert"' in text
    assert browser.post("/console/codes", task="point", count="000000001150", expires="1h").status_code == 400
    assert local.rows("SELECT * FROM audit WHERE action = 'codes-created'") == []


@pytest.mark.parametrize(
    ("current", "leads_to"),
    [
        (f"{BASE}/console/rounds?task=point", "/console/rounds?task%3Dpoint"),
        ("https://evil.test/console/rounds", "/console/overview"),
        ("https://evil.test//evil.test", "/console/overview"),
        (f"{BASE}/console/overview/live", "/console/overview"),
        ("", "/console/overview"),
        ("http://[", "/console/overview"),
    ],
)
def test_who_signs_in_after_a_poll_sees_the_whole_page(local: Local, current: str, leads_to: str) -> None:
    answer = Browser(local).get("/console/overview/live", **{"HX-Request": "true", CURRENT: current})
    assert answer.headers["HX-Redirect"] == f"/console/sign-in?next={leads_to}"
    page = Browser(local).get("/console/sign-in?next=/console/rounds/live?task=point").get_data(as_text=True)
    assert 'name="next" value="/console/rounds?task=point"' in page


def test_links_of_an_answer_to_a_form_lead_to_pages(local: Local, browser: Browser) -> None:
    device = local.enrol(small_plan("point"), 1)[0].device
    for path in (f"devices/{device}/dance", "devices/none/revoke", "tasks/none/stop", "codes/none/revoke", "new-task"):
        answer = browser.post(f"/console/{path}")
        assert answer.status_code in {400, 404}, path
        require_live_links(browser, answer.get_data(as_text=True))


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "nothing/x", 404), ("GET", "sign-out", 405)])
def test_what_is_no_page_is_explained_to_people_in_their_language(
    local: Local, method: str, path: str, status: int
) -> None:
    browser = Browser(local)
    browser.set_cookie(LANGUAGE_COOKIE, "zh")
    answer = browser._client.open(
        f"/console/{path}", method=method, base_url=BASE, headers={"Accept": "text/html"}, buffered=True
    )
    assert answer.status_code == status
    assert '<html lang="zh">' in answer.get_data(as_text=True)
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    for asked in (f"/console/{path}.json", f"/v1/{path}"):
        assert browser.get(asked).get_json(force=True)["status"] == 404


def test_who_comes_second_is_told_that_nothing_was_done(local: Local, browser: Browser) -> None:
    device = local.enrol(small_plan("point"), 1)[0].device
    for verb, state in (("reinstate", "active"), ("quarantine", "quarantined"), ("revoke", "revoked")):
        if verb != "reinstate":
            assert browser.post(f"/console/devices/{device}/{verb}", reason="first").status_code == 303
        answer = browser.post(f"/console/devices/{device}/{verb}", reason="second")
        assert answer.status_code == 409
        assert f"already-{state}" in answer.get_data(as_text=True)
    assert local.rows("SELECT state_reason FROM device") == [("first",)]


def test_only_what_was_done_is_said_and_only_once(local: Local, browser: Browser) -> None:
    device = local.enrol(small_plan("point"), 1)[0].device
    where = browser.post(f"/console/devices/{device}/revoke").headers["Location"]
    said = "The device is revoked."
    assert said in browser.get(where).get_data(as_text=True)
    query = where.partition("?")[2]
    other = SignedIn(local).browser("eve", "operator")
    forged = f"/console/devices/{device}?done=device-revoke"
    for one, path in (
        (other, where),
        (browser, f"/console/tasks?{query}"),
        (browser, forged),
        (browser, f"{forged}.9."),
    ):
        assert said not in one.get(path).get_data(as_text=True), path
    local.clock.time_s += 61
    assert said not in browser.get(where).get_data(as_text=True)


def test_the_audit_page_shows_zeros_and_folds_what_is_long(local: Local, browser: Browser) -> None:
    nested: dict[str, Json] = {"stages": ["one"] * 40}
    with local.parts.database.write() as connection:
        detail: dict[str, Json] = {"none_lost": 0, "empty": "", "hash": "ab" * 32, "nested": nested}
        audit.record(connection, local.clock.now_s(), "operator", "released", "point", detail)
    text = browser.get("/console/audit").get_data(as_text=True)
    assert "<i>none_lost</i> 0<" in text
    assert "<i>empty</i>" not in text
    assert f'title="{"ab" * 32}">{"ab" * 8}…<' in text
    summary = text.partition("<summary><i>nested</i>")[2].partition("</summary>")[0]
    assert 0 < len(html.unescape(summary)) < 40


@pytest.mark.parametrize(("language", "said"), [("en", "1 is online, 4 are needed."), ("zh", "需要 4 台。")])
def test_too_few_devices_are_told_in_a_sentence(local: Local, language: str, said: str) -> None:
    plan = replace(small_plan("point"), cohort=Cohort(4, 6, corrupt_share=0.01))
    local.create(plan)
    local.enrol(plan, 1)
    local.change(f"UPDATE device SET last_seen_s = {local.clock.now_s()}")  # noqa: S608
    browser = SignedIn(local).browser("ada", "viewer")
    browser.set_cookie(LANGUAGE_COOKIE, language)
    assert said in browser.get("/console/overview").get_data(as_text=True)


def test_the_first_task_has_one_button_and_a_task_without_noise_a_next_step(local: Local) -> None:
    browser = SignedIn(local).browser("ada", "operator")
    assert browser.get("/console/tasks").get_data(as_text=True).count('href="/console/new-task"') == 1
    local.create(small_plan("point"))
    assert browser.get("/console/tasks").get_data(as_text=True).count('href="/console/new-task"') == 1
    assert "docs/privacy.md" in browser.get("/console/privacy").get_data(as_text=True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["device", "revoke", "device-1", "--reason", "x" * 201], "long-reason"),
        (["device", "revoke", "device-1", "--reason", "\udcff"], "not-utf8"),
        (["device", "show", "device-\udcff"], "not-utf8"),
        (["device", "revoke", "device-1", "--reason", "x" * 200], "device-unknown"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_the_shell(
    local: Local, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    assert cli.main([*words, "--data", str(local.parts.folder.path), "--json"]) > 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_who_adds_an_operator_is_told_where_to_sign_in(
    local: Local, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, where in (("ada", "at /console of the address"), ("bob", "at https://aggregator.test/console")):
        monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD))
        cli.main(["operator", "add", name, "--role", "admin", "--data", str(local.parts.folder.path)])
        assert where in capsys.readouterr().err
        if name == "ada":
            local.change("INSERT INTO setting (name, value) VALUES ('url', 'https://aggregator.test')")

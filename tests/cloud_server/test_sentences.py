"""Errors, cautions and reasons in Chinese: held against what the source can say, and seen on the pages."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, get_args

import pytest
from werkzeug.exceptions import BadRequest, MethodNotAllowed, NotFound, RequestEntityTooLarge, UnsupportedMediaType

from cloud_server.cautions import cautions
from cloud_server.dashboard.language import LANGUAGE_COOKIE
from cloud_server.dashboard.sentences import Sentences, Template
from cloud_server.releases.gate import Metric, Rule, judge
from cloud_server.rounds.eligibility import _TEXTS
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import ComparedSum, Spread
from shared.plan import Cohort, Eligibility, Plan, Privacy, Stop
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.said import errors_of_the_page, reachable, sentences_in
from tests.cloud_server.signed_in import Browser, SignedIn
from tests.cloud_server.test_releases import BAD, TASK, Scene

CHINESE: Final = Sentences.of("zh")
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)
HAN: Final = re.compile("[\u4e00-\u9fff]")
COMPUTED: Final = {  # codes that no place in the source names beside an error's class
    *_TEXTS,
    "storage-unavailable",
    "internal-error",
    "too-many-requests",
    *(
        str(error().name).lower().replace(" ", "-")
        for error in (NotFound, MethodNotAllowed, RequestEntityTooLarge, BadRequest, UnsupportedMediaType)
    ),
}
# What operators meet when they do something: here every sentence is translated, with its values.
MET: Final = (
    "cloud_server.authority.codes",
    "cloud_server.codes",
    "cloud_server.dashboard.actions",
    "cloud_server.dashboard.facts.devices",
    "cloud_server.dashboard.facts.rounds",
    "cloud_server.dashboard.models",
    "cloud_server.dashboard.signing_in",
    "cloud_server.operators.accounts",
    "cloud_server.operators.passwords",
    "cloud_server.operators.roles",
    "cloud_server.operators.sessions",
    "cloud_server.operators.tokens",
    "cloud_server.privacy",
    "cloud_server.releases.actions",
    "cloud_server.releases.catalogue",
    "cloud_server.releases.gate",
    "cloud_server.releases.importing",
    "cloud_server.releases.state",
    "cloud_server.rounds.stopping",
    "cloud_server.tasks",
    "shared.ids",
    "shared.numeric.noise",
    "shared.numeric.skellam",
    "shared.plan",
    "shared.secagg.parameters",
)


def without_values(text: str) -> str:
    """Return what is left of a translation when names of keys, commands and numbers are taken out."""
    return re.sub(r"`[^`]*`|--?[\w-]+|[\w.\[\]/-]*[._=\[\]/\"][\w.\[\]/\"-]*|\d+", "", text)


def test_every_code_that_a_page_can_show_has_a_chinese_text() -> None:
    codes = {one.code for one in errors_of_the_page()} - {""} | COMPUTED
    assert len(codes) > 150
    assert codes - CHINESE.problems.keys() == set()
    for code, one in CHINESE.problems.items():
        assert HAN.search(one["text"]), code
        assert not one["try"] or HAN.search(one["try"]), code


def test_where_a_text_would_hide_a_value_the_original_is_shown_beside_it() -> None:
    for one in errors_of_the_page():
        if one.code and one.texts and "{}" in one.texts[0]:
            known = CHINESE.problems[one.code]
            assert known["original"] or one.texts[0] in known["says"], one


@pytest.mark.parametrize("module", MET)
def test_what_operators_meet_is_translated_with_its_values(module: str) -> None:
    assert module in reachable()
    for one in errors_of_the_page():
        if one.module != module or not one.code:
            continue
        for place, text in enumerate(one.texts):
            given = text.replace("{}", "7")
            explained = CHINESE.explain(one.code, "" if place else given, given if place else "")
            told = explained.remedy if place else explained.text
            if "{}" in text:
                assert text in CHINESE.problems[one.code]["says"], one
                assert "7" in told, one
            assert HAN.search(told), one


def test_every_translation_has_the_values_of_its_sentence() -> None:
    catalogues = [CHINESE.sentences, *(one["says"] for one in CHINESE.problems.values())]
    for english, chinese in (pair for catalogue in catalogues for pair in catalogue.items()):
        assert {str(place) for place in range(english.count("{}"))} == set(re.findall(r"{(\d+)}", chinese)), english


def test_every_caution_is_said_in_chinese() -> None:
    source = {text for text in sentences_in("cloud_server.cautions") if "{}" in text or "noise" in text}
    assert len(source) >= 10
    assert {text for text in source if text not in CHINESE.sentences} == {
        text for text in source if "operator should know" in text
    }
    noise = Privacy("skellam", noise_multiplier=1.0, max_participations=10, max_epsilon=8.0)
    plans = [
        (Plan("a", cohort=Cohort(2, 4, corrupt_share=0.01), eligibility=Eligibility(max_contributions=2)), None),
        (Plan("a", eligibility=Eligibility(min_interval_s=9e9, max_contributions=1), stop=Stop(rounds=5)), None),
        (Plan("a", privacy=replace(noise, mechanism="none")), None),
        (Plan("a", cohort=Cohort(4, 4), privacy=noise, stop=Stop(rounds=60)), 5),
        (Plan("a", cohort=Cohort(4, 4), privacy=noise, stop=Stop(rounds=0)), 5),
        (Plan("a", cohort=Cohort(4, 4), privacy=noise, stop=Stop(rounds=3)), 5),
        (Plan("a", cohort=Cohort(4, 4), privacy=noise, stop=Stop(rounds=60)), None),
    ]
    found = [note for plan, paid in plans for note in cautions(plan, paid)]
    assert len(set(found)) >= 10
    for note in found:
        told = CHINESE.say(note)
        assert HAN.search(told), note
        assert set(re.findall(r"\d+", note)) == set(re.findall(r"\d+", told)), note


def compared(devices: int, gain: float, loss: float) -> ComparedSum:
    """Return what devices found that all saw the same change."""
    one = Evaluation(float(devices), 9 * devices, 10 * devices)
    return ComparedSum(
        survivors=devices,
        evaluated=devices,
        candidate=one,
        baseline=one,
        gain=Spread(gain * devices, gain**2 * devices),
        loss_change=Spread(loss * devices, loss**2 * devices),
    )


def test_whatever_the_gate_finds_is_said_in_chinese() -> None:
    said = {
        judge(compared(devices, change, change), Rule(), metric, 3).reason
        for devices in (1, 5, 50)
        for change in (-0.5, -0.002, 0.0, 0.002, 0.5)
        for metric in METRICS
    }
    assert len(said) > 15
    for reason in said:
        for text in (reason, f"stage 2: {reason}"):
            told = CHINESE.say(text)
            assert HAN.search(told), text
            assert not re.search("[a-z]", told), told
            assert set(re.findall(r"[\d.]+", text)) == set(re.findall(r"[\d.]+", told)), text


def test_a_value_may_be_anything() -> None:
    template = Template.of("Task {} has no version {}.", "{0}:{1}")
    for value in ("point", "{0}", "has no version", "Task x has no version 1.", "%s", "\\1", "设备"):
        assert template.values(f"Task {value} has no version 7.") is not None
    assert template.values("Task  has no version 7") is None
    assert CHINESE.explain("task-unknown", "There is no task '{0}{1}'.").text == "没有任务 '{0}{1}'。"
    assert CHINESE.say("it is Friday") == "it is Friday"
    assert CHINESE.say("") == ""
    assert CHINESE.say("stage 1: " * 500).startswith("第 1 阶段：第 1 阶段")
    assert Sentences.of("en").explain("task-unknown", "There is no task 'x'.", "look").text == "There is no task 'x'."


@pytest.fixture
def scene(local: Local, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    return Scene(local)


def chinese(local: Local, name: str = "ada") -> Browser:
    browser = SignedIn(local).browser(name, "admin")
    browser.set_cookie(LANGUAGE_COOKIE, "zh")
    return browser


def test_pages_explain_refusals_in_chinese(scene: Scene) -> None:
    browser = chinese(scene.local)
    revision = str(scene.state.revision)
    for path, fields, said in (
        (f"models/{TASK}/promote", {"version": "7", "stages": "100%"}, f"任务 '{TASK}' 没有版本 7。"),
        (f"models/{TASK}/promote", {"version": "1", "stages": "x"}, "'x' 不是有效的阶段。"),
        (f"models/{TASK}/pin", {"version": "1"}, "还没有设备评估过版本 1。"),
        (f"models/{TASK}/unpin", {}, "没有固定的版本。"),
        (f"models/{TASK}/dance", {}, "不能这样更改发布。"),
        ("devices/nothing/revoke", {}, "没有设备 'nothing'。"),
        ("codes", {"task": TASK, "count": "0"}, "页面一次可显示 1 至 100 个注册码。"),
        ("operators/ada/role", {"role": "viewer"}, "ada 是唯一的管理员。"),
        ("new-task/check", {"plan": "task = 'x'\n[cohort]\nlargset = 4"}, "您是否想写 largest？"),
        ("new-task/check", {"plan": "task = 'x'\n[cohort]\nlargest = 9999"}, "最接近的允许值是 4096。"),
    ):
        page = browser.post(f"/console/{path}", revision=revision, **fields).get_data(as_text=True)
        alert = page.partition('role="alert"')[2].partition("</div>")[0].replace("&#39;", "'")
        assert said in alert, (path, alert)
        assert 'lang="en"' not in alert, path
    page = browser.get("/console/tasks/nothing").get_data(as_text=True)
    assert "没有任务" in page
    assert "There is no task" not in page
    meaning = browser.post("/console/new-task/check", plan="task = 'x'\n[cohort]\nmin_survivors = 3\nlargest = 6\n")
    assert "除非主人注册时使用 --allow-cohorts-of 3" in meaning.get_data(as_text=True)


def test_the_gates_reasons_are_read_in_chinese_and_an_operators_own_as_written(scene: Scene) -> None:
    browser = chinese(scene.local)
    scene.act("promote", 1, Rule((0.001, 1.0)))
    where = f"/console/models/{TASK}/roll-back"
    browser.post(where, revision=str(scene.state.revision), reason="it is Friday")
    scene.act("promote", 1, Rule((1.0,)))
    scene.evaluate(BAD)
    assert browser.sign_in("ada").status_code == 303  # hours have passed
    page = browser.get(f"/console/models?task={TASK}").get_data(as_text=True)
    assert "第 1 阶段：损失升高 400 %（6 台设备），允许上升不超过 1 %" in page
    assert "is higher" not in page
    assert "it is Friday" in page


def test_a_round_that_nobody_came_to_says_so_in_chinese(local: Local) -> None:
    plan = small_plan("point", stop=Stop(rounds=5))
    local.create(plan)
    local.settle()
    local.clock.time_s += plan.deadlines.round_s + 1
    local.settle()
    browser = chinese(local)
    for path in ("/console/rounds", "/console/rounds/point/1"):
        assert "没有设备前来：轮次已到期限" in browser.get(path).get_data(as_text=True), path

"""The pages in Chromium: what an operator does there, for everybody who may be one, and with nobody else's server.

Pictures go to the folder that FEDLOOM_PICTURES names; the tests do not compare them, people look at them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest

from cloud_server.dashboard.language import LANGUAGES
from tests.browser.conftest import NAME, PASSWORD, SIZE, TASK, Console
from tests.browser.screen import Screen
from tests.browser.story import untranslated

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]
ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = Path(os.environ.get("FEDLOOM_PICTURES", "")) if "FEDLOOM_PICTURES" in os.environ else None
LAST: Final = SIZE.rounds - 1
PAGES: Final = {
    "overview": "overview",
    "rounds": "rounds",
    "round": f"rounds/{TASK}/{LAST}",
    "devices": "devices",
    "models": "models",
    "privacy": "privacy",
    "tasks": "tasks",
    "task": f"tasks/{TASK}",
    "new-task": f"new-task?like={TASK}",
    "codes": "codes",
    "audit": "audit",
    "system": "system",
    "operators": "operators",
}
SHAPES: Final = ((1280, False, "en"), (360, False, "zh"), (360, True, "en"), (1280, True, "zh"))
GIVEN: Final = (TASK, NAME, "bathroom hallway kitchen workshop")  # names that somebody chose
SHOWN: Final = frozenset(re.findall(r"\(tour/([\w-]+)\.png\)", (ROOT / "docs" / "tour.md").read_text("utf-8")))


def photograph(screen: Screen, name: str, *, whole: bool = True) -> None:
    if PICTURES is not None and name in SHOWN:
        screen.photograph(PICTURES / f"{name}.png", whole=whole)


@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_use_every_page(screen: Screen, name: str) -> None:
    """Phone and desk, light and dark, English and Chinese: axe finds nothing serious, nothing sticks out or is left."""
    assert {code for _, _, code in SHAPES} == LANGUAGES.keys()
    for width, dark, code in SHAPES:
        screen.shape(width, dark=dark)
        screen.open(f"/console/language/{code}?next=/console/{PAGES[name]}")
        screen.find("footer")
        assert screen.chrome.execute_script("return document.documentElement.lang") == code
        assert screen.too_wide() <= 0, (width, code)
        assert screen.faults() == [], (width, dark, code)
        assert code != "zh" or untranslated(screen, GIVEN) == []
        photograph(screen, f"{name}-{width}{'-dark' if dark else ''}-{code}")
    screen.shape(1280)
    screen.open("/console/language/en?next=/console/overview")
    assert screen.complaints() == []
    assert screen.elsewhere() == []


def test_the_door_is_open_to_everybody(screen: Screen) -> None:
    screen.open("/console/overview")
    screen.press(".account button")
    assert screen.find("h1").text == "Sign in"
    assert screen.faults() == []
    photograph(screen, "sign-in-1280-en", whole=False)
    screen.write("#name", NAME)
    screen.write("#password", "not the password")
    screen.press(".door button")
    assert "wrong" in screen.text(".problem")
    screen.complaints()  # the 401 is one
    screen.sign_in(NAME, PASSWORD)
    assert screen.find("h1").text == TASK


def test_a_rounds_numbers_are_seen(screen: Screen, console: Console) -> None:
    screen.open("/console/overview")
    assert "collecting" in screen.text(".track [aria-current]")
    screen.find(".chart canvas")  # drawn
    screen.open("/console/rounds")
    screen.press(f'a[href="/console/rounds/{TASK}/{LAST}"]')
    text = screen.text()
    assert "Accuracy of version" in text
    funnel = [int(cell.text) for cell in screen.chrome.find_elements("css selector", ".funnel .number")]
    assert len(funnel) == 4
    assert funnel == sorted(funnel, reverse=True)
    assert funnel[-1] > 0
    assert console.url in screen.chrome.current_url


def test_what_changes_arrives_by_itself(screen: Screen) -> None:
    """The page asks again and again; 304 while nothing changed, so that nothing moves under a reader's eyes."""
    screen.open("/console/overview")
    screen.requests()
    screen.chrome.execute_script("document.querySelector('#live h2').dataset.mine = 'kept'")
    for _ in range(2):
        screen.chrome.execute_async_script(
            "const done = arguments[0]; document.addEventListener('htmx:afterRequest', () => done(), {once: true})"
        )
    polls = [address for address in screen.requests() if "/console/overview/live" in address]
    assert len(polls) >= 2
    assert screen.chrome.execute_script("return document.querySelector('#live h2').dataset.mine") in {"kept", None}


def test_a_code_is_made_with_its_picture(screen: Screen) -> None:
    screen.open("/console/codes")
    screen.write("#count", "2")
    screen.write("#group", "kitchen")
    screen.press(".form button")
    codes = [found.text for found in screen.chrome.find_elements("css selector", ".codes code.long")]
    assert len(set(codes)) == 2
    assert all(len(code) > 40 for code in codes)
    assert len(screen.chrome.find_elements("css selector", ".codes svg path")) == 2
    assert screen.faults() == []
    photograph(screen, "codes-made-1280-en")
    screen.open("/console/audit")
    screen.wait_for_text("main", "follow from one another")
    assert "codes-created" in screen.text()
    assert f"operator:{NAME}" in screen.text()


def test_a_device_is_revoked(screen: Screen) -> None:
    screen.open("/console/devices?state=active")
    screen.press("tbody a")
    device = screen.find("h1").text
    photograph(screen, "device-1280-en")
    screen.write("#reason-revoke", "sold <b>yesterday</b>")
    screen.find(".check input").click()
    screen.press("button.danger")
    assert "The device is revoked." in screen.text(".notice")
    assert "sold <b>yesterday</b>" in screen.text(".failure")
    screen.open(f"/console/devices?name={device}")
    assert "revoked" in screen.text("tbody")


def test_a_plan_is_checked_while_it_is_written(screen: Screen) -> None:
    screen.open(f"/console/new-task?like={TASK}")
    screen.write("#plan", 'task = "kettle"\n[cohort]\nlargest = 100000\n')
    screen.wait_for_text("#check", "the nearest is 4096")
    photograph(screen, "new-task-wrong-1280-en")
    screen.write("#plan", 'task = "kettle"\n[cohort]\nmin_survivors = 30\nlargest = 50\n')
    screen.wait_for_text("#check", "The plan of kettle is sound.")
    screen.press(".editor button")
    assert screen.find("h1").text == "kettle"


def test_the_keyboard_is_enough(screen: Screen) -> None:
    """The first tab leads past the menu; whatever has the focus shows it."""
    screen.open("/console/tasks")
    body = screen.find("body")
    body.send_keys("\ue004")  # Tab
    focused = screen.chrome.switch_to.active_element
    assert focused.get_attribute("class") == "skip"
    focused.send_keys("\ue007")  # Enter
    assert screen.chrome.execute_script("return document.activeElement.id") == "main"
    screen.chrome.switch_to.active_element.send_keys("\ue004")
    style = screen.chrome.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_nothing_was_asked_of_another_server(screen: Screen) -> None:
    assert screen.elsewhere() == []
    assert len(screen.asked) > 20
    assert all(address.startswith((screen.url, "data:", "chrome:", "about:")) for address in screen.asked)

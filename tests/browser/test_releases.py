"""The Models page in Chromium: an operator promotes a version, sees its stages, and takes it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from cloud_server.app import RELEASE_KEY_FILE, make_context
from cloud_server.settings import load_or_create_key
from shared.clock import SystemClock
from tests.browser.conftest import NAME, SIZE, Console
from tests.browser.screen import Screen
from tests.browser.test_console import SHAPES, photograph
from tools.bench.release_scene import ReleaseScene

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]
TASK: Final = "posture"  # after the other task in menus
PAGE: Final = f"/console/models?task={TASK}"


@pytest.fixture(scope="package")
def scene(console: Console, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseScene]:
    """Return a second task, whose past is written beside the server that runs."""
    parts = make_context(console.data, SystemClock())
    made = ReleaseScene(parts, load_or_create_key(parts.folder.keys / RELEASE_KEY_FILE), TASK)
    made.fill(tmp_path_factory.mktemp("releases") / "bundle", SIZE.devices, time.time())
    yield made
    parts.database.close()


def test_a_version_is_promoted_watched_and_taken_back(screen: Screen, scene: ReleaseScene) -> None:
    screen.open(PAGE)
    text = screen.text()
    assert "Version 2 after 1" in text
    assert "Rolled back: stage 2: loss is" in text
    screen.write("#stages", "5%,50%,100%")
    screen.find("#promote [name=wait]").click()
    screen.press("#promote button")
    assert "The promotion has begun" in screen.text(".notice")
    assert "5 %" in screen.text("[aria-current=step]").replace("\N{NO-BREAK SPACE}", " ")
    assert "being evaluated" in screen.text("[aria-current=step]")
    scene.settle(0.53, 0.47, time.time())
    screen.open(PAGE)
    assert "passed, waits" in screen.text("[aria-current=step]")
    screen.press("#proceed button")
    assert "50 %" in screen.text("[aria-current=step]").replace("\N{NO-BREAK SPACE}", " ")
    scene.sign(time.time())
    for name, path in (("models-stages", PAGE.removeprefix("/console/")), ("card", f"models/{TASK}/1")):
        for width, dark, code in SHAPES:
            screen.shape(width, dark=dark)
            screen.open(f"/console/language/{code}?next=/console/{path}")
            screen.find("footer")
            assert screen.too_wide() <= 0, (name, width, code)
            assert screen.faults() == [], (name, width, dark, code)
            photograph(screen, f"{name}-{width}{'-dark' if dark else ''}-{code}")
    screen.shape(1280)
    screen.open(f"/console/language/en?next={PAGE}")
    screen.write("#reason-roll-back", "complaints")
    screen.find("#roll-back .check input").click()
    screen.press("#roll-back button")
    assert "Rolled back: complaints" in screen.text()
    assert f"operator:{NAME}" in screen.text()
    assert screen.complaints() == []
    assert screen.elsewhere() == []

"""An operator's whole story on the page, with real agents: from the first code to a device that is revoked.

Server, driver, agents and browser are the real ones; what the page says is compared with what the devices do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load, save

from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from cloud_server.plan_text import toml_of
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from tests.browser.conftest import NAME, PASSWORD
from tests.browser.screen import Screen, browser
from tests.browser.story import look, look_in_every_language
from tests.e2e.servers import Deployment, deployment
from tests.e2e.test_releases import at_work, make_device, used
from tools.bench.quadratic import write_quadratic_bundle
from tools.fleet import Device

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(1800), pytest.mark.long]
PATIENCE_S: Final = 300.0
DEVICES: Final = 4
SMALLEST: Final = 2
DIMENSION: Final = 4
DAY_S: Final = 86_400.0
TASK: Final = "kettle"
GROUP: Final = "attic"
GIVEN: Final = (TASK, GROUP, NAME)  # names that somebody chose
PLAN: Final = Plan(
    TASK,
    training=Training(epochs=2, learning_rate=0.1),
    update=Update(max_l2_norm=100.0, lane_bits=32),
    cohort=Cohort(min_survivors=SMALLEST, largest=DEVICES, corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(0.3, DAY_S / 24, DAY_S / 24, DAY_S / 24, DAY_S / 24, DAY_S),
    server=Server(),
    stop=Stop(rounds=2),
)
MODELS: Final = f"/console/models?task={TASK}"
PICTURES: Final = Path(os.environ["FEDLOOM_STORY"]) if "FEDLOOM_STORY" in os.environ else None


def picture(name: str) -> Path | None:
    return None if PICTURES is None else PICTURES / name


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"still waiting for {what}"
        time.sleep(0.1)


def sees(screen: Screen, path: str, selector: str, text: str) -> None:
    """Load a page again and again, as a person would, until it says something."""

    def said() -> bool:
        screen.open(path)
        screen.find("footer")
        return text in screen.said(selector)

    until(said, f"{path} to say {text!r}")


def test_an_operators_story_with_real_agents(tmp_path: Path) -> None:
    with deployment(tmp_path) as running, browser() as chrome:
        with running._database.write() as connection:
            add_operator(connection, NAME, "admin", PASSWORD, By(AT_THE_MACHINE, time.time()))
        screen = Screen(chrome, running.url)
        screen.shape(1280)
        signs_in(screen)
        makes_a_task(screen, tmp_path / "bundle")
        devices = [make_device(tmp_path, number, code) for number, code in enumerate(makes_codes(screen))]
        watches_rounds(screen, devices)
        with at_work(devices):
            promotes_a_good_version(screen, devices)
            promotes_a_bad_version(screen, running, devices, tmp_path / "weights.safetensors")
            revokes_a_device(screen, devices)
        looks_back(screen)
        assert screen.complaints() == []


def signs_in(screen: Screen) -> None:
    screen.open("/console/overview")
    assert screen.find("h1").text == "Sign in"
    look_in_every_language(screen, "/console/sign-in", GIVEN, picture("sign-in"))
    screen.complaints()  # none of these counts: a page that is not for strangers led here
    screen.sign_in(NAME, PASSWORD)
    assert "There is no task yet" in screen.text()


def makes_a_task(screen: Screen, folder: Path) -> None:
    write_quadratic_bundle(folder, DIMENSION)
    screen.open("/console/new-task")
    screen.write("#plan", toml_of(PLAN))
    screen.wait_for_text("#check", f"The plan of {TASK} is sound.")
    screen.find("#bundle").send_keys("\n".join(str(path) for path in folder.iterdir()))
    screen.press(".editor button")
    assert screen.find("h1").text == TASK
    look_in_every_language(screen, f"/console/tasks/{TASK}", GIVEN, picture("task"))
    # From here on devices change versions when somebody says so.
    screen.open(MODELS)
    screen.press("#hold button")
    look_in_every_language(screen, MODELS, GIVEN, picture("models-empty"))


def makes_codes(screen: Screen) -> list[str]:
    """Return codes that were shown on the page, half of them in each language."""
    codes = []
    for code in ("zh", "en"):
        screen.open(f"/console/language/{code}?next=/console/codes")
        screen.write("#count", str(DEVICES // 2))
        screen.write("#group", GROUP)
        screen.press(".form button")
        look(screen, GIVEN, picture("codes"))
        codes += [found.text for found in screen.chrome.find_elements("css selector", ".codes code.long")]
    assert len(set(codes)) == DEVICES
    return codes


def watches_rounds(screen: Screen, devices: Sequence[Device]) -> None:
    """The pages that are open show what real devices do, and nobody loads them anew."""
    look_in_every_language(screen, "/console/devices", GIVEN, picture("devices"))
    assert len(screen.chrome.find_elements("css selector", "tbody tr")) == DEVICES
    screen.open("/console/overview")
    assert figures(screen)[:2] == ["0", "0"]  # invited, members
    screen.chrome.execute_script("window.mine = 'kept'")
    with at_work(devices[:1]):
        until(lambda: figures(screen)[:2] == ["1", "1"], "the page to show that a device has joined")
        assert screen.chrome.execute_script("return window.mine") == "kept"
        screen.open("/console/rounds")
        assert closed(screen) == 0
        screen.chrome.execute_script("window.mine = 'kept'")
        with at_work(devices[1:]):
            until(lambda: closed(screen) == 2, "the page to show that both rounds are closed")
    assert screen.chrome.execute_script("return window.mine") == "kept"
    for name, path in (("rounds", "rounds"), ("round", f"rounds/{TASK}/2"), ("overview", "overview")):
        look_in_every_language(screen, f"/console/{path}", GIVEN, picture(name))
    assert f"{TASK} is done." in screen.text(".alerts")


def figures(screen: Screen) -> list[str]:
    """Return the figures of the current round as the open page shows them now."""
    script = "return [...document.querySelectorAll('#live .now .figure b')].map((found) => found.textContent)"
    found: list[str] = screen.chrome.execute_script(script)
    return found


def closed(screen: Screen) -> int:
    """Return how many rounds the open page says are closed, as it is now."""
    return int(screen.chrome.execute_script("return document.querySelectorAll('#live tbody .chip.closed').length"))


def promotes_a_good_version(screen: Screen, devices: Sequence[Device]) -> None:
    """Stage by stage, with a word of the operator between them."""
    screen.open(MODELS)
    screen.write("#version-promote", "2")
    screen.write("#stages", "1%,100%")
    screen.find("#promote [name=wait]").click()
    screen.press("#promote button")
    assert "The promotion has begun" in screen.text(".notice")
    sees(screen, MODELS, "#promotion ~ .promotion .track", "passed, waits")
    look_in_every_language(screen, MODELS, GIVEN, picture("stage-passed"))
    # Only the first stage's devices were told.
    until(lambda: versions(devices) == [0] * (DEVICES - SMALLEST) + [2] * SMALLEST, "the first stage to use version 2")
    screen.press("#proceed button")
    until(lambda: used(devices) == {2}, "every device to use version 2")
    sees(screen, MODELS, "#proceed", "All devices are told")
    screen.press("#proceed button")
    sees(screen, MODELS, ".promotion .chip", "released")


def versions(devices: Sequence[Device]) -> list[int]:
    """Return which version each device's applications find."""
    return sorted(int(device.status()["release"]["version"]) for device in devices)


def promotes_a_bad_version(screen: Screen, running: Deployment, devices: Sequence[Device], file: Path) -> None:
    """Weights made worse on purpose are promoted like any others; the gate takes them back and the page says why."""
    server = running.server
    server.run("model", "download", TASK, "--version", "2", "--as", "safetensors", "--out", str(file))
    worse = {name: part - np.float32(9) for name, part in load(file.read_bytes()).items()}
    file.write_bytes(save(worse))
    assert server.run("model", "import", TASK, "--weights", str(file))["version"] == 3
    screen.open(MODELS)
    assert screen.find("#version-promote").get_attribute("value") == "3"
    screen.press("#promote button")
    sees(screen, MODELS, ".promotion", "rolled back")
    why = screen.text(".promotion .failure")
    assert "Rolled back: stage 1: loss is" in why
    assert f"higher on {SMALLEST} devices" in why
    look_in_every_language(screen, MODELS, GIVEN, picture("rolled-back"))
    until(lambda: used(devices) == {2}, "the first stage's devices to use version 2 again")
    had = [device for device in devices if "version 3: in use" in (device.folder / "log").read_text()]
    assert len(had) == SMALLEST


def revokes_a_device(screen: Screen, devices: Sequence[Device]) -> None:
    """The device's next request is refused, and its agent says so to its owner."""
    one, others = devices[0], devices[1:]
    name = str(one.status()["device"])
    screen.open(f"/console/devices?name={name[:20]}")
    screen.press("tbody a")
    screen.write("#reason-revoke", "sold")
    screen.find(".check input").click()
    screen.press("button.danger")
    assert "The device is revoked." in screen.text(".notice")
    look_in_every_language(screen, f"/console/devices/{name}", (*GIVEN, "sold"), picture("revoked"))
    until(lambda: "device-revoked" in (one.folder / "log").read_text(), "the device to be refused")
    assert all("device-revoked" not in (other.folder / "log").read_text() for other in others)


def looks_back(screen: Screen) -> None:
    """Whatever was done is in the audit log under the operator's name."""
    look_in_every_language(screen, "/console/audit", GIVEN, picture("audit"))
    screen.wait_for_text("main", "follow from one another")
    text = screen.text()
    for action in ("task-created", "codes-created", "release-promoted", "release-rolled-back", "device-revoked"):
        assert action in text, action
    assert f"operator:{NAME}" in text

"""A headless Chromium that remembers every request it sends.

screen = Screen(browser, url)
screen.open("/console/overview")
screen.shape(360, dark=True)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

AXE: Final = (Path(__file__).parent / "vendor" / "axe.min.js").read_text("utf-8")
PATIENCE_S: Final = 60.0
HEIGHT: Final = 900
LONGEST: Final = 1400  # of a picture of a whole page
NARROW: Final = 600
_LOG: Final = {"goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}


@contextmanager
def browser() -> Iterator[Chrome]:
    """Run a browser until the block ends."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "install Debian's chromium"
    assert driver, "install Debian's chromium-driver"
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("acceptInsecureCerts", True)  # noqa: FBT003  # WebDriver's
    for name, value in _LOG.items():
        options.set_capability(name, value)
    made = Chrome(options=options, service=Service(executable_path=driver))
    made.set_page_load_timeout(PATIENCE_S)
    made.set_script_timeout(PATIENCE_S)
    try:
        yield made
    finally:
        made.quit()


class Screen:
    """One browser's window on one server.

    Args:
        chrome: the browser.
        url: of the server.
    """

    def __init__(self, chrome: Chrome, url: str) -> None:
        self.chrome = chrome
        self.url = url
        self.asked: list[str] = []

    def open(self, path: str) -> None:
        """Go to a page."""
        self.chrome.get(self.url + path)

    def shape(self, width: int, *, dark: bool = False) -> None:
        """Be as wide as that, and light or dark."""
        self._resize(width, HEIGHT)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, selector: str) -> WebElement:
        """Wait for an element."""
        return WebDriverWait(self.chrome, PATIENCE_S).until(
            lambda chrome: chrome.find_element(By.CSS_SELECTOR, selector), f"still waiting for {selector}"
        )

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element, which may be replaced meanwhile, says something."""
        WebDriverWait(self.chrome, PATIENCE_S).until(
            lambda _chrome: text in self.said(selector), f"{selector} does not say {text!r}"
        )

    def said(self, selector: str) -> str:
        """Return what elements say now, nothing where there are none."""
        script = "return [...document.querySelectorAll(arguments[0])].map(found => found.textContent).join(' ')"
        return str(self.chrome.execute_script(script, selector)).replace("\N{NO-BREAK SPACE}", " ")

    def write(self, selector: str, text: str) -> None:
        """Type into a field that is emptied first."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        Select(self.find(selector)).select_by_value(value)

    def press(self, selector: str) -> None:
        """Press a button, and wait until the page it leads to is there."""
        before = self.find("html")
        self.find(selector).click()
        WebDriverWait(self.chrome, PATIENCE_S).until(lambda _chrome: _is_gone(before), "no new page came")
        self.find("footer")

    def text(self, selector: str = "main") -> str:
        """Return what an element says."""
        return self.find(selector).text

    def sign_in(self, name: str, password: str) -> None:
        """Sign in as somebody."""
        self.open("/console/sign-in")
        self.write("#name", name)
        self.write("#password", password)
        self.press(".door button")

    def faults(self) -> list[str]:
        """Return what axe-core finds that keeps people out, serious or worse."""
        self.chrome.execute_script(AXE)
        found = self.chrome.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(done)"
        )
        return [
            f"{fault['id']}: {node['target']} {node.get('failureSummary', '')}"
            for fault in found["violations"]
            if fault["impact"] in {"serious", "critical"}
            for node in fault["nodes"]
        ]

    def too_wide(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.chrome.execute_script("return document.documentElement.scrollWidth - innerWidth"))

    def requests(self) -> list[str]:
        """Return the addresses of everything that the browser asked for since the last call."""
        found = []
        for entry in self._log("performance"):
            message: dict[str, Any] = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        self.asked += found
        return found

    def elsewhere(self) -> list[str]:
        """Return those of them that went to another origin."""
        own = urlsplit(self.url)
        addresses = [urlsplit(address) for address in self.requests()]
        return [
            address.geturl()
            for address in addresses
            if address.scheme in {"http", "https", "ws", "wss"}
            and (address.scheme, address.netloc) != (own.scheme, own.netloc)
        ]

    def complaints(self) -> list[str]:
        """Return what the browser's console said: refused scripts and styles, and errors, among others."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.chrome.get_log(kind)  # type: ignore[no-untyped-call]  # selenium's
        return found

    def photograph(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        height = self.chrome.execute_script("return document.documentElement.scrollHeight") if whole else HEIGHT
        width = self.chrome.execute_script("return innerWidth")
        self._resize(int(width), min(int(height), LONGEST))
        self.chrome.save_screenshot(str(path))

    def _resize(self, width: int, height: int) -> None:
        # A phone's scroll bars take no room.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < NARROW}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _is_gone(element: WebElement) -> bool:
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException  # noqa: PLC0415

    try:
        element.is_enabled()
    except (StaleElementReferenceException, WebDriverException):
        return True
    return False

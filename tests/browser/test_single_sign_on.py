"""Signing in at an OpenID Connect provider, through a real Apache with the configuration that is shipped."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import urllib3

from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from edge_client.transport import pinned_pool
from tests.apache import apache, configure, openid_provider
from tests.browser.screen import Screen, browser
from tests.e2e.servers import Deployment, deployment
from tools.fleet import free_port

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]
HEADER: Final = "X-Forwarded-User"
PROXY: Final = "127.0.0.2"  # Apache's address as the aggregator sees it
ADA: Final = "ada"
BOB: Final = "bob"  # whom the provider knows, and nobody here


@dataclass(frozen=True)
class Behind:
    """An aggregator behind Apache.

    Attributes:
        running: the aggregator.
        url: Apache's.
        provider: where people sign in.
    """

    running: Deployment
    url: str
    provider: str

    def ask(self, url: str, path: str, address: str = "127.0.0.1", **headers: str) -> urllib3.BaseHTTPResponse:
        """Ask as a program that is no browser, from an address of this machine."""
        pool = pinned_pool(self.running.root.tls_root_pem)
        pool.connection_pool_kw["source_address"] = (address, 0)
        sent = {"Accept": "text/html", **headers}
        answer = pool.request("GET", url + path, headers=sent, retries=False, redirect=False)
        pool.clear()
        return answer

    def signed_in(self) -> int:
        """Return how often somebody was signed in, as the audit log has it."""
        query = "SELECT COUNT(*) FROM audit WHERE action = 'signed-in'"
        return int(self.running.rows(query)[0][0])


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder, port = tmp_path_factory.mktemp("single-sign-on"), free_port()
    options = ("--trusted-proxy", PROXY, "--sign-in-proxy", PROXY, "--sign-in-header", HEADER)
    with (
        deployment(folder, *options) as running,
        openid_provider(folder / "provider.log", free_port(), (ADA, BOB)) as provider,
        apache(folder / "apache", running.data / "keys", port, running.server.port, provider),
    ):
        with running._database.write() as connection:
            add_operator(connection, ADA, "admin", None, By(AT_THE_MACHINE, time.time()))
        yield Behind(running, f"https://127.0.0.1:{port}", provider)


@pytest.fixture
def screen(behind: Behind) -> Iterator[Screen]:
    with browser() as chrome:
        yield Screen(chrome, behind.url)


def sign_in(screen: Screen, behind: Behind, name: str) -> None:
    """Ask for a page, and sign in at the provider that it leads to."""
    screen.open("/console/overview")
    assert screen.chrome.current_url.startswith(behind.provider)
    person = {ADA: "person-0", BOB: "person-1"}[name]
    screen.press(f"button[value={person}]")


def cookies(screen: Screen) -> str:
    """Return what the browser sends to Apache."""
    return "; ".join(f"{one['name']}={one['value']}" for one in screen.chrome.get_cookies())


def test_the_shipped_file_is_valid(behind: Behind, tmp_path: Path) -> None:
    command = configure(tmp_path, behind.running.data / "keys", 1, 2, behind.provider)
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Syntax OK" in done.stderr


def test_a_person_signs_in_once(behind: Behind, screen: Screen) -> None:
    before = behind.signed_in()
    sign_in(screen, behind, ADA)
    assert screen.chrome.current_url == f"{behind.url}/console/overview"
    assert ADA in screen.text(".who")
    sessions = behind.running.rows("SELECT secret_sha256, operator FROM operator_session")
    assert [name for _, name in sessions] == [ADA]
    for _ in range(3):  # who asks again is signed in already
        screen.open("/console/sign-in?next=/console/devices")
        assert screen.chrome.current_url == f"{behind.url}/console/devices"
    assert behind.running.rows("SELECT secret_sha256, operator FROM operator_session") == sessions
    assert behind.signed_in() == before + 1
    # What people change on the page works through Apache, and is done in their name.
    screen.open("/console/operators")
    assert ADA in screen.text()
    screen.press(".account button")
    entries = behind.running.rows("SELECT actor FROM audit WHERE action = 'signed-out'")
    assert entries == [(f"operator:{ADA}",)]


def test_who_has_no_account_is_not_let_in_whatever_they_claim(behind: Behind, screen: Screen) -> None:
    sign_in(screen, behind, BOB)
    assert "operator-unknown" in screen.text(".problem")
    before = behind.signed_in()
    for header in (HEADER, HEADER.lower(), HEADER.replace("-", "_")):
        answer = behind.ask(behind.url, "/console/sign-in", Cookie=cookies(screen), **{header: ADA})
        assert answer.status == 403, header
        assert b"operator-unknown" in answer.data
    assert behind.signed_in() == before


@pytest.mark.parametrize("path", ["/console/sign-in", "/console/overview", "/console/overview.json"])
def test_a_forged_header_lets_nobody_in(behind: Behind, path: str) -> None:
    before = behind.signed_in()
    # Past Apache, from another address; nor does it help to say that one is the proxy.
    direct = f"https://127.0.0.1:{behind.running.server.port}"
    for address in ("127.0.0.1", "127.0.0.3"):
        claims = {HEADER: ADA, "X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}"}
        answer = behind.ask(direct, path, address, **claims)
        assert "fedloom-session" not in str(answer.headers)
        assert answer.status in ({200} if path == "/console/sign-in" else {303, 401})
        assert path == "/console/sign-in" or answer.status == 401 or "/sign-in" in answer.headers["Location"]
    # Through Apache, by somebody who has not signed in at the provider.
    answer = behind.ask(behind.url, path, **{HEADER: ADA})
    assert answer.status == 302
    assert answer.headers["Location"].startswith(behind.provider)
    assert behind.signed_in() == before


def test_nothing_but_the_page_is_behind_apache(behind: Behind) -> None:
    for path in ("/metrics", "/v1/root", "/readyz"):
        assert behind.ask(behind.url, path).status == 404

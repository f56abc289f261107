"""A server with a past, an operator's account, and a browser, for all of these tests."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_server.app import RELEASE_KEY_FILE, make_context
from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.tls import ensure_certificates
from shared.clock import SystemClock
from tests.browser.screen import Screen, browser
from tools.bench.page_scene import Size, fill
from tools.fleet import Server

SIZE = Size(devices=400, rounds=60)
TASK = "motion"
NAME = "ada"
PASSWORD = "correct horse battery staple"  # noqa: S105  # of this test alone


@dataclass(frozen=True)
class Console:
    """A server that runs.

    Attributes:
        url: where.
        data: its folder.
    """

    url: str
    data: Path


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """Return a server whose task has run for a while; no driver, whose devices these are not."""
    folder = tmp_path_factory.mktemp("console")
    data = DataFolder.open(folder / "data")
    ensure_certificates(data.keys, "127.0.0.1", dt.datetime.now(dt.UTC))
    parts = make_context(data.path, SystemClock())
    fill(parts, folder / "bundle", load_or_create_key(data.keys / RELEASE_KEY_FILE), TASK, SIZE, time.time())
    with parts.database.write() as connection:
        add_operator(connection, NAME, "admin", PASSWORD, By(AT_THE_MACHINE, time.time()))
    parts.database.close()
    server = Server(data.path, folder / "server.log", command=("serve", "--drivers", "0"))
    server.start()
    yield Console(f"https://127.0.0.1:{server.port}", data.path)
    server.stop()


@pytest.fixture(scope="package")
def screen(console: Console) -> Iterator[Screen]:
    """Return a browser in which the operator is signed in."""
    with browser() as chrome:
        made = Screen(chrome, console.url)
        made.shape(1280)
        made.sign_in(NAME, PASSWORD)
        yield made

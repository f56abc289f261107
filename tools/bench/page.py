"""How fast the operator's pages answer over 100,000 devices and 10,000 rounds, in SQLite and in PostgreSQL.

The pages are asked in this process, by a program's token: what is measured is queries, values and templates, without
network and TLS. Each is asked many times, the first time included, when nothing is remembered. PostgreSQL is a cluster
of the benchmark's own, where it is installed.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from flask.testing import FlaskClient

from cloud_server.api.context import Context
from cloud_server.app import RELEASE_KEY_FILE, create_app, make_context
from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from cloud_server.operators.tokens import create_token
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.storage.opening import use_database
from cloud_server.tls import ensure_certificates
from shared.clock import SystemClock
from shared.errors import FedloomError
from tools.bench.page_scene import Size, fill
from tools.bench.report import Result
from tools.own_postgres import cluster, programs

SIZE: Final = Size(devices=100_000, rounds=10_000)
TASK: Final = "motion"
REPEATS: Final = 40
BUDGET_MS: Final = 300.0
PAGES: Final = (
    "overview",
    "overview/live",
    "rounds",
    "rounds?before=5000",
    "rounds/live",
    f"rounds/{TASK}/9990",
    "devices",
    "devices?name=device-8&state=active",
    "devices?group=kitchen&after=device-8",
    "models",
    "privacy",
    "tasks",
    f"tasks/{TASK}",
    "codes",
    "audit",
    "audit/chain",
    "system",
)


def measure() -> list[Result]:
    """Return the 95th percentile of each page's time in either database, beside the budget."""
    found = _measure("sqlite", None, SIZE)
    if programs() is None:
        print("PostgreSQL is not installed, so SQLite alone was measured", file=sys.stderr)
        return found
    with cluster() as running:
        return [*found, *_measure("postgresql", running.new_database(), SIZE)]


def _measure(kind: str, database_url: str | None, size: Size) -> list[Result]:
    with tempfile.TemporaryDirectory() as name:
        client, token, parts = prepare(Path(name), size, database_url)
        times_ms = {page: [_ask_ms(client, token, page) for _ in range(REPEATS)] for page in PAGES}
        parts.database.close()
    every = [taken for times in times_ms.values() for taken in times]
    return [
        *(_percentile(f"page/{kind}/{page}", taken) for page, taken in times_ms.items()),
        _percentile(f"page/{kind}/all", every),
        Result(f"page/{kind}/slowest answer of all", max(every), "ms", "budget at the 95th percentile", BUDGET_MS),
    ]


def _percentile(name: str, taken_ms: list[float]) -> Result:
    return Result(name, float(np.percentile(taken_ms, 95)), "ms", "budget", BUDGET_MS)


def prepare(folder: Path, size: Size, database_url: str | None = None) -> tuple[FlaskClient, str, Context]:
    """Return a client of an aggregator with so much in it, a viewer's token, and the aggregator's parts.

    Its database is a file, unless the address of an empty one is given.
    """
    clock = SystemClock()
    data = DataFolder.open(folder / "data")
    if database_url is not None:
        use_database(data, database_url)
    ensure_certificates(data.keys, "127.0.0.1", dt.datetime.now(dt.UTC))
    parts = make_context(data.path, clock)
    fill(parts, folder / "bundle", load_or_create_key(data.keys / RELEASE_KEY_FILE), TASK, size, clock.now_s())
    by = By(AT_THE_MACHINE, clock.now_s())
    with parts.database.write() as connection:
        add_operator(connection, "bench", "viewer", None, by)
        token = create_token(connection, "bench", "viewer", "bench", 86_400, by, random_bytes=os.urandom)
    return create_app(parts).test_client(), token, parts


def _ask_ms(client: FlaskClient, token: str, page: str) -> float:
    started_s = time.perf_counter()
    answer = client.get(f"/console/{page}", headers={"Authorization": f"Bearer {token}"})
    taken_ms = 1000 * (time.perf_counter() - started_s)
    if answer.status_code != 200:
        raise FedloomError("page-failed", f"/console/{page} answered {answer.status_code}.")
    return taken_ms

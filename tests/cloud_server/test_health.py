"""Whoever asks is told that the server lives, and what it lacks; metrics are for whom the operator chose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from cloud_server.api import health
from cloud_server.api.operator import METRICS, Audience
from cloud_server.app import create_app
from cloud_server.authority.app import create_app as create_authority_app
from cloud_server.authority.registry import Authority
from cloud_server.storage import blobs as blobs_module
from cloud_server.storage.leases import LEASE_S
from cloud_server.storage.opening import database_url
from shared.wire.requests import PROBLEM
from tests.cloud_server.local import Local
from tests.edge_client.devices import ManualClock


def ask(app: Flask, path: str, **environ: str) -> tuple[int, str, Any]:
    with app.test_client().get(path, environ_overrides=environ) as response:
        return response.status_code, response.content_type, response.get_json(force=True, silent=True)


def missing(app: Flask) -> str:
    status, content_type, problem = ask(app, health.READYZ)
    assert (status, content_type, problem["code"]) == (503, PROBLEM, "not-ready")
    return str(problem["detail"])


def test_a_server_is_ready_while_a_driver_holds_the_lease(local: Local) -> None:
    assert missing(local.app) == "The server is not ready: driver: no driver holds a lease."
    local.settle()
    assert ask(local.app, health.READYZ)[::2] == (200, {"status": "ready"})
    local.clock.time_s += LEASE_S + 1
    assert "driver" in missing(local.app)
    assert ask(local.app, health.HEALTHZ)[::2] == (200, {"status": "alive"})


def test_it_names_a_folder_that_is_gone_or_full(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.settle()
    blobs = local.parts.folder.blobs
    away = blobs.with_name("away")
    blobs.rename(away)
    assert "folder of blobs: cannot be used (FileNotFoundError)" in missing(local.app)
    away.rename(blobs)
    assert ask(local.app, health.READYZ)[0] == 200
    monkeypatch.setattr(blobs_module, "MIN_FREE_BYTES", shutil.disk_usage(blobs).free * 2)
    assert "folder of blobs: has" in missing(local.app)


@contextmanager
def unreachable(local: Local) -> Iterator[None]:
    """Let nobody connect to the database."""
    local.parts.database.close()
    if local.parts.database.is_sqlite:
        path = local.parts.folder.database
        away = path.with_name("away")
        path.rename(away)
        path.mkdir()
        yield
        path.rmdir()
        away.rename(path)
        return
    address = make_url(database_url(local.parts.folder))
    server = create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{address.database}" ALLOW_CONNECTIONS false')
        yield
        connection.exec_driver_sql(f'ALTER DATABASE "{address.database}" ALLOW_CONNECTIONS true')


def test_it_names_a_database_that_does_not_answer(local: Local) -> None:
    local.settle()
    with unreachable(local):
        assert "database: does not answer (OperationalError); driver: not known" in missing(local.app)
    assert ask(local.app, health.READYZ)[0] == 200


def test_the_authority_says_whether_it_can_work(tmp_path: Path) -> None:
    authority = Authority(tmp_path, ManualClock(), os.urandom)
    app = create_authority_app(authority, tmp_path)
    assert ask(app, health.HEALTHZ)[::2] == (200, {"status": "alive"})
    assert ask(app, health.READYZ)[::2] == (200, {"status": "ready"})
    authority.database.close()
    shutil.rmtree(tmp_path)
    assert "database: does not answer (OperationalError); folder: cannot be used" in missing(app)


@pytest.mark.parametrize(
    ("audience", "environ", "status"),
    [
        ("local", {"REMOTE_ADDR": "127.0.0.1"}, 200),
        ("local", {"REMOTE_ADDR": "127.8.7.6"}, 200),
        ("local", {"REMOTE_ADDR": "::1"}, 200),
        ("local", {"REMOTE_ADDR": "192.0.2.1"}, 403),
        ("local", {"REMOTE_ADDR": "2001:db8::1"}, 403),
        ("local", {"REMOTE_ADDR": ""}, 403),
        ("local", {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.1"}, 403),
        ("local", {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 403),
        ("local", {"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 403),
        ("local", {"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=192.0.2.1"}, 403),
        ("public", {"REMOTE_ADDR": "192.0.2.1"}, 200),
        ("off", {"REMOTE_ADDR": "127.0.0.1"}, 404),
    ],
)
def test_metrics_are_for_whom_the_operator_chose(
    local: Local, audience: Audience, environ: dict[str, str], status: int
) -> None:
    found, content_type, problem = ask(create_app(local.parts, audience), METRICS, **environ)
    assert found == status
    if status == 200:
        assert content_type.startswith("text/plain")
    else:
        assert (content_type, problem["code"]) == (PROBLEM, {403: "metrics-are-local", 404: "not-found"}[status])

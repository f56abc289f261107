"""Every route of both applications states who may call it, and nobody else gets an answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from cloud_server.api.health import HEALTHZ, READYZ
from cloud_server.api.policy import Route, public, routes
from cloud_server.authority.app import AGGREGATOR_FILE
from cloud_server.authority.app import create_app as create_authority_app
from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import Description, RemoteAuthority
from shared.wire.canonical import octets_to_text, sha256
from shared.wire.messages import SeedRequest
from shared.wire.requests import (
    ADMIT,
    BODY_HEADER,
    COUNTER_HEADER,
    DEVICE_HEADER,
    ENROL,
    OPENAPI,
    PROBLEM,
    RENEW,
    ROOT,
    SEEDS,
    SIGNATURE_HEADER,
)
from shared.wire.signed import SigningKey
from tests.cloud_server.local import Local
from tests.edge_client.devices import ManualClock

HEALTH = {HEALTHZ, READYZ}
DOORS = {"/", "/console/sign-in", "/console/language/{code}", "/console/static/{name}"}
FOR_EVERYBODY = {ROOT, ENROL, RENEW, ADMIT, OPENAPI} | HEALTH | DOORS
VALUES = {
    "cohort_id": "cohort-a",
    "code": "en",
    "device": "device-a",
    "digest": "0" * 64,
    "form": "float",
    "held": "1" * 64,
    "name": "ada",
    "number": "0",
    "task": "point",
    "token": "token-a",
    "verb": "revoke",
}
UNKNOWN = {
    DEVICE_HEADER: "device-" + "0" * 32,
    COUNTER_HEADER: "1",
    BODY_HEADER: sha256(b"").hex(),
    SIGNATURE_HEADER: octets_to_text(bytes(64)),
}


@pytest.fixture
def authority_app(tmp_path: Path) -> Iterator[Flask]:
    """The application of an authority that knows its aggregator."""
    authority = Authority(tmp_path, ManualClock(), os.urandom)
    described = Description(authority.public_key, "https://authority.test", "")
    release_key = SigningKey(sha256(b"release"))
    root = RemoteAuthority(described, release_key.sign).root(release_key.public, "")
    (tmp_path / AGGREGATOR_FILE).write_bytes(root.to_bytes())
    yield create_authority_app(authority, tmp_path)
    authority._database.close()


def unstated(app: Flask) -> list[Route]:
    return [route for route in routes(app) if route.policy is None]


def test_every_route_states_its_policy(local: Local, authority_app: Flask) -> None:
    assert len(routes(local.app)) >= 16
    assert len(routes(authority_app)) >= 2
    assert not unstated(local.app)
    assert not unstated(authority_app)
    assert {route.path for route in routes(local.app) if route.policy == "public"} == FOR_EVERYBODY
    assert {route.path for route in routes(authority_app) if route.policy == "public"} == {ENROL, RENEW} | HEALTH


def view(number: str = "") -> str:
    return number


def another_view(number: int) -> str:
    return str(number)


def test_a_route_without_policy_is_found() -> None:
    app = Flask("test", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.post("/silent/<number>", endpoint="silent")(view)
    assert [(route.method, route.path) for route in unstated(app)] == [("POST", "/silent/{number}")]
    app.get("/stated/<int:number>", endpoint="stated")(public(another_view))
    assert [route.path for route in unstated(app)] == ["/silent/{number}"]


def answer(app: Flask, route: Route, headers: dict[str, str]) -> tuple[int, str, Any]:
    with app.test_client().open(route.path.format(**VALUES), method=route.method, headers=headers) as response:
        return response.status_code, response.content_type, response.get_json(force=True)["code"]


def test_a_device_route_answers_no_stranger(local: Local) -> None:
    checked = [route for route in routes(local.app) if route.policy == "device"]
    assert len(checked) >= 13
    for route in checked:
        assert answer(local.app, route, {}) == (401, PROBLEM, "unsigned-request"), route
        assert answer(local.app, route, UNKNOWN) == (401, PROBLEM, "unknown-device"), route


def test_a_route_for_the_aggregator_answers_nobody_else(authority_app: Flask) -> None:
    assert {route.path for route in routes(authority_app) if route.policy == "aggregator"} == {SEEDS}
    stranger = SeedRequest("cohort-a", bytes(32), SigningKey(sha256(b"another")).sign(b"anything"))
    response = authority_app.test_client().post(SEEDS, data=stranger.to_bytes())
    assert (response.status_code, response.get_json(force=True)["code"]) == (401, "bad-signature")


def test_options_are_answered_by_no_route(local: Local, authority_app: Flask) -> None:
    for app in (local.app, authority_app):
        for route in routes(app):
            response = app.test_client().options(route.path.format(**VALUES))
            assert response.status_code == 405, route

"""The document describes every route, and nothing else; what it says of a route is what the view does."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from flask import Flask

from cloud_server.api import openapi
from cloud_server.api.operations import OPERATIONS
from cloud_server.api.policy import Route, public, routes
from cloud_server.api.schemas import SCHEMAS
from cloud_server.app import create_app
from cloud_server.dashboard.addresses import PREFIX
from shared.wire.requests import DEVICE_HEADER, JSON, OPENAPI
from tests.cloud_server.local import Local


def described(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}


def interface(app: Flask) -> list[Route]:
    """Return the routes for programs: pages are for people, and say themselves what can be done."""
    return [route for route in routes(app) if route.path != "/" and not route.path.startswith(PREFIX)]


def in_url_map(app: Flask) -> set[tuple[str, str]]:
    return {(route.path, route.method) for route in interface(app)}


def document_of(app: Flask) -> dict[str, Any]:
    with app.test_client().get(OPENAPI) as response:
        assert (response.status_code, response.content_type) == (200, JSON)
        found: dict[str, Any] = response.get_json()
        return found


def test_every_route_and_method_is_described(local: Local) -> None:
    assert len(in_url_map(local.app)) >= 20
    assert described(document_of(local.app)) == in_url_map(local.app)
    assert {route.endpoint for route in interface(local.app)} == OPERATIONS.keys()


def test_a_route_that_is_not_described_is_found(local: Local) -> None:
    app = create_app(local.parts)
    app.post("/v1/forgotten", endpoint="forgotten")(public(lambda: ""))
    assert in_url_map(app) - described(openapi.document(app)) == {("/v1/forgotten", "POST")}


def test_a_route_that_is_switched_off_is_not_described(local: Local) -> None:
    assert "/metrics" not in document_of(create_app(local.parts, "off"))["paths"]


def test_each_route_says_its_policy_and_what_it_needs(local: Local) -> None:
    document = document_of(local.app)
    for route in interface(local.app):
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["x-fedloom-policy"] == route.policy
        assert operation["summary"]
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert (DEVICE_HEADER in names) == (route.policy == "device")
        assert ("401" in operation["responses"]) == (
            route.policy == "device" or route.endpoint in {"enrolment.enrol", "enrolment.renew", "enrolment.admit"}
        )
        assert ("requestBody" in operation) == (route.method in {"POST", "PUT"})
        assert all(answer["description"] for answer in operation["responses"].values())


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_schema_is_one(local: Local, name: str) -> None:
    document = document_of(local.app)
    jsonschema_rs.meta.validate(document["components"]["schemas"][name])
    jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": document["components"]})

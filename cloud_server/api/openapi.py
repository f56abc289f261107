"""The OpenAPI 3.1 document: paths from the URL map, words from views, bodies and problems from ``operations.py``."""

from __future__ import annotations

import inspect
import re
from functools import reduce
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response

from cloud_server.api.operations import (
    BY_DEVICES,
    BY_DEVICES_WITH_BODY,
    MEDIA,
    OPERATIONS,
    UNREADABLE,
    WITH_BODY,
    WITH_PATH_PARAMETERS,
    Codes,
    Operation,
    both,
)
from cloud_server.api.policy import Route, public, routes
from cloud_server.api.schemas import SCHEMAS, Schema, ref
from shared.limits import MAX_NAME_CHARACTERS, MAX_VECTOR_BYTES
from shared.release import MAX_VERSION
from shared.wire.canonical import encode
from shared.wire.requests import (
    BODY_HEADER,
    COUNTER_HEADER,
    DEVICE_HEADER,
    INBOX_HEADER,
    JSON,
    OFFSET_QUERY,
    OPENAPI,
    PROBLEM,
    REQUEST_ID_HEADER,
    SIGNATURE_HEADER,
    WHOLE_QUERY,
)

_ABOUT: Final = """What a Fedloom aggregator answers to devices, to anybody, and to its operator.

Every GET answers HEAD, too, without a body; other methods are 405 `method-not-allowed`, other paths 404 `not-found`.
Where something unforeseen happens the answer is 500 `internal-error`, and nothing was stored. How requests are signed
and what the steps of a cohort mean is in shared/spec/PROTOCOL.md."""
_PARAMETERS: Final[dict[str, Schema]] = {
    "cohort_id": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS},
    "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "held": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "number": {"type": "integer", "minimum": 0, "maximum": MAX_VERSION},
}
_SIGNED_HEADERS: Final = {
    DEVICE_HEADER: ("The device's pseudonym.", {"type": "string"}),
    COUNTER_HEADER: ("Larger than in every request before.", {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}),
    BODY_HEADER: ("SHA-256 of the body.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    SIGNATURE_HEADER: ("Ed25519, as base64url.", {"type": "string", "pattern": "^[A-Za-z0-9_-]{86}$"}),
}
_HEADERS: Final = {
    INBOX_HEADER: (
        "A bit for each of the member's neighbours, in ascending order, whose box it used, and its signature.",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{87,256}$"},
    ),
}
_QUERIES: Final = {
    OFFSET_QUERY: (
        f"Which byte of the vector the body begins with; with {WHOLE_QUERY}, where an upload goes on.",
        {"type": "integer", "minimum": 0, "maximum": MAX_VECTOR_BYTES},
    ),
    WHOLE_QUERY: ("SHA-256 of the whole vector.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}),
}
_QUOTED: Final = '^"[0-9a-f]{64}"$'
_RANGE_HEADERS: Final = {
    "Range": ("The answer is 206 with that part.", "^bytes=([0-9]{1,10}-([0-9]{1,10})?|-[0-9]{1,10})$"),
    "If-Range": ("The ETag of which a part is asked for; the whole file if it is another one's.", _QUOTED),
    "If-None-Match": ("An ETag: the answer is 304 if the file is still that.", _QUOTED),
}
_BYTES: Final[Schema] = {"type": "string", "format": "binary"}
_RETRY_AFTER: Final = "The body's retry_after_ms in seconds, rounded up."
_ETAG: Final = "The file's hash."
_REQUEST_ID: Final[Schema] = {
    REQUEST_ID_HEADER: {
        "description": "Made by the server; its log has it, too.",
        "schema": {"type": "string", "pattern": "^request-[0-9a-f]{32}$"},
    }
}


def register(app: Flask) -> None:
    """Add the route of the document, the last one: it describes those before it and itself."""

    @app.get(OPENAPI)
    @public
    def openapi() -> Response:
        """Return this document."""
        return Response(body, content_type=JSON)

    body = encode(document(app))


def document(app: Flask) -> dict[str, Any]:
    """Return the document of every route of ``app`` that ``operations.py`` knows."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes(app):
        if route.endpoint in OPERATIONS:
            text = inspect.getdoc(app.view_functions[route.endpoint]) or ""
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, OPERATIONS[route.endpoint], text)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fedloom aggregator",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {**SCHEMAS, "OpenAPI": {"type": "object"}}},
    }


def _operation(route: Route, operation: Operation, text: str) -> dict[str, Any]:
    summary, _, more = text.partition("\n")
    described: dict[str, Any] = {
        "operationId": route.endpoint.replace(".", "_"),
        "summary": summary,
        "x-fedloom-policy": route.policy,
        "parameters": _parameters(route, operation),
        "responses": _answers(operation) | _problems(_codes(route, operation)),
    }
    if more.strip():
        described["description"] = more.strip()
    if operation.body:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    return described


def _parameters(route: Route, operation: Operation) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.policy == "device":
        found += [
            {"name": name, "in": "header", "required": True, "description": text, "schema": schema}
            for name, (text, schema) in _SIGNED_HEADERS.items()
        ]
    found += [
        {"name": name, "in": "query", "required": required, "description": text, "schema": schema}
        for name, required in operation.queries.items()
        for text, schema in [_QUERIES[name]]
    ]
    found += [
        {"name": name, "in": "header", "required": True, "description": text, "schema": schema}
        for name in operation.headers
        for text, schema in [_HEADERS[name]]
    ]
    if operation.ranges:
        found += [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string", "pattern": pattern}}
            for name, (text, pattern) in _RANGE_HEADERS.items()
        ]
    return found


def _codes(route: Route, operation: Operation) -> Codes:
    parts = [UNREADABLE, operation.problems]
    parts += [WITH_PATH_PARAMETERS] if "{" in route.path else []
    parts += [WITH_BODY] if operation.body else []
    if route.policy == "device":
        parts += [BY_DEVICES, BY_DEVICES_WITH_BODY if operation.body else {}]
    return reduce(both, parts)


def _content(name: str) -> Schema:
    """Return the content of a JSON schema's name, or of a media type."""
    return {name: {"schema": _BYTES}} if name in MEDIA else {JSON: {"schema": ref(name)}}


def _answer(status: int, text: str, content: Schema | None = None, **headers: str) -> dict[str, Schema]:
    more = {
        name.replace("_", "-"): {"description": said, "schema": {"type": "string"}} for name, said in headers.items()
    }
    answer: Schema = {"description": text, "headers": _REQUEST_ID | more}
    return {str(status): answer | ({"content": content} if content is not None else {})}


def _answers(operation: Operation) -> dict[str, Schema]:
    content = _content(operation.answer)
    answers = _answer(200, "As asked.", content)
    if operation.held:
        waiting = _content("ComeBack")
        answers |= _answer(202, "Not yet; ask again.", waiting, Retry_After=_RETRY_AFTER)
    if operation.ranges:
        answers = _answer(200, "The file.", content, ETag=_ETAG)
        answers |= _answer(206, "A part of the file.", content, ETag=_ETAG, Content_Range="Which.")
        answers |= _answer(304, "The file is the one that you have.", ETag=_ETAG)
    return answers


def _problems(codes: Codes) -> dict[str, Schema]:
    problems: dict[str, Schema] = {}
    for status, names in codes.items():
        narrowed = {"properties": {"status": {"const": status}, "code": {"enum": sorted(names)}}}
        content = {PROBLEM: {"schema": {"allOf": [ref("Problem"), narrowed]}}}
        headers = {"Retry_After": _RETRY_AFTER} if status == HTTPStatus.TOO_MANY_REQUESTS else {}
        problems |= _answer(status, f"{HTTPStatus(status).phrase}: {', '.join(sorted(names))}.", content, **headers)
    return problems

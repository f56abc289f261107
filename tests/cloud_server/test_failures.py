"""Why a cohort can have failed is in the interface's document: every code that is ever written down as a failure."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import cloud_server
import shared
from cloud_server.api import openapi
from cloud_server.api.operations import OVER
from shared.root import EnrolmentCode
from shared.wire.messages import EnrolRequest, write_signed
from shared.wire.requests import ADMIT, ENROL, JSON
from shared.wire.signed import SigningKey
from tests.cloud_server.local import HOUR_S, URL, Local, small_plan
from tests.cloud_server.members import redeem_body

SERVER, SHARED = (Path(package.__path__[0]) for package in (cloud_server, shared))
TOO_LATE: Final = {"phase-over", "cohort-closed"}  # of a device, for a cohort that has not failed
# Functions of the driver that write the code of an error which they catch: of what class, or out of what it comes.
CAUGHT_CLASSES: Final = {"_lost": "VectorsLost", "_unmasking_failed": "UnmaskingFailed"}
CAUGHT_CALLS: Final = {"_save": {"roster_from_joins"}, "_draw_seed": {"roster_from_joins", "with_seed", "draw_seed"}}
CALLED: Final = (  # where these functions, and what they call, are
    *(SERVER / name for name in ("rounds/records.py", "authority/registry.py", "authority/remote.py")),
    *(SHARED / name for name in ("ids.py", "secagg/roster.py", "secagg/graph_seed.py", "secagg/keys.py")),
    *(SHARED / name for name in ("wire/canonical.py", "wire/signed.py")),
)
TRIED_AGAIN: Final = "TryLater"  # the cohort waits, and has not failed


def nodes(paths: Iterable[Path]) -> Iterator[ast.AST]:
    for path in paths:
        yield from ast.walk(ast.parse(path.read_text("utf-8")))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def beginning(value: ast.expr) -> str | None:
    """Return the text that an expression begins with, None for one that begins with a variable."""
    first = value.values[0] if isinstance(value, ast.JoinedStr) else value
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def failures(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield the texts that a function writes down as a cohort's failure."""
    found: list[ast.expr] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            found += [word.value for word in node.keywords if word.arg == "failure"]
            found += node.args[2:3] if name_of(node) == "_failed" else []  # of the state machine: the code alone
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "failure"]
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["failure"]:
            found.append(node.value)
    return (value for value in found if isinstance(value, ast.JoinedStr) or beginning(value))


def codes_of_class(name: str) -> set[str]:
    paths = [*SERVER.rglob("*.py"), *SHARED.rglob("*.py")]
    made = (node for node in nodes(paths) if isinstance(node, ast.Call) and name_of(node) == name)
    return {code for call in made if call.args and (code := beginning(call.args[0]))}


def codes_out_of(functions: set[str]) -> set[str]:
    """Return the codes of the errors that functions, or what they call by name, can raise."""
    found: set[str] = set()
    seen: set[str] = set()
    while new := functions - seen:
        seen |= new
        for node in nodes(CALLED):
            if isinstance(node, ast.ClassDef) and node.name in new:
                functions = functions | {"__init__", "__post_init__"}
            if not isinstance(node, ast.FunctionDef) or node.name not in new:
                continue
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            functions = functions | {name_of(call) for call in calls}
            errors = [thrown.exc for thrown in ast.walk(node) if isinstance(thrown, ast.Raise)]
            for error in (error for error in errors if isinstance(error, ast.Call)):
                if name_of(error) != TRIED_AGAIN and error.args and (code := beginning(error.args[0])):
                    found.add(code)
    return found


def written() -> set[str]:
    """Return every code that the server's source writes down as a cohort's failure."""
    found: set[str] = set()
    dynamic: set[str] = set()
    for function in (node for node in nodes(SERVER.rglob("*.py")) if isinstance(node, ast.FunctionDef)):
        for value in failures(function):
            text = beginning(value)
            if text is not None:
                found.add(text.partition(":")[0])
            elif ast.unparse(value).startswith("f'{error.code}"):
                dynamic.add(function.name)
            else:
                assert function.name == "_failed", ast.unparse(value)  # whose callers give the code
    assert dynamic == CAUGHT_CLASSES.keys() | CAUGHT_CALLS.keys()
    for name in CAUGHT_CLASSES.values():
        found |= codes_of_class(name)
    for functions in CAUGHT_CALLS.values():
        found |= codes_out_of(functions)
    return found


def described(document: dict[str, Any], path: str, method: str, status: int) -> set[str]:
    answer = document["paths"][path][method]["responses"][str(status)]
    (content,) = answer["content"].values()
    return set(content["schema"]["allOf"][1]["properties"]["code"]["enum"])


def test_every_failure_that_is_written_down_is_described(local: Local) -> None:
    codes = written()
    assert {"vector-lost", "sum-damaged", "restored", "round-abandoned", "too-few-shares", "same-keys"} <= codes
    assert codes | TOO_LATE == set(OVER[410])
    document = openapi.document(local.app)
    members = [path for path in document["paths"] if path.startswith("/v1/cohorts/")]
    assert len(members) >= 10
    for path in members:
        for method in document["paths"][path]:
            assert codes | TOO_LATE <= described(document, path, method, 410), path


def test_a_cohort_that_lost_a_vector_says_so_in_words_that_are_described(local: Local) -> None:
    members = local.cohort(small_plan("point"), 4)
    for step in ("join", "share"):
        local.do(members, step)
    members[0].do("upload")
    local.parts.uploads.path(members[0].cohort, members[0].device).unlink()
    local.settle()
    target = f"/v1/cohorts/{members[1].cohort}/survivors"
    headers = members[1].transport.signed("GET", target)
    answer = local.app.test_client().get(target, headers=headers)
    assert (answer.status_code, answer.get_json()["code"]) == (410, "vector-lost")
    document = openapi.document(local.app)
    assert "vector-lost" in described(document, "/v1/cohorts/{cohort_id}/survivors", "get", 410)


@pytest.mark.parametrize("path", [ENROL, ADMIT])
def test_a_code_of_a_task_that_is_not_there_is_refused_as_described(local: Local, path: str) -> None:
    (secret,) = local.authority.mint("nowhere", count=1, valid_s=HOUR_S)
    body = redeem_body(EnrolmentCode(URL, local.parts.root.fingerprint, secret), SigningKey.generate(os.urandom))
    if path == ADMIT:
        certificate = local.authority.redeem(EnrolRequest.from_bytes(body), local.parts.root.fingerprint)
        body = write_signed("certificate", certificate.signed)
    answer = local.app.test_client().post(path, data=body, content_type=JSON)
    assert (answer.status_code, answer.get_json()["code"]) == (404, "task-unknown")
    assert "task-unknown" in described(openapi.document(local.app), path, "post", 404)

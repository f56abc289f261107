"""What the program can say, read from its source: every error's code, message and remedy, and every caution.

An f-string is read as a template with ``{}`` where it puts a value.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from cloud_server.releases.catalogue import NeedsTensorFlow
from cloud_server.rounds.eligibility import NotEligible
from shared import errors

ROOT: Final = Path(__file__).parents[2]
DOOR: Final = "cloud_server.dashboard.register"  # whatever it imports can raise something on a page
_ERRORS: Final = {
    name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.FedloomError)
} | {NeedsTensorFlow.__name__, NotEligible.__name__}


@dataclass(frozen=True)
class Said:
    """One place in the source that makes an error.

    Attributes:
        module: where.
        code: empty where it is computed.
        texts: templates of message and remedy; those that are computed are left out.
    """

    module: str
    code: str
    texts: tuple[str, ...]


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the server and what it shares with devices."""
    paths = [path for part in ("cloud_server", "shared") for path in (ROOT / part).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text("utf-8")
        )
        for path in paths
        if "migrations" not in path.parts
    }


@cache
def reachable() -> frozenset[str]:
    """Return the modules that the page's code imports, one over another."""
    found: set[str] = set()
    waiting = [DOOR]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(modules()[name])
    return frozenset(found)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name for name in names if name in modules())


@cache
def errors_of_the_page() -> tuple[Said, ...]:
    """Return every error that code of the page, or below it, makes."""
    return tuple(
        Said(name, template(_code_of(node)) or "", tuple(filter(None, map(template, _texts_of(node)))))
        for name in sorted(reachable())
        for node in ast.walk(modules()[name])
        if isinstance(node, ast.Call) and node.args and _name_of(node.func) in _ERRORS
    )


def _code_of(call: ast.Call) -> ast.expr:
    limited = _name_of(call.func) == errors.TooManyRequests.__name__
    return ast.Constant("too-many-requests") if limited else call.args[0]


def _texts_of(call: ast.Call) -> list[ast.expr]:
    return call.args if _name_of(call.func) == errors.TooManyRequests.__name__ else call.args[1:]


def _name_of(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def template(node: ast.expr) -> str | None:
    """Return a text's template, None for what is no text in the source."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def sentences_in(module: str) -> set[str]:
    """Return every text of a module that reads like a whole sentence."""
    tree = modules()[module]
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside |= {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and isinstance(node.body[0], ast.Expr)
    }
    texts = (template(node) for node in ast.walk(tree) if isinstance(node, ast.expr) and id(node) not in inside)
    return {text for text in texts if text is not None and " " in text and text.endswith(".")}

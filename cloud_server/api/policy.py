"""Who may call a route: every view states it, and whoever asks for the URL map sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, ParamSpec, TypeVar, get_args

from flask import Flask

P = ParamSpec("P")
R = TypeVar("R")
Policy = Literal["public", "device", "aggregator", "monitoring", "viewer", "operator", "admin"]
POLICY_ATTRIBUTE: Final = "fedloom_policy"
MAX_RULES: Final = 1000  # far above the number of routes
_CONVERTER: Final = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True)
class Route:
    """One route of an application.

    Attributes:
        path: with parameters in braces, as OpenAPI writes it.
        method: in capitals; HEAD goes with GET.
        endpoint: Flask's name of the view.
        policy: what its view states, None if it states nothing.
    """

    path: str
    method: str
    endpoint: str
    policy: Policy | None


def stating(policy: Policy) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a view that keeps, itself or by a decorator, a policy."""

    def mark(view: Callable[P, R]) -> Callable[P, R]:
        setattr(view, POLICY_ATTRIBUTE, policy)
        return view

    return mark


public = stating("public")


@lru_cache(MAX_RULES)
def path_of(rule: str) -> str:
    """Return Flask's ``rule`` as OpenAPI writes it."""
    return _CONVERTER.sub(r"{\1}", rule)


def routes(app: Flask) -> list[Route]:
    """Return every route of ``app``, in the order of paths."""
    found = [
        Route(path_of(rule.rule), method, rule.endpoint, _policy(app, rule.endpoint))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    ]
    return sorted(found, key=lambda route: (route.path, route.method))


def _policy(app: Flask, endpoint: str) -> Policy | None:
    stated = getattr(app.view_functions[endpoint], POLICY_ATTRIBUTE, None)
    return stated if stated in get_args(Policy) else None

"""What no path may name, on any route: it is found out before a database has to say so in its own words."""

from __future__ import annotations

from flask import Flask, request

from shared.errors import Missing
from shared.release import MAX_VERSION


def check_paths(app: Flask) -> None:
    """Answer 404 where a parameter of the path is a text with NUL, or a number that no column holds."""

    @app.before_request
    def require_storable() -> None:
        if not all(map(_is_storable, (request.view_args or {}).values())):
            raise Missing("not-found", "Nothing has such a name or number.")


def _is_storable(value: object) -> bool:
    return value <= MAX_VERSION if isinstance(value, int) else "\0" not in str(value)

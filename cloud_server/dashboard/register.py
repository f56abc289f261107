"""Adds the pages to an application."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from flask import Flask, redirect, url_for
from werkzeug.wrappers import Response

from cloud_server.api.context import Context
from cloud_server.api.health import Check
from cloud_server.api.policy import public
from cloud_server.beside import in_web_process
from cloud_server.dashboard import actions, guard, models, pages, parts, signing_in
from cloud_server.dashboard.facts.summaries import Summaries
from cloud_server.dashboard.guard import SignInHeader
from cloud_server.dashboard.showing import blueprint
from cloud_server.storage.opening import open_database

NOTHING: Final = "\N{EN DASH}"
PAGES: Final = (actions, models, pages, signing_in)  # imported for their routes


def register(app: Flask, context: Context, checks: Mapping[str, Check], header: SignInHeader) -> None:
    """Add the pages; ``checks`` say what may be missing, ``header`` whose word tells who somebody is."""
    app.extensions[guard.EXTENSION] = header
    # Counting runs beside other requests, with connections of its own.
    database = open_database(context.folder) if in_web_process() else context.database
    app.extensions[parts.EXTENSION] = parts.Parts(Summaries(database, context.clock), checks)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(iso=iso, size=size, duration=duration, number=number)
    app.jinja_env.globals["static_version"] = signing_in.static_version
    app.register_blueprint(blueprint)

    @app.get("/")
    @public
    def front_door() -> Response:
        """Lead people to the pages."""
        return redirect(url_for("console.home"), HTTPStatus.SEE_OTHER)


def iso(seconds: float | None) -> str:
    """Return a time in UTC as HTML's ``time`` has it, to the second."""
    if seconds is None:
        return ""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""


def size(count: float | None) -> str:
    """Return bytes for people."""
    if count is None:
        return NOTHING
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a duration for people, two units at most."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    rest = int(seconds)
    days, hours, minutes = rest // 86400, rest // 3600 % 24, rest // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest % 60} s"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thin spaces between thousands, a dash for none."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")

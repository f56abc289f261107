"""Adds the pages to an application."""

from __future__ import annotations

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
from cloud_server.dashboard.showing import blueprint, failed_outside
from cloud_server.figures import duration, iso, number, size
from cloud_server.storage.opening import open_database

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
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):  # no blueprint's, for no route took them
        app.register_error_handler(status, failed_outside)

    @app.get("/")
    @public
    def front_door() -> Response:
        """Lead people to the pages."""
        return redirect(url_for("console.home"), HTTPStatus.SEE_OTHER)

"""Whether the process lives, and whether it can do its work: for supervisors and load balancers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from flask import Flask, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from cloud_server.api.policy import public
from cloud_server.storage.blobs import lack_of_room
from cloud_server.storage.database import Database
from cloud_server.storage.leases import drivers_left_s
from shared.clock import Clock
from shared.errors import TryLater
from shared.wire.canonical import encode
from shared.wire.requests import JSON

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
Check = Callable[[], str]  # returns what is missing, empty if nothing is


def register(app: Flask, checks: Mapping[str, Check]) -> None:
    """Add both routes; ``checks`` by the name of what is checked."""

    @app.get(HEALTHZ)
    @public
    def healthz() -> Response:
        """Say that the process answers."""
        return Response(encode({"status": "alive"}), content_type=JSON)

    @app.get(READYZ)
    @public
    def readyz() -> Response:
        """Say that everything which requests need is there, or what is missing."""
        found = {name: check() for name, check in checks.items()}
        missing = [f"{name}: {what}" for name, what in found.items() if what]
        if missing:
            raise TryLater("not-ready", f"The server is not ready: {'; '.join(missing)}.", "read the server's log")
        return Response(encode({"status": "ready"}), content_type=JSON)


def database_answers(database: Database) -> Check:
    """Return a check that reads one row."""

    def check() -> str:
        try:
            with database.read() as connection:
                connection.execute(select(1))
        except SQLAlchemyError as error:
            return f"does not answer ({type(error).__name__})"
        return ""

    return check


def folder_writable(folder: Path) -> Check:
    """Return a check that files can be added to ``folder``."""
    return partial(lack_of_room, folder)


def driver_alive(database: Database, clock: Clock) -> Check:
    """Return a check that some driver holds a lease which has not run out."""

    def check() -> str:
        try:
            with database.read() as connection:
                left_s = drivers_left_s(connection, clock.now_s())
        except SQLAlchemyError:
            return "not known"
        return "" if left_s else "no driver holds a lease"

    return check

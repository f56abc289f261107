"""Bring a database to this program's revision; in a module of its own, for nothing else needs Alembic."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from cloud_server.progress import Report, unreported
from cloud_server.storage.revisions import MIGRATIONS, Tables, revision_of, write_revision


def upgrade(connection: Connection, tables: Tables, report: Report = unreported) -> list[str]:
    """Run what is missing inside the caller's transaction, and return the revisions before and after.

    An empty database gets every table by the same steps as one that grew up with the program.
    """
    before = revision_of(connection, tables)
    if before is not None:
        write_revision(connection, before)  # what was made before revisions were written down
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("version_locations", str(tables.versions).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = tables.metadata
    config.attributes["report"] = report
    command.upgrade(config, tables.newest)
    return [before or "empty", tables.newest]

"""Which database belongs to a data folder."""

from __future__ import annotations

from cloud_server.settings import DataFolder
from cloud_server.storage.database import Database, sqlite_url
from cloud_server.storage.revisions import AGGREGATOR


def database_url(folder: DataFolder) -> str:
    """Return the address of a folder's database: the one that ``db use`` named, else the file in it."""
    if folder.database_url_file.exists():
        return folder.database_url_file.read_text("utf-8").strip()
    return sqlite_url(folder.database)


def open_database(folder: DataFolder) -> Database:
    """Open a folder's database; raises as ``Database``."""
    return Database(database_url(folder), AGGREGATOR)

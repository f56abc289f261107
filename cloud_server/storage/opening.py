"""Which database and which files belong to a data folder."""

from __future__ import annotations

from cloud_server.settings import DataFolder, write_private
from cloud_server.storage.blobs import BlobStore, FolderBlobs
from cloud_server.storage.database import Database, require_database_url, sqlite_url
from cloud_server.storage.revisions import AGGREGATOR


def database_url(folder: DataFolder) -> str:
    """Return the address of a folder's database: the one that ``db use`` named, else the file in it."""
    if folder.database_url_file.exists():
        return folder.database_url_file.read_text("utf-8").strip()
    return sqlite_url(folder.database)


def open_database(folder: DataFolder, *, keep_connections: bool = True) -> Database:
    """Open a folder's database; arguments and errors as of ``Database``."""
    return Database(database_url(folder), AGGREGATOR, keep_connections=keep_connections)


def open_blobs(folder: DataFolder) -> BlobStore:
    """Return where a folder's aggregator keeps its files: the object store that ``blobs use`` named, else in it.

    Raises:
        ModuleNotFoundError: without the package for object stores.
        BrokenState: ``bad-object-store`` for a damaged address.
    """
    if not folder.object_store_file.exists():
        return FolderBlobs(folder.blobs)
    from cloud_server.storage.object_store import Address, ObjectBlobs  # noqa: PLC0415  # obstore; folders need none

    return ObjectBlobs(Address.from_bytes(folder.object_store_file.read_bytes()))


def use_database(folder: DataFolder, url: str) -> None:
    """Let a folder's aggregator use the PostgreSQL database at ``url`` from now on, with tables where there are none.

    Raises:
        UsageError: ``bad-database-url``, or ``database-outdated`` and the like of what is there.
        TryLater: ``no-database``.
    """
    stored = require_database_url(url)
    Database(stored, AGGREGATOR, keep_connections=False)
    write_private(folder.database_url_file, stored.encode("utf-8"))

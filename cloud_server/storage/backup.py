"""A backup: one file with every row, every released file and every key, the same for SQLite and PostgreSQL.

    backup.json            format, revision, the audit log's end, a SHA-256 for each other part
    tables/NAME.jsonl      a row a line, octets as base64
    blobs/SHA256           files of releases and bundles
    keys/..., authority/.. keys, TLS files, and the authority in the folder, if it is in this one

Masked vectors, sealed shares and leases are left out: they belong to cohorts that a restored server ends, and their
members contribute anew. The file holds secret keys: keep it as safely as the server.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, LargeBinary, Table, select

from cloud_server import audit
from cloud_server.authority.registry import DATABASE_FILE
from cloud_server.progress import Report, unreported
from cloud_server.rounds.retention import needed
from cloud_server.settings import PRIVATE_MODE, DataFolder, sync_folder
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.database import Database
from cloud_server.storage.revisions import AGGREGATOR, revision_of
from cloud_server.storage.schema import box, commitment, lease, metadata, partial_sum
from shared.errors import UsageError
from shared.wire.canonical import sha256

FORMAT: Final = "fedloom-backup-1"
MANIFEST: Final = "backup.json"
LEFT_OUT: Final = frozenset({lease.name, box.name, commitment.name, partial_sum.name})


def write_backup(
    folder: DataFolder, database: Database, blobs: BlobStore, out: Path, report: Report = unreported
) -> dict[str, Any]:
    """Write a backup of a running aggregator to ``out`` and return its manifest.

    Raises:
        UsageError: ``backup-exists``.
        BrokenState: ``blob-damaged``, ``audit-damaged``: what is damaged is no backup.
    """
    if out.exists():
        raise UsageError("backup-exists", f"{out} exists.", "give another --out")
    unfinished = out.with_name(out.name + ".part")
    try:
        manifest = _write(folder, database, blobs, unfinished, report)
        unfinished.replace(out)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # it has keys in it
        raise
    sync_folder(out.parent)
    return manifest


def _write(folder: DataFolder, database: Database, blobs: BlobStore, path: Path, report: Report) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
    with os.fdopen(descriptor, "w+b") as file:
        with tarfile.open(fileobj=file, mode="w") as tar, database.read() as connection:
            for name, data in _parts(folder, blobs, connection, report):
                hashes[name] = sha256(data).hex()
                _add(tar, name, data)
            end = audit.verify_chain(connection)
            manifest = {
                "format": FORMAT,
                "revision": revision_of(connection, AGGREGATOR),
                "audit": {"number": end.number, "sha256": end.sha256.hex()},
                "parts": hashes,
            }
            _add(tar, MANIFEST, json.dumps(manifest).encode())
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _parts(folder: DataFolder, blobs: BlobStore, connection: Connection, report: Report) -> Iterator[tuple[str, bytes]]:
    tables, digests = metadata.sorted_tables, sorted(needed(connection))
    for done, table in enumerate(tables):
        report("tables", done, len(tables))
        if table.name not in LEFT_OUT:
            yield f"tables/{table.name}.jsonl", b"".join(_lines(connection, table))
    for done, digest in enumerate(digests):
        report("files of releases", done, len(digests))
        yield f"blobs/{digest}", blobs.get(digest)
    for path in sorted(folder.keys.iterdir()):
        if path.is_file() and path not in {folder.database_url_file, folder.object_store_file}:  # of this machine
            yield f"keys/{path.name}", path.read_bytes()
    if folder.authority.is_dir():
        for path in sorted(folder.authority.iterdir()):
            if path.name == DATABASE_FILE:
                yield f"authority/{path.name}", _sqlite_copy(path)
            elif path.is_file() and not path.name.startswith(DATABASE_FILE):
                yield f"authority/{path.name}", path.read_bytes()


def _lines(connection: Connection, table: Table) -> Iterator[bytes]:
    for row in connection.execute(select(table).order_by(*table.primary_key.columns)):
        values = [
            base64.b64encode(value).decode() if isinstance(column.type, LargeBinary) and value is not None else value
            for column, value in zip(table.columns, row, strict=True)
        ]
        yield json.dumps(values).encode() + b"\n"


def _sqlite_copy(path: Path) -> bytes:
    """Return a SQLite database as one file, whatever its log holds."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return copy.serialize()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), PRIVATE_MODE
    tar.addfile(entry, io.BytesIO(data))

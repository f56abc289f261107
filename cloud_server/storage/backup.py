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
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, LargeBinary, Table, insert, select

from cloud_server import audit
from cloud_server.audit import Anchor, Head
from cloud_server.authority.registry import DATABASE_FILE
from cloud_server.progress import Report, unreported
from cloud_server.rounds.machine import OVER, Phase
from cloud_server.rounds.retention import needed
from cloud_server.settings import PRIVATE_MODE, DataFolder, sync_folder, write_private
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.database import Database
from cloud_server.storage.revisions import AGGREGATOR, revision_of
from cloud_server.storage.schema import box, cohort, commitment, lease, metadata, partial_sum, task
from shared.errors import UsageError
from shared.wire.canonical import sha256

FORMAT: Final = "fedloom-backup-1"
MANIFEST: Final = "backup.json"
_LEFT_OUT: Final = frozenset({lease.name, box.name, commitment.name, partial_sum.name})
_ROWS_AT_ONCE: Final = 500
_MAX_PART_BYTES: Final = 2**32


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
        if table.name not in _LEFT_OUT:
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


def restore(
    path: Path,
    folder: DataFolder,
    database: Database,
    blobs: BlobStore,
    anchor: Anchor,
    now_s: float,
    report: Report = unreported,
) -> dict[str, Any]:
    """Fill an empty aggregator from a backup and return the manifest.

    Args:
        path: of the backup.
        folder: that has no keys yet.
        database: without any row.
        blobs: where the files go.
        anchor: of the deployment, kept outside the backup.
        now_s: the time.
        report: is told how far it is.

    Raises:
        UsageError: ``bad-backup``, ``backup-revision``, ``not-empty``, or ``backup-behind``: what happened after the
            backup would be forgotten.
    """
    with _opened(path) as tar:
        manifest = _manifest(tar, path)
        with database.write() as connection:
            if connection.execute(select(task.c.name)).first() or _has_other_keys(folder, manifest):
                raise UsageError("not-empty", f"{folder.path} is in use.", "restore into an empty folder and database")
            _require_not_behind(manifest, anchor)
            count = len(manifest["parts"])
            for done, name in enumerate(manifest["parts"]):  # all of them, before the first file is written
                report("parts checked", done, count)
                _part(tar, manifest, name)
            for done, table in enumerate(metadata.sorted_tables):
                report("tables filled", done, len(metadata.sorted_tables))
                if table.name not in _LEFT_OUT:
                    _fill(connection, table, _part(tar, manifest, f"tables/{table.name}.jsonl"))
            if audit.head(connection).sha256.hex() != manifest["audit"]["sha256"]:
                raise _bad(path, "its audit log is not the one that it names")
            _end_cohorts(connection, now_s)
            audit.record(connection, now_s, "operator", "restored", path.name, {"entries": manifest["audit"]["number"]})
            for done, name in enumerate(manifest["parts"]):
                report("parts put in place", done, count)
                _place(folder, blobs, name, _part(tar, manifest, name))
    return manifest


def _has_other_keys(folder: DataFolder, manifest: Mapping[str, Any]) -> bool:
    """Say whether there are keys that no earlier attempt to restore this backup, which broke off, has left."""
    parts = manifest["parts"]
    return any(sha256(path.read_bytes()).hex() != parts.get(f"keys/{path.name}") for path in folder.keys.glob("*.key"))


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except tarfile.TarError as error:
        raise _bad(path, "it cannot be read") from error


def _manifest(tar: tarfile.TarFile, path: Path) -> dict[str, Any]:
    try:
        member = tar.extractfile(MANIFEST)
        manifest: dict[str, Any] = json.loads(member.read(_MAX_PART_BYTES)) if member else {}
    except (KeyError, ValueError) as error:
        raise _bad(path, f"it has no {MANIFEST}") from error
    if manifest.get("format") != FORMAT:
        raise _bad(path, f"it is not of format {FORMAT}")
    if manifest["revision"] != AGGREGATOR.newest:
        raise UsageError(
            "backup-revision",
            f"The backup is of revision {manifest['revision']}, this program's is {AGGREGATOR.newest}.",
            "restore it with the fedloom that made it, then run `fedloom-server db upgrade` with this one",
        )
    return manifest


def _require_not_behind(manifest: Mapping[str, Any], anchor: Anchor) -> None:
    if not anchor.path.exists():
        raise UsageError(
            "no-anchor",
            f"{anchor.path} is not there: nothing says whether versions or privacy losses are newer than the backup.",
            "copy the deployment's audit.anchor to --data, or name it with --anchor",
        )
    last, end = anchor.head(), Head(manifest["audit"]["number"], bytes.fromhex(manifest["audit"]["sha256"]))
    if last.number > end.number or (last.number == end.number and last != end):
        raise UsageError(
            "backup-behind",
            f"The backup's audit log ends at entry {end.number}, the anchor names entry {last.number}: versions and the"
            " privacy ledger would go back.",
            "restore a newer backup; where there is none, devices must enrol in a new deployment",
        )


def _part(tar: tarfile.TarFile, manifest: Mapping[str, Any], name: str) -> bytes:
    try:
        member = tar.extractfile(name)
        data = member.read(_MAX_PART_BYTES) if member else b""
    except KeyError:
        data = b""
    if sha256(data).hex() != manifest["parts"].get(name):
        raise _bad(Path(str(tar.name)), f"its part {name} is damaged")
    return data


def _bad(path: Path, why: str) -> UsageError:
    return UsageError("bad-backup", f"{path} is no whole backup: {why}.", "take another one")


def _fill(connection: Connection, table: Table, data: bytes) -> None:
    names = [column.name for column in table.columns]
    octets = [isinstance(column.type, LargeBinary) for column in table.columns]
    rows = [
        {
            name: base64.b64decode(value) if is_octets and value is not None else value
            for name, value, is_octets in zip(names, json.loads(line), octets, strict=True)
        }
        for line in data.splitlines()
    ]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        connection.execute(insert(table), rows[start : start + _ROWS_AT_ONCE])


def _end_cohorts(connection: Connection, now_s: float) -> None:
    """Fail the cohorts that ran: their vectors are gone, and their members may be further than the backup knows."""
    failure = "restored: the server was restored from a backup"
    running = cohort.c.phase.not_in([phase.value for phase in OVER])
    values = {"phase": Phase.FAILED.value, "failure": failure, "since_s": now_s}
    connection.execute(cohort.update().where(running).values(values))


def _place(folder: DataFolder, blobs: BlobStore, name: str, data: bytes) -> None:
    kind, _, rest = name.partition("/")
    if kind == "blobs":
        blobs.put(data)
    elif kind in {"keys", "authority"} and "/" not in rest and rest not in {"", ".", ".."}:
        parent = folder.keys if kind == "keys" else folder.authority
        parent.mkdir(mode=0o700, exist_ok=True)
        write_private(parent / rest, data)

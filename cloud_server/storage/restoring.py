"""Restoring a backup: a folder without a database gets one that is whole, or stays without.

What happens to a folder, in this order; a process that is killed leaves what was done before:

    a note that a restore began     from here on nothing but another restore uses the folder
    blobs, keys, authority          the same whoever writes them, so that a restore may be repeated
    the rows, in one transaction    in another file than the aggregator's, or in a PostgreSQL database
    the database's name, or address at once; from here on the folder is an aggregator's, and the note means nothing
    the anchor                      of all that is in the rows; whatever starts writes what of it is missing
"""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, LargeBinary, Table, insert, select

from cloud_server import audit
from cloud_server.audit import ANCHOR_FILE, Anchor, Head
from cloud_server.progress import Report, unreported
from cloud_server.rounds.machine import OVER, Phase
from cloud_server.settings import DataFolder, sync_folder, write_private
from cloud_server.storage.backup import FORMAT, LEFT_OUT, MANIFEST
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.database import Database, require_database_url, sqlite_url
from cloud_server.storage.opening import open_blobs, open_database
from cloud_server.storage.revisions import AGGREGATOR
from cloud_server.storage.schema import cohort, metadata, task
from shared.errors import UsageError
from shared.wire.canonical import sha256

_ROWS_AT_ONCE: Final = 500
_MAX_PART_BYTES: Final = 2**32
_SQLITE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")


def restore(
    path: Path,
    folder: DataFolder,
    now_s: float,
    report: Report = unreported,
    *,
    anchor: Path | None = None,
    database_url: str | None = None,
) -> dict[str, Any]:
    """Fill an empty aggregator from a backup and return the manifest.

    Args:
        path: of the backup.
        folder: that has neither keys nor a database, or what a restore of this backup that broke off left.
        now_s: the time.
        report: is told how far it is.
        anchor: of the deployment, besides the one that may be in ``folder``.
        database_url: of a PostgreSQL database without rows, for a file in ``folder`` if None.

    Raises:
        UsageError: ``bad-backup``, ``backup-revision``, ``not-empty``, ``no-anchor``, ``bad-database-url``; or
            ``backup-behind`` and ``database-behind``: what happened after the backup would be forgotten. Nothing in
            ``folder`` is changed then.
        TryLater: ``no-database``.
    """
    if folder.has_database():
        raise UsageError(
            "not-empty", f"{folder.path} has a database of its own.", "restore into an empty folder and database"
        )
    new_file = folder.database.with_name(f"{folder.database.name}.restoring")
    anchors = [Anchor(folder.path / ANCHOR_FILE), *([] if anchor is None else [Anchor(anchor)])]
    _remove(new_file)  # of a restore that was killed
    try:
        stored_url = sqlite_url(new_file) if database_url is None else require_database_url(database_url)
        with _opened(path) as tar, closing(Database(stored_url, AGGREGATOR, keep_connections=False)) as database:
            manifest = _fill_all(tar, path, folder, database, anchors, now_s, report)
        if database_url is None:
            new_file.rename(folder.database)
            sync_folder(folder.path)
        else:
            write_private(folder.database_url_file, stored_url.encode("utf-8"))
    finally:
        _remove(new_file)
    with closing(open_database(folder, keep_connections=False)) as database, database.read() as connection:
        anchors[0].extend(connection)
    folder.restoring.unlink(missing_ok=True)
    return manifest


def _remove(database: Path) -> None:
    for suffix in _SQLITE_SUFFIXES:
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _fill_all(
    tar: tarfile.TarFile,
    path: Path,
    folder: DataFolder,
    database: Database,
    anchors: Sequence[Anchor],
    now_s: float,
    report: Report,
) -> dict[str, Any]:
    """Check everything, then write files and rows; returns the manifest."""
    manifest = _manifest(tar, path)
    with database.write() as connection:
        if connection.execute(select(task.c.name)).first():
            raise UsageError(
                "not-empty",
                "The database is in use, or was filled by a restore that broke off.",
                "make an empty database, and restore into that",
            )
        if _has_other_keys(folder, manifest):
            raise UsageError("not-empty", f"{folder.path} has keys.", "restore into an empty folder")
        _require_not_behind(manifest, anchors)
        count = len(manifest["parts"])
        for done, name in enumerate(manifest["parts"]):  # all of them, before the first file is written
            report("parts checked", done, count)
            _part(tar, manifest, name)
        for done, table in enumerate(metadata.sorted_tables):
            report("tables filled", done, len(metadata.sorted_tables))
            if table.name not in LEFT_OUT:
                _fill(connection, table, _part(tar, manifest, f"tables/{table.name}.jsonl"))
        if audit.head(connection).sha256.hex() != manifest["audit"]["sha256"]:
            raise _bad(path, "its audit log is not the one that it names")
        for anchor in anchors:
            anchor.require_contained(connection)
        _end_cohorts(connection, now_s)
        audit.record(connection, now_s, "operator", "restored", path.name, {"entries": manifest["audit"]["number"]})
        blobs = open_blobs(folder)
        write_private(folder.restoring, path.name.encode())
        for done, name in enumerate(manifest["parts"]):
            report("parts put in place", done, count)
            _place(folder, blobs, name, _part(tar, manifest, name))
    return manifest


def _has_other_keys(folder: DataFolder, manifest: Mapping[str, Any]) -> bool:
    """Say whether there are keys that no earlier attempt to restore this backup, which broke off, has left."""
    parts = manifest["parts"]
    return any(
        sha256(file.read_bytes()).hex() != parts.get(f"{place.name}/{file.name}")
        for place in (folder.keys, folder.authority)
        for file in place.glob("*.key")
    )


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


def _require_not_behind(manifest: Mapping[str, Any], anchors: Sequence[Anchor]) -> None:
    last = max((anchor.head() for anchor in anchors), key=attrgetter("number"))
    if not last.number:
        raise UsageError(
            "no-anchor",
            "There is no audit.anchor: nothing says whether versions or privacy losses are newer than the backup.",
            "copy the deployment's audit.anchor to --data, or name it with --anchor",
        )
    end = Head(manifest["audit"]["number"], bytes.fromhex(manifest["audit"]["sha256"]))
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

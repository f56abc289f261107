"""``fedloom-server db``: use another database, bring it up to date, look for damage, back up and restore."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import OperationalError

from cloud_server import audit
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.authority.registry import DATABASE_FILE
from cloud_server.authority_cli import is_authority
from cloud_server.listening import read_text
from cloud_server.progress import progress
from cloud_server.settings import DataFolder
from cloud_server.storage.backup import write_backup
from cloud_server.storage.blobs import UploadStore
from cloud_server.storage.check import find_damage
from cloud_server.storage.database import no_database, sqlite_url, unprepared
from cloud_server.storage.opening import database_url, open_blobs, open_database, use_database
from cloud_server.storage.restoring import restore
from cloud_server.storage.revisions import AGGREGATOR, AUTHORITY
from cloud_server.tables import bytes_of, facts, word
from shared.clock import SystemClock
from shared.errors import BrokenState, FedloomError, UsageError
from shared.wire.canonical import Json

Add = Callable[[str, str, Callable[[argparse.Namespace], Json]], argparse.ArgumentParser]


def add_database(add: Add) -> None:
    """Declare the verbs.

    Args:
        add: makes a parser of a name, a sentence and what runs it.
    """
    using = add("use", "use a PostgreSQL database from now on; tables are made in an empty one", _use)
    using.add_argument(
        "url", metavar="URL", help="postgresql://user:password@host/database, or - to read it from stdin"
    )
    add("upgrade", "bring the database to this program's revision; stop every process before", _upgrade)
    add("check", "look for damage: database, audit log, released files, vectors", _check)
    backing_up = add("backup", "write everything into one file, while the server runs", _backup)
    backing_up.add_argument("--out", type=Path, required=True, metavar="FILE", help="it will hold secret keys")
    restoring = add(
        "restore",
        "fill an empty folder from a backup; one that has a database is refused, and stays as it is",
        _restore,
    )
    restoring.add_argument("backup", type=Path, metavar="FILE")
    restoring.add_argument(
        "--anchor", type=Path, metavar="FILE", help="the deployment's audit.anchor, if --data does not have it"
    )
    restoring.add_argument("--database", metavar="URL", help="a PostgreSQL database to restore into")


def _use(arguments: argparse.Namespace) -> Json:
    folder = DataFolder.open(arguments.data)
    if folder.database.exists():
        raise UsageError(
            "not-empty",
            f"{folder.path} has a database in a file.",
            "back it up, and restore the backup into another folder with `db restore --database URL`",
        )
    use_database(folder, sys.stdin.readline().strip() if arguments.url == "-" else arguments.url)
    return {"database": "postgresql", "revision": AGGREGATOR.newest}


def _upgrade(arguments: argparse.Namespace) -> Json:
    from cloud_server.storage.upgrade import upgrade  # noqa: PLC0415  # Alembic; no other command needs it

    if is_authority(arguments.data):
        return _upgrade_authority(arguments.data.resolve())
    folder = DataFolder.existing(arguments.data)
    try:
        with progress(sys.stderr) as report, unprepared(database_url(folder)) as connection:
            before, after = upgrade(connection, AGGREGATOR, report)
            if before != after:
                now_s = SystemClock().now_s()
                audit.record(connection, now_s, "operator", "upgraded", after, {"from": before})
    except OperationalError as error:
        raise no_database() from error
    if (folder.authority / DATABASE_FILE).exists():
        _upgrade_authority(folder.authority)
    return {"before": before, "after": after}


def _upgrade_authority(folder: Path) -> Json:
    from cloud_server.storage.upgrade import upgrade  # noqa: PLC0415  # as above

    with progress(sys.stderr) as report, unprepared(sqlite_url(folder / DATABASE_FILE)) as connection:
        before, after = upgrade(connection, AUTHORITY, report)
    return {"before": before, "after": after}


def _check(arguments: argparse.Namespace) -> Json:
    folder = DataFolder.existing(arguments.data)
    database, anchor = open_database(folder, keep_connections=False), Anchor(folder.path / ANCHOR_FILE)
    with progress(sys.stderr) as report:
        found = find_damage(database, open_blobs(folder), UploadStore(folder.uploads), anchor, report)
    if problems := found["problems"]:
        assert isinstance(problems, list)  # noqa: S101  # find_damage makes it
        sentences = " ".join(str(problem) for problem in problems)
        raise BrokenState("damaged", sentences, "restore a backup; see docs/operating.md")
    if arguments.json:
        return found
    looked_at = ("audit entries", "audit_entries"), ("files of releases", "blobs"), ("vectors of cohorts", "vectors")
    return "no damage was found\n" + facts([(name, word(found[key])) for name, key in looked_at])


def _backup(arguments: argparse.Namespace) -> Json:
    folder = DataFolder.existing(arguments.data)
    database = open_database(folder, keep_connections=False)
    with database.read() as connection:
        Anchor(folder.path / ANCHOR_FILE).extend(connection)
    with progress(sys.stderr) as report:
        manifest = write_backup(folder, database, open_blobs(folder), arguments.out, report)
    size_bytes, entries = arguments.out.stat().st_size, manifest["audit"]["number"]
    if arguments.json:
        return {"file": str(arguments.out), "bytes": size_bytes, "audit_entries": entries}
    return facts([("file", str(arguments.out)), ("size", bytes_of(size_bytes)), ("audit entries", str(entries))])


def _restore(arguments: argparse.Namespace) -> Json:
    if not arguments.backup.is_file():
        raise UsageError("no-backup", f"{arguments.backup} is not a file.", "give a file that `db backup` wrote")
    if arguments.anchor is not None:
        read_text(arguments.anchor, "ascii", "bad-anchor", "the deployment's audit.anchor")
    is_new = not arguments.data.exists()
    folder, now_s = DataFolder.open(arguments.data, to_restore=True), SystemClock().now_s()
    try:
        with progress(sys.stderr) as report:
            manifest = restore(
                arguments.backup, folder, now_s, report, anchor=arguments.anchor, database_url=arguments.database
            )
    except FedloomError:
        if is_new:
            folder.remove_if_empty()
        raise
    return {"audit_entries": manifest["audit"]["number"], "parts": len(manifest["parts"])}

"""Look for damage in everything that an aggregator keeps, without changing anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlalchemy import select

from cloud_server import audit
from cloud_server.audit import Anchor
from cloud_server.progress import Report, unreported
from cloud_server.rounds.machine import OVER
from cloud_server.rounds.records import devices_in_order, step_bodies
from cloud_server.rounds.retention import needed
from cloud_server.storage.blobs import BlobStore, UploadStore
from cloud_server.storage.database import Database
from cloud_server.storage.schema import cohort, partial_sum
from shared.errors import FedloomError
from shared.secagg.roster import from_bitmap
from shared.wire.canonical import Json


def find_damage(
    database: Database, blobs: BlobStore, uploads: UploadStore, anchor: Anchor, report: Report = unreported
) -> dict[str, Json]:
    """Return counts of what was looked at, and a sentence for each thing that is wrong."""
    problems: list[Json] = []
    with database.read() as connection:
        if database.is_sqlite and (found := connection.exec_driver_sql("PRAGMA quick_check").scalar_one()) != "ok":
            problems.append(f"The database is damaged: {found}")
        entries = 0
        try:
            entries = audit.verify_chain(connection).number
            anchor.require_contained(connection)
        except FedloomError as error:
            problems.append(str(error))
        digests = sorted(needed(connection))
        running = list(connection.execute(select(cohort).where(cohort.c.phase.not_in([p.value for p in OVER]))))
        vectors = 0
        stored: list[tuple[str, str, bytes]] = []  # cohort, device, hash
        for row in running:
            added = connection.execute(select(partial_sum.c.members).where(partial_sum.c.cohort == row.id)).scalar()
            done = from_bitmap(added, row.members) if added is not None else frozenset()
            devices = devices_in_order(row.roster) if row.roster is not None else ()
            for device, acknowledged in step_bodies(connection, row.id, "vector").items():
                vectors += 1
                if devices.index(device) not in done:
                    stored.append((row.id, device, acknowledged))
    for place, (cohort_id, device, acknowledged) in enumerate(stored):
        report("vectors of cohorts", place, len(stored))
        if (problem := _damage(uploads.path(cohort_id, device), acknowledged)) is not None:
            problems.append(f"The vector of {device} in cohort {cohort_id} {problem}.")
    for place, digest in enumerate(digests):
        report("files of releases", place, len(digests))
        try:
            blobs.get(digest)
        except FedloomError as error:
            problems.append(f"{digest}: {error}")
    return {"audit_entries": entries, "blobs": len(digests), "vectors": vectors, "problems": problems}


def _damage(path: Path, digest: bytes) -> str | None:
    """Say what is wrong with a stored vector whose hexadecimal SHA-256 was acknowledged, None if nothing is."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is not there"
    return None if found.encode() == digest else "is not what was stored"

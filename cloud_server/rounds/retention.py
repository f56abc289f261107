"""What is kept of the past, and what goes: old versions with their files, and what members of old cohorts sent.

Kept for ever are the audit log, privacy events with their cohorts, rounds, devices, and what the authority has.

First rows go, in transactions; files that no row needs any more go later, found by looking at all that there are. So
whatever is killed in between only leaves files, which the next look finds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, select, update

from cloud_server.progress import Report, unreported
from cloud_server.releases.state import held_versions
from cloud_server.rounds.machine import OVER
from cloud_server.rounds.rounds import OPEN
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.database import Database
from cloud_server.storage.schema import (
    box,
    cohort,
    commitment,
    partial_sum,
    privacy_event,
    promotion,
    round_,
    step,
    version,
)
from cloud_server.storage.schema import setting as setting_table
from cloud_server.storage.schema import task as task_table
from cloud_server.tasks import release_files
from shared.errors import UsageError

DAY_S: Final = 86400.0
FEWEST_VERSIONS: Final = 2
FEWEST_DAYS: Final = 8  # messages of a cohort are valid for 7
UNNEEDED_S: Final = DAY_S  # a file whose version is being published has no row yet
COHORTS_AT_ONCE: Final = 20  # in one transaction, so that nobody waits long
_KEPT_FROM: Final = "kept-from:"  # before a task's name, in the settings


@dataclass(frozen=True)
class Retention:
    """How much of the past is kept.

    Attributes:
        versions: of each task, the newest ones; a running cohort's base version is kept besides, and what devices
            use or may be told to use again.
        cohort_days: after which the messages of a cohort that is over are deleted.

    Raises:
        UsageError: ``bad-retention``.
    """

    versions: int = 50
    cohort_days: float = 30.0

    def __post_init__(self) -> None:
        if self.versions < FEWEST_VERSIONS or not FEWEST_DAYS <= self.cohort_days < 1e6:
            raise UsageError(
                "bad-retention",
                f"--keep-versions must be {FEWEST_VERSIONS} or more, and --keep-cohorts-days {FEWEST_DAYS} or more.",
            )


def kept_from(connection: Connection, task_name: str) -> int:
    """Return the number of the oldest version of a task whose files are kept."""
    query = select(setting_table.c.value).where(setting_table.c.name == _KEPT_FROM + task_name)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def is_kept(connection: Connection, task_name: str, number: int) -> bool:
    """Say whether the files of a version are kept."""
    return number in kept_versions(connection, task_name, [number])


def kept_versions(connection: Connection, task_name: str, numbers: Iterable[int]) -> frozenset[int]:
    """Return which of these versions have their files kept."""
    oldest, held = kept_from(connection, task_name), held_versions(connection, task_name)
    return frozenset(number for number in numbers if number >= oldest or number in held)


def retire_versions(database: Database, retention: Retention) -> None:
    """Note from which version on each task's are kept; that number only grows."""
    with database.read() as connection:
        names = list(connection.execute(select(task_table.c.name)).scalars())
    for name in names:
        with database.read() as connection:
            wanted = _oldest_wanted(connection, name, retention.versions)
            if wanted <= kept_from(connection, name):
                continue
        with database.write() as connection:
            wanted = _oldest_wanted(connection, name, retention.versions)
            if wanted > kept_from(connection, name):
                key = _KEPT_FROM + name
                connection.execute(delete(setting_table).where(setting_table.c.name == key))
                connection.execute(insert(setting_table).values(name=key, value=str(wanted)))


def _oldest_wanted(connection: Connection, task_name: str, count: int) -> int:
    newest = connection.execute(select(func.max(version.c.number)).where(version.c.task == task_name)).scalar_one()
    running = cohort.c.phase.not_in([phase.value for phase in OVER])
    bases = (
        select(func.min(round_.c.base_version)).where(round_.c.task == task_name, round_.c.phase == OPEN),
        select(func.min(cohort.c.base_version)).where(cohort.c.task == task_name, running),
    )
    found = [connection.execute(query).scalar_one_or_none() for query in bases]
    return int(min([newest - count + 1, *(base for base in found if base is not None)]))


def forget_cohorts(database: Database, retention: Retention, now_s: float, report: Report = unreported) -> int:
    """Delete what members sent to cohorts that have been over for long, and return how many cohorts there were.

    A cohort whose survivors were charged to a privacy budget stays, without its roster. So does one that measured a
    version that could still be promoted, with the names of who did: nobody's counts of it may be in two sums.
    """
    old_s = now_s - retention.cohort_days * DAY_S
    over = cohort.c.phase.in_([phase.value for phase in OVER])
    of_open_round = select(round_.c.number).where(
        cohort.c.purpose == "training",
        round_.c.task == cohort.c.task,
        round_.c.number == cohort.c.round,
        round_.c.phase == OPEN,
    )
    of_promotion = select(promotion.c.number).where(  # under way
        cohort.c.purpose == "evaluation",
        promotion.c.task == cohort.c.task,
        promotion.c.number == cohort.c.round,
        promotion.c.ended_s.is_(None),
    )
    charged = select(privacy_event.c.cohort).where(privacy_event.c.cohort == cohort.c.id)
    of_version = (version.c.task == cohort.c.task) & (version.c.number == cohort.c.base_version)
    measured = select(version.c.number).where(cohort.c.purpose == "evaluation", of_version)
    stays = charged.exists() | measured.exists()
    query = select(cohort.c.id).where(over, cohort.c.since_s < old_s, ~of_open_round.exists(), ~of_promotion.exists())
    query = query.where(~stays | cohort.c.roster.is_not(None)).limit(COHORTS_AT_ONCE)
    forgotten = 0
    while True:
        with database.read() as connection:
            names = list(connection.execute(query).scalars())
        if not names:
            return forgotten
        with database.write() as connection:
            kept = set(connection.execute(select(cohort.c.id).where(cohort.c.id.in_(names), stays)).scalars())
            measuring = select(cohort.c.id).where(cohort.c.id.in_(names), measured.exists())
            proof = (step.c.step == "vector") & step.c.cohort.in_(set(connection.execute(measuring).scalars()))
            connection.execute(delete(step).where(step.c.cohort.in_(names), ~proof))
            for table in (commitment, box, partial_sum):
                connection.execute(delete(table).where(table.c.cohort.in_(names)))
            connection.execute(update(cohort).where(cohort.c.id.in_(kept)).values(roster=None))
            connection.execute(delete(cohort).where(cohort.c.id.in_(set(names) - kept)))
        forgotten += len(names)
        report("old cohorts", forgotten)


def forget_versions(database: Database) -> None:
    """Delete the rows of versions whose files are not kept, once no cohort is left that trained from them."""
    with database.read() as connection:
        names = list(connection.execute(select(task_table.c.name)).scalars())
    of_task = (cohort.c.task == version.c.task) & (cohort.c.purpose == "training")
    trained = select(cohort.c.id).where(of_task, cohort.c.base_version == version.c.number)
    for name in names:
        with database.read() as connection:
            if (
                connection.execute(select(version.c.number).where(_old(connection, name, trained)).limit(1)).first()
                is None
            ):
                continue
        with database.write() as connection:  # looks again: a version may have been pinned meanwhile
            connection.execute(delete(version).where(_old(connection, name, trained)))


def _old(connection: Connection, name: str, trained: Select[tuple[str]]) -> ColumnElement[bool]:
    held = version.c.number.in_(held_versions(connection, name))
    return (version.c.task == name) & (version.c.number < kept_from(connection, name)) & ~trained.exists() & ~held


def needed(connection: Connection) -> set[str]:
    """Return the hashes of the files that tasks and kept versions need."""
    found: set[str] = set()
    for row in connection.execute(select(task_table.c.name, task_table.c.bundle)):
        found |= set(json.loads(row.bundle).values())
        kept = version.c.number >= kept_from(connection, row.name)
        held = version.c.number.in_(held_versions(connection, row.name))
        query = select(version.c.release, version.c.master_sha256).where(version.c.task == row.name, kept | held)
        for one in connection.execute(query):
            found |= {entry.sha256 for entry in release_files(one.release).values()} | {one.master_sha256}
    return found


def remove_unneeded(database: Database, blobs: BlobStore, now_s: float, report: Report = unreported) -> int:
    """Delete the files that nothing has needed for a day, and what killed writers left; return how many."""
    with database.read() as connection:
        wanted = needed(connection)
    removed = 0
    for looked_at, stored in enumerate(blobs.stored(), 1):
        report("files looked at", looked_at)
        # A difference leads to a kept version from one that may not be kept, but that a device may still have.
        if stored.digest not in wanted and stored.modified_s < now_s - UNNEEDED_S:
            removed += blobs.remove(stored.name, put_before_s=now_s - UNNEEDED_S)
    return removed

"""The running sums of collecting cohorts: vectors are added as they arrive, and added-up ones make room.

After every ``CHECKPOINT_VECTORS`` the sum itself becomes a durable file, a row says whose vectors are in it, and then
these are deleted. So a driver that takes over reads one file and a few vectors, no device is asked again, and neither
memory nor disk grows with the cohort.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from cloud_server.aggregation.running_sum import RunningSum
from cloud_server.rounds.records import StoredCohort, devices_in_order, step_bodies
from cloud_server.storage.blobs import BlobStore, UploadStore
from cloud_server.storage.database import Database
from cloud_server.storage.leases import Leases, task_lease
from cloud_server.storage.partial_sums import PartialSums
from cloud_server.storage.schema import partial_sum
from cloud_server.tasks import Task, layout_of
from shared.errors import TryLater
from shared.numeric.evaluation_vector import EVALUATION_WORDS
from shared.secagg.roster import from_bitmap, to_bitmap

CHECKPOINT_VECTORS: Final = 16
log = logging.getLogger("fedloom.driver")


class Sums:
    """What one driver has added up.

    Args:
        database: of the aggregator.
        uploads: masked vectors.
        leases: this driver's; without a task's lease nothing of its cohort is deleted.
    """

    def __init__(self, database: Database, uploads: UploadStore, leases: Leases) -> None:
        self._database = database
        self._uploads = uploads
        self._files = PartialSums(uploads.folder)
        self._leases = leases
        self._running: dict[str, RunningSum] = {}
        self._written: dict[str, int] = {}  # how many vectors the last checkpoint holds

    def add_arrived(
        self, record: StoredCohort, words: Callable[[], int], only: frozenset[int] | None = None
    ) -> RunningSum:
        """Return the sum with every stored vector that was not in it yet, or those of ``only``.

        Args:
            record: of the cohort, whose roster is fixed.
            words: how many 64-bit words a vector has.
            only: roster indices.

        Raises:
            VectorsLost: ``vector-lost`` or ``sum-damaged``.
            TryLater: ``lease-lost``.
        """
        with self._database.read() as connection:
            arrived = step_bodies(connection, record.id, "vector")  # their hashes
        running = self._running.get(record.id)
        if running is None:
            running = self._restored(record, words())
            self._running[record.id] = running
        devices = devices_in_order(record.roster_body or b"")
        for index, device in enumerate(devices):
            if device in arrived and index not in running.added and (only is None or index in only):
                running.add(index, self._uploads.path(record.id, device), arrived[device].decode("ascii"))
                if len(running.added) - self._written.get(record.id, 0) >= CHECKPOINT_VECTORS:
                    self._checkpoint(record, running, devices)
        return running

    def _restored(self, record: StoredCohort, words: int) -> RunningSum:
        running = RunningSum(words)
        with self._database.read() as connection:
            query = select(partial_sum).where(partial_sum.c.cohort == record.id)
            row = connection.execute(query).one_or_none()
        if row is not None:
            running.total[:] = self._files.read(record.id, row.sha256, words)
            running.added = from_bitmap(row.members, record.state.members)
            log.info("cohort %s: going on from the sum of %d vectors", record.id, len(running.added))
        self._written[record.id] = len(running.added)
        return running

    def _checkpoint(self, record: StoredCohort, running: RunningSum, devices: tuple[str, ...]) -> None:
        sha256 = self._files.write(record.id, running.total)
        with self._database.write() as connection:
            if not self._leases.is_mine(connection, task_lease(record.task)):
                # Another driver adds up now; what it has not added must stay.
                raise TryLater("lease-lost", f"Another driver took over task {record.task}.")
            of_cohort = partial_sum.c.cohort == record.id
            before = connection.execute(select(partial_sum.c.sha256).where(of_cohort)).scalar_one_or_none()
            connection.execute(delete(partial_sum).where(of_cohort))
            bitmap = to_bitmap(running.added, record.state.members)
            connection.execute(insert(partial_sum).values(cohort=record.id, members=bitmap, sha256=sha256))
        self._written[record.id] = len(running.added)
        if before is not None and before != sha256:
            self._files.remove(record.id, before)  # no other: one of them may be of a driver that took over since
        for index in running.added:
            self._uploads.path(record.id, devices[index]).unlink(missing_ok=True)

    def forget(self, cohort_id: str) -> None:
        """Drop what is in memory of a cohort."""
        self._running.pop(cohort_id, None)
        self._written.pop(cohort_id, None)

    def clear(self) -> None:
        """Drop everything in memory; what is stored is read again."""
        self._running.clear()
        self._written.clear()


def words_of(blobs: BlobStore, task: Task, record: StoredCohort) -> int:
    """Return how many 64-bit words every vector of a cohort has."""
    if record.purpose == "evaluation":
        return EVALUATION_WORDS
    layout = layout_of(blobs, task)
    return task.plan.vector_words(layout.shared.size, layout.statistics.size)


def forget_partial_sum(connection: Connection, cohort_id: str) -> None:
    """Remove the row of a cohort that is over; its file goes with the cohort's vectors."""
    connection.execute(delete(partial_sum).where(partial_sum.c.cohort == cohort_id))

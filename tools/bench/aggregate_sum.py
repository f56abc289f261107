"""One cohort's durable uploads, added up by the driver's own code: ``python -m tools.bench.aggregate_sum UPDATES``.

A program of its own, because a peak of memory belongs to the whole process. Prints JSON: seconds from the first look at
the uploads to the new weights, seconds of the same additions in NumPy alone, and the peak in octets.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from sqlalchemy import Connection, insert

from cloud_server.aggregation.closing import step_weights
from cloud_server.rounds.machine import CohortState, Phase
from cloud_server.rounds.records import StoredCohort
from cloud_server.rounds.sums import Sums
from cloud_server.storage.blobs import UploadStore
from cloud_server.storage.database import Database, sqlite_url
from cloud_server.storage.leases import Leases, task_lease
from cloud_server.storage.revisions import AGGREGATOR
from cloud_server.storage.schema import cohort, device, step, task
from shared.bundle import TensorSpec
from shared.clock import SystemClock
from shared.layout import Layout
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.plan import Cohort, CohortEncoding, Plan
from shared.secagg.masking import Words
from shared.secagg.roster import CohortBinding
from shared.wire.canonical import Json, encode, octets_to_text, sha256
from tools.inspection.memory import peak_bytes

PARAMETERS: Final = 1_000_000
DISTINCT: Final = 8  # vectors; further files are links to these
TASK: Final = "sum"
COHORT: Final = "cohort-sum"
SID: Final = bytes(32)
TURNS: Final = 3


def main() -> None:
    """Measure and print."""
    updates = int(sys.argv[1])
    plan = Plan(TASK, cohort=Cohort(largest=max(64, updates)))
    layout = Layout.of((TensorSpec("theta", (PARAMETERS,), 0, PARAMETERS, "shared"),))
    encoding = plan.encoding(updates, PARAMETERS, 0)
    vectors = _vectors(encoding)
    seconds = [_sum(updates, plan, layout, encoding, vectors) for _ in range(TURNS)]
    print(json.dumps({"seconds": min(seconds), "numpy_seconds": _numpy_s(updates, vectors), "bytes": peak_bytes()}))


def _vectors(encoding: CohortEncoding) -> list[Words]:
    rng = np.random.default_rng(1)
    nothing = ClippedUpdate(np.zeros(0), 1.0, 1, 1.0, clipped=False)
    return [
        encoding.encode(
            clip(LocalUpdate(rng.normal(size=PARAMETERS).astype(np.float32), 1), max_l2_norm=1.0, max_weight=1),
            nothing,
            Evaluation(0.0, 0, 0),
            sid=SID,
            random_bytes=os.urandom,
        )
        for _ in range(DISTINCT)
    ]


def _name(number: int) -> str:
    return f"device-{number:032x}"


def _sum(updates: int, plan: Plan, layout: Layout, encoding: CohortEncoding, vectors: Sequence[Words]) -> float:
    """Return the seconds from durable uploads to new weights, every file, row and checkpoint included."""
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as name:
        folder, clock = Path(name), SystemClock()
        hashes = [sha256(words.astype("<u8").tobytes()).hex().encode() for words in vectors]
        database = Database(sqlite_url(folder / "server.db"), AGGREGATOR)
        uploads = UploadStore(folder / "uploads")
        leases = Leases(database, clock, "bench", 600.0)
        with database.write() as connection:
            _uploaded(connection, updates, hashes)
        _write(uploads, updates, vectors)
        leases.hold([task_lease(TASK)], "nothing")
        record = _record(updates, plan)
        started = time.perf_counter()
        running = Sums(database, uploads, leases).add_arrived(record, lambda: encoding.words)
        aggregate = encoding.decode(running.total, survivors=updates, sid=SID)
        step_weights(np.zeros(PARAMETERS, np.float32), aggregate, plan, layout)
        seconds = time.perf_counter() - started
        database.close()
    return seconds


def _uploaded(connection: Connection, updates: int, hashes: Sequence[bytes]) -> None:
    """Put what web processes would have recorded into the database."""
    connection.execute(insert(task).values(name=TASK, plan=b"", bundle=b"", state="active", reason="", created_s=0.0))
    values = {"task": TASK, "certificate": b"", "identity_key": b"", "enrolled_s": 0.0, "counter": 0}
    values |= {"last_request": "", "last_seen_s": 0.0, "version": 0}
    connection.execute(insert(device), [{"device": _name(number), **values} for number in range(updates)])
    numbers = {"round": 1, "attempt": 1, "base_version": 0, "members": updates, "expires_at_s": 2**31}
    connection.execute(
        insert(cohort).values(id=COHORT, task=TASK, phase=Phase.COLLECTING.value, since_s=0.0, failure="", **numbers)
    )
    vector = {"cohort": COHORT, "step": "vector", "received_s": 0.0}
    rows = [{"device": _name(number), "body": hashes[number % DISTINCT], **vector} for number in range(updates)]
    connection.execute(insert(step), rows)


def _write(uploads: UploadStore, updates: int, vectors: Sequence[Words]) -> None:
    (uploads.folder / COHORT).mkdir(parents=True)
    for number, words in enumerate(vectors):
        (uploads.folder / f".{number}").write_bytes(words.astype("<u8").tobytes())
    for number in range(updates):
        os.link(uploads.folder / f".{number % DISTINCT}", uploads.path(COHORT, _name(number)))


def _record(updates: int, plan: Plan) -> StoredCohort:
    binding = CohortBinding(TASK, COHORT, plan.sha256, bytes(32), 2**31)
    state = CohortState(Phase.COLLECTING, 0.0, members=updates, sharers=frozenset(range(updates)))
    entries: list[Json] = []
    for number in range(updates):
        signed: dict[str, Json] = {
            "body": octets_to_text(encode({"device": _name(number)})),
            "signature": octets_to_text(bytes(64)),
        }
        entries.append({"join": signed, "certificate": signed})
    return StoredCohort(COHORT, TASK, 1, 1, 0, binding, state, encode({"members": entries}), plan.rules)


def _numpy_s(updates: int, vectors: Sequence[Words]) -> float:
    """Return the seconds of the same additions with the vectors in memory."""
    seconds = []
    for _ in range(TURNS):
        total = np.zeros_like(vectors[0])
        started = time.perf_counter()
        for number in range(updates):
            np.add(total, vectors[number % DISTINCT], out=total)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()

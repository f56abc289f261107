"""Weights from elsewhere as a task's next version: devices train from it, and use it once it is promoted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cloud_server import audit
from cloud_server.beside import beside_other_requests
from cloud_server.progress import Report, unreported
from cloud_server.publishing import Version, make_version
from cloud_server.releases.state import ReleaseState, lock_release, save_release
from cloud_server.rounds.stopping import give_up_round
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.database import Database, bump
from cloud_server.tasks import (
    insert_version,
    load_bundle,
    load_task,
    newest_version,
    put_version,
    release_of,
)
from shared.bundle import WEIGHTS_FILE, Bundle, BundleManifest, initial_weights
from shared.errors import BundleError, Conflict, UsageError
from shared.layout import Layout
from shared.wire.signed import SigningKey

_STEPS: Final = 4


@dataclass(frozen=True)
class Imported:
    """What an import made: the version's number, and the state of the task's release."""

    version: int
    state: ReleaseState


def import_weights(
    database: Database,
    blobs: BlobStore,
    who: str,
    expected_revision: int | None,
    task_name: str,
    weights: bytes,
    *,
    key: SigningKey,
    now_s: float,
    report: Report = unreported,
) -> Imported:
    """Publish weights as the next version; the open round, which is of the version before, is given up.

    Where devices used the newest version until now, they stay with it: nothing is used that no devices evaluated.

    Args:
        database: of the aggregator.
        blobs: its files.
        who: for the audit log.
        expected_revision: of the task's release, that whoever acts has looked at; None for any.
        task_name: of the task.
        weights: a safetensors file whose keys are the tensors' paths; local ones keep their initial values.
        key: the release key.
        now_s: the time.
        report: is told how far it is.

    Raises:
        UsageError: ``wrong-weights``.
        Missing: ``task-unknown``.
        Conflict: ``release-changed``, ``version-published`` where a round was quicker.
    """
    with database.read() as connection:
        task, before = load_task(connection, task_name), newest_version(connection, task_name)
        release, _ = release_of(connection, task_name, before)
    manifest, bundle = load_bundle(blobs, task)
    report("steps: the weights are read", 1, _STEPS)

    def make() -> tuple[Version, str]:
        master = _read(manifest, weights, bundle[WEIGHTS_FILE])
        report("steps: the version is made", 2, _STEPS)
        made = make_version(before + 1, master, plan=task.plan, manifest=manifest, bundle=bundle, key=key, now_s=now_s)
        report("steps: its files are stored", 3, _STEPS)
        return made, put_version(blobs, made, master, release)  # no transaction waits for it

    made, master_sha256 = beside_other_requests(make)
    with database.write() as connection:
        state = lock_release(connection, task_name, expected_revision)
        if newest_version(connection, task_name) != before:
            raise Conflict("version-published", "A round published a version meanwhile.", "run it again")
        if state is None:
            audit.record(connection, now_s, who, "release-held", task_name, {"version": before})
            state = ReleaseState(task_name, 0, before)
        state = save_release(connection, state)  # so that the same form is not taken twice
        reason = f"version {made.number} was imported"
        give_up_round(connection, task, now_s, cause="a version was imported", reason=reason)
        insert_version(connection, task_name, made, master_sha256, now_s)
        audit.record(connection, now_s, who, "version-imported", task_name, {"version": made.number})
        bump(connection)
    return Imported(made.number, state)


def _read(manifest: BundleManifest, weights: bytes, initial: bytes) -> npt.NDArray[np.float32]:
    """Return f32[d]."""
    try:
        read = initial_weights(Bundle(manifest, {WEIGHTS_FILE: weights}))
    except BundleError as error:
        raise UsageError(
            "wrong-weights",
            f"The weights do not fit the model: {error.message.removeprefix(WEIGHTS_FILE).lstrip(': ')}.",
            "`fedloom-server model download --as safetensors` writes a file that does",
        ) from error
    local = Layout.of(manifest.tensors).local
    return local.replace(read, local.take(initial_weights(Bundle(manifest, {WEIGHTS_FILE: initial}))))

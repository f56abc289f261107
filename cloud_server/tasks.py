"""Tasks: made from a bundle and a plan, versioned, listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, desc, insert, select, update

from cloud_server import audit
from cloud_server.privacy import require_possible
from cloud_server.publishing import Version, make_version
from cloud_server.releases.keys import require_current_key
from cloud_server.releases.state import held_versions
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.schema import task, version
from shared.bundle import MANIFEST_FILE, Bundle, BundleManifest, initial_weights
from shared.errors import Conflict, Missing, UsageError
from shared.layout import Layout
from shared.numeric.differences import make_difference
from shared.plan import Personalisation, Plan
from shared.release import PLAN_FILE, WEIGHTS_FILE, FileEntry, key_id, parse_release, sign_release
from shared.training_inputs import require_known_inputs
from shared.wire.canonical import Json, decode, encode
from shared.wire.signed import SigningKey


@dataclass(frozen=True)
class Task:
    """One task as stored.

    Attributes:
        plan: of its newest version.
        state: ``active`` or ``done``.
        reason: why it is done.
        bundle: blob hash by file name.
    """

    plan: Plan
    state: str
    reason: str
    bundle: Mapping[str, str]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.plan.task


def load_task(connection: Connection, name: str) -> Task:
    """Return a task.

    Raises:
        Missing: ``task-unknown``.
    """
    query = (
        select(task.c.state, task.c.reason, task.c.bundle, version.c.plan)
        .join(version, version.c.task == task.c.name)
        .where(task.c.name == name)
        .order_by(desc(version.c.number))
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("task-unknown", f"There is no task {name!r}.", "see fedloom-server task list")
    bundle = {file: str(digest) for file, digest in decode(row.bundle).items()}
    return Task(Plan.from_bytes(row.plan), row.state, row.reason, bundle)


def task_names(connection: Connection, *, state: str | None = None) -> list[str]:
    """Return the names of all tasks, or of those in one state."""
    query = select(task.c.name).order_by(task.c.name)
    if state is not None:
        query = query.where(task.c.state == state)
    return list(connection.execute(query).scalars())


@dataclass(frozen=True)
class NewTask:
    """A task whose files are stored, and which is not there yet.

    Attributes:
        plan: of the task.
        bundle: hash of each file of the bundle, by name.
        first: version 0, the bundle's initial weights.
        master_sha256: hash of the file of its weights.
    """

    plan: Plan
    bundle: Mapping[str, str]
    first: Version
    master_sha256: str


def prepare_task(blobs: BlobStore, bundle: Bundle, plan: Plan, key: SigningKey, now_s: float) -> NewTask:
    """Store the files of a task, with no transaction open: an object store may take long.

    Raises:
        UsageError: ``unknown-training-input``; ``unknown-tensor`` if nothing is there to personalise;
            ``clip-quantile-statistics`` where it would not be known what was clipped;
            ``bundle-nothing-shared`` for a model of which devices would learn nothing from each other; or what
            ``require_possible`` says of the plan's noise.
    """
    manifest = bundle.manifest
    require_known_inputs(manifest, plan.training.inputs)
    _require_something_to_personalise(manifest, plan.personalisation)
    layout = Layout.of(manifest.tensors)
    if not layout.shared.size:
        raise UsageError(
            "bundle-nothing-shared",
            "Every trained tensor of the model stays on the device: there is nothing to aggregate.",
            "convert it again with fewer --local",
        )
    if plan.update.clip_quantile and layout.statistics.size:
        raise UsageError(
            "clip-quantile-statistics",
            "The plan has update.clip_quantile and the model statistics, whose clipping is counted in the same number.",
            "leave clip_quantile out, or convert the model with --local for its normalisation layers",
        )
    require_possible(plan, layout)
    files = {**bundle.files, MANIFEST_FILE: manifest.to_bytes()}
    stored = {name: blobs.put(data) for name, data in files.items()}
    master = initial_weights(bundle)
    first = make_version(0, master, plan=plan, manifest=manifest, bundle=files, key=key, now_s=now_s)
    return NewTask(plan, stored, first, put_version(blobs, first, master, None))


def create_task(connection: Connection, new: NewTask, now_s: float, *, actor: str = "operator") -> None:
    """Store a task and its version 0.

    Raises:
        Conflict: ``task-exists``.
        KeyReplaced: ``release-key-replaced``.
    """
    plan = new.plan
    if connection.execute(select(task.c.name).where(task.c.name == plan.task)).one_or_none():
        raise Conflict("task-exists", f"There is a task {plan.task!r} already.", "choose another name in the plan")
    connection.execute(
        insert(task).values(
            name=plan.task,
            plan=plan.to_bytes(),
            bundle=encode(dict(new.bundle)),
            state="active",
            reason="",
            created_s=now_s,
        )
    )
    audit.record(
        connection,
        now_s,
        actor,
        "task-created",
        plan.task,
        {"plan_sha256": plan.sha256.hex(), "bundle": dict(new.bundle)},
    )
    insert_version(connection, plan.task, new.first, new.master_sha256, now_s)


def _require_something_to_personalise(manifest: BundleManifest, personalisation: Personalisation) -> None:
    trained = [spec.path for spec in manifest.tensors if spec.role != "statistic"]
    if personalisation.epochs and not any(fnmatchcase(path, personalisation.tensors) for path in trained):
        raise UsageError(
            "unknown-tensor",
            f"personalisation.tensors is {personalisation.tensors!r}, which no trained tensor's path matches.",
            f"the model has {', '.join(trained[:8] + ['...'] * (len(trained) > 8))}",
        )


def load_bundle(blobs: BlobStore, stored: Task) -> tuple[BundleManifest, dict[str, bytes]]:
    """Return the manifest and every file of a task's bundle."""
    files = {name: blobs.get(digest) for name, digest in stored.bundle.items()}
    return BundleManifest.from_bytes(files[MANIFEST_FILE]), files


def layout_of(blobs: BlobStore, stored: Task) -> Layout:
    """Return how the task's weights are divided, from the manifest alone."""
    return _layout(blobs, stored.bundle[MANIFEST_FILE])


@lru_cache(maxsize=256)
def _layout(blobs: BlobStore, manifest_sha256: str) -> Layout:
    return Layout.of(BundleManifest.from_bytes(blobs.get(manifest_sha256)).tensors)


def put_version(blobs: BlobStore, made: Version, master: npt.NDArray[np.float32], before: bytes | None) -> str:
    """Store a version's files before there is a row that names them, and return the hash of the master weights.

    Args:
        blobs: which may be slow, or far away: no transaction should wait for them.
        made: the version.
        master: f32[d].
        before: release.json of the version before, if there is one.
    """
    for data in made.files.values():
        blobs.put(data)
    if before is not None:
        _put_difference(blobs, before, made)
    return blobs.put(np.ascontiguousarray(master, "<f4").tobytes())


def insert_version(connection: Connection, task_name: str, made: Version, master_sha256: str, now_s: float) -> None:
    """Store the row of a version whose files are there.

    Raises:
        KeyReplaced: ``release-key-replaced``.
    """
    require_current_key(connection, parse_release(made.release).key_id)
    connection.execute(
        insert(version).values(
            task=task_name,
            number=made.number,
            release=made.release,
            signature=made.signature,
            model_sha256=made.model_sha256,
            plan=made.files[PLAN_FILE],
            master_sha256=master_sha256,
            created_s=now_s,
        )
    )
    detail: dict[str, Json] = {"version": made.number, "model_sha256": made.model_sha256.hex()}
    audit.record(connection, now_s, "server", "version-published", task_name, detail)


def _put_difference(blobs: BlobStore, release: bytes, made: Version) -> None:
    """Store what leads from the weights of the version before to these, where it is shorter than they are."""
    before, after = file_of_release(release, WEIGHTS_FILE).sha256, made.files[WEIGHTS_FILE]
    difference = make_difference(blobs.get(before), after)
    if difference is not None:
        blobs.put_difference(before, FileEntry.of(after).sha256, difference)


def newest_version(connection: Connection, task_name: str) -> int:
    """Return the number of the newest version."""
    query = select(version.c.number).where(version.c.task == task_name).order_by(desc(version.c.number)).limit(1)
    return int(connection.execute(query).scalar_one())


def load_master(connection: Connection, blobs: BlobStore, task_name: str, number: int) -> npt.NDArray[np.float32]:
    """Return the aggregator's own f32[d] weights of a version."""
    query = select(version.c.master_sha256).where(version.c.task == task_name, version.c.number == number)
    return np.frombuffer(blobs.get(connection.execute(query).scalar_one()), dtype="<f4")


def release_of(connection: Connection, task_name: str, number: int) -> tuple[bytes, bytes]:
    """Return release.json's exact bytes and their signature.

    Raises:
        Missing: ``version-unknown``.
    """
    query = select(version.c.release, version.c.signature).where(
        version.c.task == task_name, version.c.number == number
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("version-unknown", f"Task {task_name!r} has no version {number}.")
    return row.release, row.signature


def renew_release(connection: Connection, stored: Task, key: SigningKey, now_s: float) -> None:
    """Sign the newest version and those that devices use anew, with later dates, once half of their time is over."""
    for number in {newest_version(connection, stored.name), *held_versions(connection, stored.name)}:
        _renew(connection, stored, number, key, now_s)


def _renew(connection: Connection, stored: Task, number: int, key: SigningKey, now_s: float) -> None:
    body, _ = release_of(connection, stored.name, number)
    release = parse_release(body)
    valid_s = stored.plan.release.valid_s
    if now_s < release.expires_at_s - valid_s / 2:
        return
    require_current_key(connection, key_id(key.public))
    renewed, signature = sign_release(replace(release, issued_at_s=int(now_s), expires_at_s=int(now_s + valid_s)), key)
    connection.execute(
        update(version)
        .where(version.c.task == stored.name, version.c.number == number)
        .values(release=renewed, signature=signature)
    )


def release_files(release: bytes) -> Mapping[str, FileEntry]:
    """Return the files of a stored release by name."""
    return parse_release(release).files


def file_of_release(release: bytes, name: str) -> FileEntry:
    """Return the entry of one file in a stored release.

    Raises:
        Missing: ``file-unknown``.
    """
    entry = release_files(release).get(name)
    if entry is None:
        raise Missing("file-unknown", f"The version has no file {name}.")
    return entry

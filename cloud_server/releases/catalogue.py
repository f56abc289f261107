"""What there is: a task's versions with what is known of each, and their files in the forms that people use."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, Literal

import numpy as np
from safetensors.numpy import save
from sqlalchemy import Connection, select

from cloud_server.releases.state import (
    list_evaluations,
    list_promotions,
    load_release,
    under_way,
)
from cloud_server.rounds.retention import is_kept, kept_versions
from cloud_server.rounds.rounds import list_rounds
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.schema import version
from cloud_server.tasks import file_of_release, load_bundle, load_master, load_task, release_of
from shared.bundle import INFER_FILE, INFER_INT8_FILE
from shared.errors import FedloomError, Refused
from shared.release import parse_release
from shared.wire.canonical import Json

Form = Literal["float", "int8", "safetensors", "keras"]
FORMS: Final[tuple[Form, ...]] = ("float", "int8", "safetensors", "keras")
SUFFIXES: Final[dict[Form, str]] = {
    "float": ".tflite",
    "int8": ".int8.tflite",
    "safetensors": ".safetensors",
    "keras": "",
}


class NeedsTensorFlow(FedloomError):
    """Made where TensorFlow and the model's source are."""

    exit_code = 3
    http_status = HTTPStatus.CONFLICT  # nothing is wrong with the server


def list_versions(connection: Connection, task_name: str, now_s: float) -> list[dict[str, Json]]:
    """Return every stored version, newest first: when it was made, how it does, and what devices do with it.

    Raises:
        Missing: ``task-unknown``.
    """
    load_task(connection, task_name)
    query = select(version.c.number, version.c.created_s, version.c.release).where(version.c.task == task_name)
    rows = connection.execute(query.order_by(version.c.number.desc())).all()
    measured = measurements(connection, task_name)
    uses = uses_of(connection, task_name)
    kept = kept_versions(connection, task_name, (row.number for row in rows))
    newest = rows[0].number
    return [
        {
            "version": row.number,
            "created_s": row.created_s,
            "use": _use(uses, row.number, newest),
            "accuracy": measured.get(row.number, {}).get("accuracy"),
            "loss": measured.get(row.number, {}).get("loss"),
            "evaluated": measured.get(row.number, {}).get("examples", 0),
            "expired": parse_release(row.release).expires_at_s < now_s,
            "kept": row.number in kept,
        }
        for row in rows
    ]


def uses_of(connection: Connection, task_name: str) -> dict[int, str] | None:
    """Return what devices do with versions, in a word each; None while they use the newest."""
    state = load_release(connection, task_name)
    if state is None:
        return None
    uses = {state.released: "released"}
    if (going := under_way(connection, state)) is not None:
        uses[going.candidate] = f"stage {going.stage + 1} of {len(going.rule.shares)}"
    if state.pinned is not None:
        uses[state.pinned] = "pinned"
    return uses


def _use(uses: dict[int, str] | None, number: int, newest: int) -> str:
    if uses is None:
        return "in use" if number == newest else ""
    return uses.get(number, "")


def measurements(connection: Connection, task_name: str) -> dict[int, dict[str, Json]]:
    """Return what devices measured of versions, on held-out examples: in rounds that began with them, and in stages."""
    found: dict[int, dict[str, Json]] = {}
    fewest = load_task(connection, task_name).plan.cohort.min_survivors
    for one in list_rounds(connection, task_name):
        if (count := one.get("evaluated")) and is_enough(one, fewest):
            found[int(str(one["base_version"]))] = _measured(one["correct"], one["loss_sum"], count, one["survivors"])
    for one in shown_evaluations(connection, task_name, fewest):
        sums = one["candidate"]
        if isinstance(sums, dict) and sums["count"]:
            number = int(str(one["version"]))
            found[number] = _measured(sums["correct"], sums["loss_sum"], sums["count"], one["evaluated"])
    return found


def is_enough(found: Mapping[str, Json], fewest: int) -> bool:
    """Say whether what was found is of as many devices as the plan's smallest cohort, ``fewest``."""
    return int(str(found.get("survivors") or 0)) >= fewest


def shown_evaluations(connection: Connection, task_name: str, fewest: int) -> list[dict[str, Json]]:
    """Return what stages found, oldest first; without the sums where these would tell of fewer than ``fewest``."""
    found = []
    for one in list_evaluations(connection, task_name):
        few = not is_enough(one, fewest) or int(str(one["evaluated"])) < fewest or one["candidate"] is None
        found.append({**one, "suppressed": few} | ({"candidate": None, "baseline": None} if few else {}))
    return found


def _measured(correct: Json, loss_sum: Json, count: Json, devices: Json) -> dict[str, Json]:
    examples = int(str(count))
    return {
        "accuracy": int(str(correct)) / examples,
        "loss": float(str(loss_sum)) / examples,
        "examples": examples,
        "devices": devices,
    }


def release_report(connection: Connection, task_name: str) -> dict[str, Json]:
    """Return what a task's devices use and how that came about.

    Raises:
        Missing: ``task-unknown``.
    """
    fewest = load_task(connection, task_name).plan.cohort.min_survivors
    state = load_release(connection, task_name)
    going = under_way(connection, state)
    return {
        "task": task_name,
        "revision": 0 if state is None else state.revision,
        "follows": "newest" if state is None else "promoted",
        "released": None if state is None else state.released,
        "pinned": None if state is None else state.pinned,
        "promotion": None if going is None else going.to_json(),
        "told": state is None or state.sequence == state.revision,
        "promotions": [one.to_json() for one in list_promotions(connection, task_name)],
        "evaluations": [*shown_evaluations(connection, task_name, fewest)],
    }


def file_in_form(connection: Connection, blobs: BlobStore, task_name: str, number: int, form: Form) -> bytes:
    """Return a version as one file.

    Raises:
        Missing: ``task-unknown``, ``version-unknown``; ``file-unknown`` where the bundle has no such model.
        Refused: ``version-removed`` where its files are not kept.
        NeedsTensorFlow: ``needs-tensorflow``.
    """
    task = load_task(connection, task_name)
    release, _ = release_of(connection, task_name, number)
    if not is_kept(connection, task_name, number):
        raise Refused("version-removed", f"The files of version {number} are not kept any more.", "take a newer one")
    if form == "keras":
        raise NeedsTensorFlow(
            "needs-tensorflow",
            "The aggregator has neither TensorFlow nor the model's source, which a Keras file is made of.",
            "download --as safetensors, then `fedloom keras SOURCE --weights FILE --out MODEL.keras` where they are",
        )
    if form == "safetensors":
        master, manifest = load_master(connection, blobs, task_name, number), load_bundle(blobs, task)[0]
        parts = {spec.path: master[spec.offset : spec.offset + spec.size] for spec in manifest.tensors}
        shapes = {spec.path: spec.shape for spec in manifest.tensors}
        return save({path: np.ascontiguousarray(part.reshape(shapes[path])) for path, part in parts.items()})
    return blobs.get(file_of_release(release, INFER_FILE if form == "float" else INFER_INT8_FILE).sha256)

"""What the demo measures after the run: every version, the two baselines, and the bytes in the devices' ledgers."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_blobs, open_database
from cloud_server.tasks import file_of_release, load_master, newest_version, release_of
from edge_client.trainer.protocol import Examples
from edge_client.trainer.runtime import InferenceModel
from edge_client.trainer.tflite import TfliteTrainer
from models.task import Budget, Task, TaskData
from shared.bundle import INFER_INT8_FILE, Bundle, initial_weights, read_bundle
from shared.examples import concatenate
from shared.layout import Layout
from shared.plan import Plan
from shared.release import WEIGHTS_FILE
from shared.secagg.masking import WORD_BYTES
from tools.baselines import Curve, train_centralised, train_local_only
from tools.demo import exhibits

F32 = npt.NDArray[np.float32]
Devices = Mapping[int, tuple[Examples, Examples]]


@dataclass(frozen=True)
class Score:
    """How one model does: accuracy and mean loss, on strangers and on the participants' held-out examples."""

    accuracy: float
    loss: float
    accuracy_participants: float
    loss_participants: float


@dataclass(frozen=True)
class Published:
    """What the server published, read from its folder.

    Attributes:
        masters: f32[d] by version.
        int8: the int8 inference model of the newest version.
        weights_payload_bytes: tensor bytes of the weights that go down, without file header.
    """

    masters: tuple[F32, ...]
    int8: bytes
    weights_payload_bytes: int

    @classmethod
    def read(cls, data: Path, task: str) -> Published:
        """Read every version of a task."""
        database, blobs = open_database(DataFolder(data)), open_blobs(DataFolder(data))
        with database.read() as connection:
            newest = newest_version(connection, task)
            masters = tuple(load_master(connection, blobs, task, number) for number in range(newest + 1))
            release, _ = release_of(connection, task, newest)
        database.close()
        weights = blobs.get(file_of_release(release, WEIGHTS_FILE).sha256)
        (header_bytes,) = struct.unpack("<Q", weights[:8])
        int8 = blobs.get(file_of_release(release, INFER_INT8_FILE).sha256)
        return cls(masters, int8, len(weights) - 8 - header_bytes)


def score(trainer: TfliteTrainer, weights: F32, devices: Devices, test: Examples) -> Score:
    """Evaluate one set of weights."""
    strangers = trainer.evaluate(weights, test)
    participants = trainer.evaluate(weights, concatenate([held for _, held in devices.values()]))
    return Score(
        strangers.correct / strangers.count,
        strangers.loss_sum / strangers.count,
        participants.correct / participants.count,
        participants.loss_sum / participants.count,
    )


@dataclass(frozen=True)
class Int8:
    """How the newest int8 model does on strangers.

    Attributes:
        answers: the likeliest class of each label, shaped as the labels.
        accuracy: share of labels that it gets right.
        loss: mean cross-entropy per label, nats.
    """

    answers: npt.NDArray[np.int64]
    accuracy: float
    loss: float


def judge_int8(model: bytes, test: Examples) -> Int8:
    """Judge an int8 model whose outputs are logits."""
    logits = InferenceModel(model).predict(test.x).astype(np.float64)
    answers = logits.argmax(axis=-1)
    logits -= logits.max(axis=-1, keepdims=True)
    wanted = np.take_along_axis(logits, test.y[..., None].astype(np.int64), -1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - wanted
    return Int8(answers, float(np.mean(answers == test.y)), float(losses.mean()))


@dataclass(frozen=True)
class Measured:
    """Everything that is computed after the run.

    Attributes:
        scores: of every published version, the initial weights first.
        int8: the newest int8 model on strangers.
        local: curve of local-only training.
        central: curve of training on everyone's data.
        texts: written by the int8 model before and after, where the task is to write.
    """

    scores: Sequence[Score]
    int8: Int8
    local: Curve
    central: Curve
    texts: tuple[str, ...]


def measure(bundle_folder: Path, published: Published, task: Task, data: TaskData, rounds: int, log: Path) -> Measured:
    """Judge every version and train the two baselines, from the bundle's own initial weights.

    Args:
        bundle_folder: of the converted model.
        published: what the run produced.
        task: what was learned, with the baselines' budgets.
        data: the participants' and the strangers' examples.
        rounds: of the baselines.
        log: takes what the runtimes print.
    """
    local, central = (replace(budget, rounds=rounds) for budget in (task.budgets.local_only, task.budgets.centralised))
    everyone, test = dict(data.devices), data.test
    # Fresh processes side by side: a TFLite runtime and fork do not go together.
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_log_to, initargs=(log,)) as pool:
        alone = pool.submit(_local_only, bundle_folder, everyone, test, local)
        together = pool.submit(_centralised, bundle_folder, everyone, test, central)
        judged = pool.submit(_judge, bundle_folder, published, everyone, test)
        texts = pool.submit(_texts, bundle_folder, published.int8, task) if task.exhibit == "text" else None
        scores, int8 = judged.result()
        written = texts.result() if texts else ()
        return Measured(scores, int8, alone.result(), together.result(), written)


def _log_to(log: Path) -> None:
    """Send standard error to a file: the runtimes write to it from below Python."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)


def _judge(folder: Path, published: Published, devices: Devices, test: Examples) -> tuple[list[Score], Int8]:
    _, trainer = _opened(folder)
    scores = [score(trainer, master, devices, test) for master in published.masters]
    return scores, judge_int8(published.int8, test)


def _texts(folder: Path, after: bytes, task: Task) -> tuple[str, ...]:
    (length,) = task.input_shape
    models = (read_bundle(folder).files[INFER_INT8_FILE], after)
    return tuple(
        exhibits.write_text(InferenceModel(model).predict, task.classes, length, exhibits.PROMPT, exhibits.WRITTEN, 1)
        for model in models
    )


def _opened(folder: Path) -> tuple[Bundle, TfliteTrainer]:
    bundle = read_bundle(folder)
    return bundle, TfliteTrainer(bundle)


def _local_only(folder: Path, devices: Devices, test: Examples, budget: Budget) -> Curve:
    bundle, trainer = _opened(folder)
    return train_local_only(trainer, initial_weights(bundle), devices, test, budget, seed=1)


def _centralised(folder: Path, devices: Devices, test: Examples, budget: Budget) -> Curve:
    bundle, trainer = _opened(folder)
    return train_centralised(trainer, initial_weights(bundle), devices, test, budget, seed=1)


@dataclass(frozen=True)
class RoundBytes:
    """Means over the devices that were counted in a round.

    Attributes:
        up: every byte that left, in requests.
        down: every byte that came, in answers, the one-time program files apart.
        overhead_up: ``up`` without the masked vector itself.
        overhead_down: ``down`` without the weights themselves.
    """

    up: float
    down: float
    overhead_up: float
    overhead_down: float


def round_bytes(
    ledgers: Sequence[Any], round_number: int, plan: Plan, layout: Layout, weights_payload_bytes: int
) -> RoundBytes:
    """Return what one round cost its survivors, from their own ledgers; local tensors are in no vector."""
    entries = [
        entry["traffic"]
        for ledger in ledgers
        for entry in ledger["contributions"]
        if entry["round"] == round_number and entry["state"] == "counted"
    ]
    vector_bytes = plan.vector_words(layout.shared.size, layout.statistics.size) * WORD_BYTES
    up = mean(entry["vector_up"] + entry["other_up"] for entry in entries)
    down = mean(entry["weights_down"] + entry["other_down"] for entry in entries)
    return RoundBytes(up, down, up - vector_bytes, down - weights_payload_bytes)


def write_json(path: Path, value: object) -> None:
    """Write JSON for people and programs."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")

"""A task with a history of releases: one that went through every stage, and one that its gate took back.

Versions are signed and promoted as by an operator; what stages find is made up.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save
from sqlalchemy import insert

from cloud_server.api.context import Context
from cloud_server.releases import actions
from cloud_server.releases.gate import Rule
from cloud_server.releases.importing import import_weights
from cloud_server.releases.stages import settle_stage
from cloud_server.releases.state import load_release, under_way
from cloud_server.rounds.releasing import sign_due
from cloud_server.storage.schema import cohort
from cloud_server.tasks import create_task, load_task, prepare_task
from shared.bundle import read_bundle
from shared.numeric.contribution_vector import Evaluation
from shared.numeric.evaluation_vector import ComparedSum, Spread
from shared.plan import Privacy
from shared.wire.signed import SigningKey
from tools.bench.page_scene import DIMENSION, MEMBERS, Size, cohort_row, insert_devices, scene_plan
from tools.bench.quadratic import write_quadratic_bundle

OPERATOR: Final = "operator:ada"
EXAMPLES: Final = 24  # of a device
_HOUR_S: Final = 3600.0
_SPREAD: Final = 0.06  # nats, between devices


@dataclass(frozen=True)
class ReleaseScene:
    """A task whose releases have a past.

    Args:
        parts: of an aggregator.
        key: its release key.
        name: of the task.
    """

    parts: Context
    key: SigningKey
    name: str

    def fill(self, folder: Path, devices: int, now_s: float) -> None:
        """Make the task with four versions, of which 1 was released and 2 taken back; 3 is the newest."""
        write_quadratic_bundle(folder, DIMENSION)
        plan = replace(scene_plan(self.name), privacy=Privacy())
        with self.parts.database.write() as connection:
            create_task(
                connection,
                prepare_task(self.parts.blobs, read_bundle(folder), plan, self.key, now_s - 40 * _HOUR_S),
                now_s - 40 * _HOUR_S,
            )
            insert_devices(connection, plan, Size(devices, 40), now_s - 30 * _HOUR_S, random.Random(self.name))
        self.publish(1.0, now_s - 30 * _HOUR_S)
        self.promote(1, now_s - 29 * _HOUR_S)
        for stage, (before, after) in enumerate(((0.71, 0.52), (0.73, 0.54), (0.72, 0.53))):
            self.settle(before, after, now_s - (28 - stage) * _HOUR_S)
        self.publish(2.0, now_s - 9 * _HOUR_S)
        self.promote(2, now_s - 8 * _HOUR_S)
        self.settle(0.53, 0.54, now_s - 7 * _HOUR_S)
        self.settle(0.52, 0.69, now_s - 6 * _HOUR_S)
        self.publish(3.0, now_s - _HOUR_S)

    def publish(self, value: float, now_s: float) -> None:
        """Make the next version."""
        weights = save({"theta": np.full(DIMENSION, value, np.float32)})
        parts = self.parts
        import_weights(parts.database, parts.blobs, OPERATOR, None, self.name, weights, key=self.key, now_s=now_s)
        self.sign(now_s)

    def promote(self, version: int, now_s: float) -> None:
        """Begin to release a version."""
        with self.parts.database.write() as connection:
            actions.promote(
                connection, OPERATOR, None, self.name, version, Rule(), release_key=self.key.public, now_s=now_s
            )
        self.sign(now_s)

    def settle(self, before: float, after: float, now_s: float) -> None:
        """Let the stage's cohort have found these mean losses, in nats, of the version before and the candidate."""
        with self.parts.database.write() as connection:
            task, state = load_task(connection, self.name), load_release(connection, self.name)
            going = under_way(connection, state)
            if state is None or going is None:
                raise ValueError("no version is being released")
            row = cohort_row(
                task.plan, going.number, going.candidate, going.stage + 1, now_s, MEMBERS, is_open=False, failed=False
            )
            row |= {"id": f"evaluation-{self.name}-{going.number}-{going.stage}", "purpose": "evaluation"}
            connection.execute(insert(cohort).values(row | {"baseline": going.baseline}))
            count, change = MEMBERS * EXAMPLES, after - before
            found = ComparedSum(
                candidate=Evaluation(after * count, 0, count),
                baseline=Evaluation(before * count, 0, count),
                evaluated=MEMBERS,
                survivors=MEMBERS,
                gain=Spread(0.0, 0.0),
                loss_change=Spread(MEMBERS * change, MEMBERS * (change**2 + _SPREAD**2)),
            )
            going = replace(going, cohort=row["id"], attempts=going.attempts + 1)
            settle_stage(connection, state, going, task, found, "loss", members=MEMBERS, now_s=now_s)
        self.sign(now_s)

    def sign(self, now_s: float) -> None:
        """Sign what devices are told, as a driver does."""
        with self.parts.database.read() as connection:
            task = load_task(connection, self.name)
        sign_due(self.parts.database, task, self.key, now_s)
        with self.parts.database.read() as connection:
            self.parts.anchor.extend(connection)

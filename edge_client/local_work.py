"""What an agent computes on this device: training, judging and comparing, on examples that never leave it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from edge_client import contribution
from edge_client.conditions.asked import Conditions
from edge_client.contribution import TrainedUpdate
from edge_client.examples import expect, read_examples
from edge_client.int8_check import count_correct, does_worse
from edge_client.journal import Journal, State
from edge_client.model_store import Installed, ModelStore, patched_twin
from edge_client.participant import Surroundings
from edge_client.personal import Personal, personalise
from edge_client.trainer.protocol import Trainer
from edge_client.trainer.select import make_trainer
from edge_client.waiting_update import WaitingUpdate
from shared.bundle import Bundle
from shared.errors import BrokenState, FedloomError, TryLater
from shared.examples import Examples
from shared.numeric.contribution_vector import Evaluation


class Record(Protocol):
    """Puts a contribution into a state; ``Participant.record``."""

    def __call__(self, entry: int, state: State, *, seconds_training: float = 0.0) -> None:
        """Put it there."""
        ...


class LocalWork:
    """One device's work.

    Args:
        examples: the folder with its data.
        journal: remembers what was found.
        store: keeps what training made of local tensors, and a model of this device's own.
        record: puts contributions into states.
        around: what the agent does not decide itself.
        conditions: asked between batches.
        waiting: keeps what was trained until a cohort takes it.
    """

    def __init__(
        self,
        examples: Path,
        journal: Journal,
        store: ModelStore,
        record: Record,
        around: Surroundings,
        conditions: Conditions,
        waiting: WaitingUpdate,
    ) -> None:
        self._waiting = waiting
        self._examples = examples
        self._journal = journal
        self._store = store
        self._record = record
        self._around = around
        self._conditions = conditions
        self._loaded: tuple[Bundle, Trainer] | None = None
        self._personalised: int | None = None  # the version that this process tried to train further

    def tell_recorders(self, installed: Installed) -> None:
        """Let applications that record examples know what the model takes."""
        manifest = installed.bundle.manifest
        try:
            expect(self._examples, manifest.inputs, manifest.labels)
        except FedloomError as error:
            self._around.log(f"applications that record are not told what the model takes: {error}")

    def _read(self, log: Callable[[str], None] | None = None) -> tuple[Examples, Examples]:
        """Return this device's examples to train on and the held-out ones."""
        return read_examples(self._examples, self._around.clock.now_s(), log, self._conditions.goes_on)

    def judge_int8(self, installed: Installed) -> None:
        """Count what an int8 model gets right on held-out examples, for ``status``."""
        try:
            _, held_out = self._read()
            result = count_correct(installed.int8, installed.bundle.manifest, held_out, self._conditions.goes_on)
        except FedloomError as error:
            self._around.log(f"version {installed.version}: the int8 model was not judged: {error}")
            return
        if result is None:
            return
        correct, count = result
        self._journal.put("int8", json.dumps({"version": installed.version, "correct": correct, "count": count}))
        self._around.log(f"version {installed.version}: int8 model is right on {correct} of {count} held-out examples")

    def trained_before(self, installed: Installed) -> tuple[int, TrainedUpdate] | None:
        """Return the contribution whose update waits for a cohort of this version, and the update."""
        return self._waiting.take(installed, lambda: self._read()[0])

    def train(self, entry: int, round_number: int, installed: Installed) -> TrainedUpdate:
        """Train for a round; the journal then says that it is trained, or that this failed."""
        examples, held_out = self._read(self._around.log)
        seed = int.from_bytes(self._around.random_bytes(8), "big")
        started = perf_counter()
        trainer = self._trainer(installed)
        with self._conditions.training():
            trained = contribution.train(
                trainer, installed.weights, examples, held_out, installed.plan, installed.layout, seed
            )
        seconds = perf_counter() - started
        self._store.keep_local(installed, trained.local)
        if trained.failure is not None:
            self._journal.note_failed_training(entry, trained.failure.code)
        self._waiting.keep(entry, trained, examples, installed)
        self._record(entry, State.TRAINED, seconds_training=seconds)
        if trained.failure is not None:
            self._around.log(f"round {round_number}: this device takes part with zeros: {trained.failure}")
            return trained
        loss = "" if trained.mean_loss is None else f", loss {trained.mean_loss:.4g}"
        self._around.log(f"round {round_number}: trained on {trained.examples} examples in {seconds:.1f} s{loss}")
        return trained

    def personalise(self, installed: Installed) -> None:
        """Train the task's last version further on this device's examples, once; keep it where that is better.

        A failure is remembered and not repeated before the next start: the task is done, and nothing waits for it.
        """
        done = json.loads(self._journal.get("personal") or "{}")
        tried = done.get("version") == installed.version
        settled = tried and ("reason" not in done or self._personalised == installed.version)
        if settled or not installed.plan.personalisation.epochs:
            return
        self._personalised, started = installed.version, perf_counter()
        try:
            entry = self._own_model(installed)
        except (BrokenState, TryLater):
            raise
        except FedloomError as error:
            entry = Personal.none().to_json() | {"kept": False, "reason": error.code}
            self._around.log(f"version {installed.version}: no model of this device's own: {error}")
        entry |= {"version": installed.version, "seconds": round(perf_counter() - started, 3)}
        self._journal.put("personal", json.dumps(entry))

    def _own_model(self, installed: Installed) -> dict[str, Any]:
        examples, held_out = self._read()
        seed = int.from_bytes(self._around.random_bytes(8), "big")
        trainer, manifest = self._trainer(installed), installed.bundle.manifest
        with self._conditions.training():
            found = personalise(trainer, installed.weights, examples, held_out, installed.plan, manifest, seed)
        twin = installed.int8 and patched_twin(installed.int8, manifest, found.weights)
        kept = found.better and not does_worse(twin, installed.int8, manifest, held_out, self._conditions.goes_on)
        if twin and kept:
            self._store.keep_personal(installed, twin)
        self._around.log(
            f"version {installed.version}: trained further on this device's own examples, right on"
            f" {found.after.correct} of {found.after.count} held-out ones ({found.before.correct} before);"
            f" {'kept' if kept else 'not kept'}"
        )
        return found.to_json() | {"kept": kept}

    def _trainer(self, installed: Installed) -> Trainer:
        if self._loaded is None or self._loaded[0] != installed.bundle:
            self._loaded = installed.bundle, make_trainer(installed.bundle, self._conditions.before_batch)
        return self._loaded[1]

    def compare(self, entry: int, candidate: Installed, baseline: Installed) -> tuple[Evaluation, Evaluation]:
        """Return what two versions do on held-out examples; the journal then says that they are compared."""
        _, held_out = self._read()
        started = perf_counter()
        with self._conditions.training():
            found, before = (
                contribution.evaluate(self._trainer(one), one.weights, held_out) for one in (candidate, baseline)
            )
        seconds = perf_counter() - started
        self._record(entry, State.TRAINED, seconds_training=seconds)
        self._around.log(f"version {candidate.version} is compared with {baseline.version} in {seconds:.1f} s")
        return found, before

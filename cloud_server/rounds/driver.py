"""The driver: looks at every active task, asks the state machines, carries out what they say.

It talks to web processes through the database and the upload folder only. A lease keeps a second driver waiting.
Killing it at any point loses nothing: state is saved in transactions, the running sum is rebuilt from the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, update

from cloud_server.aggregation.central_noise import with_central_noise
from cloud_server.aggregation.clip_norm import next_plan
from cloud_server.aggregation.closing import CohortRecord, reveal_comparison, reveal_sum, step_weights
from cloud_server.aggregation.running_sum import RunningSum, VectorsLost
from cloud_server.audit import Anchor
from cloud_server.privacy import charge_frozen, spent_reason
from cloud_server.publishing import Version, make_version
from cloud_server.releases.keys import KeyReplaced
from cloud_server.releases.stages import settle_stage
from cloud_server.releases.state import lock_release
from cloud_server.rounds.eligibility import count_contributions
from cloud_server.rounds.machine import OVER, CohortState, Effect, Phase, Seen, advance
from cloud_server.rounds.pacing import count_arrivals
from cloud_server.rounds.records import (
    StoredCohort,
    current_cohort_id,
    devices_in_order,
    insert_cohort,
    load_cohort,
    roster_from_joins,
    save_state,
    step_bodies,
    with_seed,
    write_roster,
)
from cloud_server.rounds.releasing import (
    end_late,
    form_evaluation,
    plan_of,
    running_evaluation,
    sign_due,
    tasks_to_release,
)
from cloud_server.rounds.retention import (
    Retention,
    forget_cohorts,
    forget_versions,
    remove_unneeded,
    retire_versions,
)
from cloud_server.rounds.rounds import OpenRound, close_round, new_round, open_round, stop_reason
from cloud_server.rounds.sealed import cohorts_with_shares, commitments, forget_shares
from cloud_server.rounds.seen import seen
from cloud_server.rounds.sums import Sums, forget_partial_sum, words_of
from cloud_server.storage.blobs import BlobStore, UploadStore
from cloud_server.storage.database import Database
from cloud_server.storage.failures import failure_of
from cloud_server.storage.leases import LEASE_S, Leases, task_lease
from cloud_server.storage.schema import cohort
from cloud_server.tasks import (
    Task,
    insert_version,
    layout_of,
    load_bundle,
    load_master,
    load_task,
    put_version,
    release_of,
    renew_release,
    task_names,
)
from shared.clock import Clock
from shared.errors import FedloomError, TryLater, UnmaskingFailed
from shared.ids import random_id
from shared.numeric.contribution_vector import AggregateSum
from shared.numeric.evaluation_vector import ComparedSum
from shared.plan import Plan
from shared.secagg.graph_seed import SeedSource
from shared.secagg.recovery import Fates
from shared.wire.messages import read_answer
from shared.wire.signed import SigningKey

HOUSEKEEPING: Final = "housekeeping"  # the lease of what belongs to no task
RENEWAL_CHECK_S: Final = 20.0
TIDYING_S: Final = 3600.0  # every file is looked at
TOLD_S: Final = 30.0  # between lines about what takes long
MAX_ATTEMPTS: Final = 20  # cohorts per round, before the round is given up
log = logging.getLogger("fedloom.driver")


@dataclass(frozen=True)
class _Look:
    """What a step about a task decides by.

    Attributes:
        task: the task.
        opened: its open round, if there is one.
        record: its newest cohort that trains, if there is one.
    """

    task: Task
    opened: OpenRound | None
    record: StoredCohort | None


class Driver:
    """Carries out rounds.

    Args:
        database: of the aggregator.
        blobs: content-addressed files.
        uploads: masked vectors.
        release_key: signs versions.
        authority_key: verifies members' certificates.
        clock: the time.
        random_bytes: the operating system's randomness.
        seed_source: asks the authority for a sparse graph's seed.
        anchor: is told of every entry of the audit log.
        workers: how many processes may recover masks.
        lease_s: how long another driver waits before it takes over what this one did not finish.
        retention: how much of the past is kept.
    """

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        uploads: UploadStore,
        release_key: SigningKey,
        authority_key: bytes,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        seed_source: SeedSource,
        anchor: Anchor,
        workers: int = 1,
        lease_s: float = LEASE_S,
        retention: Retention | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._uploads = uploads
        self._release_key = release_key
        self._authority_key = authority_key
        self._clock = clock
        self._random_bytes = random_bytes
        self._seed_source = seed_source
        self._anchor = anchor
        self._workers = workers
        self._name = random_id("driver", random_bytes)
        self._leases = Leases(database, clock, self._name, lease_s)
        self._retention = retention or Retention()
        self._renewed_s = 0.0
        self._tidied_s = 0.0
        self._told_s = 0.0
        self._cleans_up = False
        self._anchor_due = True
        self._sums = Sums(database, uploads, self._leases)
        self._unmask_failed: dict[str, int] = {}
        self._stuck: dict[str, str] = {}

    def tick(self) -> bool:
        """Do whatever is due now; say whether any cohort moved, so that the caller looks again at once."""
        with self._database.read() as connection:
            active, released = task_names(connection, state="active"), tasks_to_release(connection)
        steps = [(self._advance_release, name) for name in released] + [(self._advance_task, name) for name in active]
        wanted = frozenset(map(task_lease, (*active, *released)))
        held = self._leases.hold(wanted, HOUSEKEEPING)
        if HOUSEKEEPING in held:
            if not self._cleans_up:
                self._clean_up()
            self._renew_releases()
            self._tidy()
        self._cleans_up = HOUSEKEEPING in held
        moved = False
        for step, name in steps:
            if task_lease(name) in self._leases.hold(wanted, HOUSEKEEPING):  # the step before may have taken long
                moved |= self._try_step(step, name)  # every task gets its turn
        self._anchor_due |= moved
        if self._anchor_due:
            with self._database.read() as connection:
                self._anchor.extend(connection)
            self._anchor_due = False
        return moved

    def forget(self) -> None:
        """Drop what is in memory, after a failure of the disk or the database: it is read again."""
        self._sums.clear()
        self._unmask_failed.clear()
        self._leases.forget()
        self._cleans_up = False  # what could not be deleted is still there
        self._anchor_due = True

    def _try_step(self, step: Callable[[str], bool], name: str) -> bool:
        """Advance one task; what is wrong with it, a damaged file for instance, must not stop the others."""
        key = f"{step.__name__} {name}"
        try:
            moved = step(name)
        except KeyReplaced:
            raise  # whoever starts this process again gives it the new key
        except FedloomError as error:
            if self._stuck.get(key) != str(error):
                log.error("task %s cannot go on: %s", name, error)  # noqa: TRY400  # the code says where
            self._stuck[key] = str(error)
            self._sums.clear()  # rebuilt from the files
            return False
        self._stuck.pop(key, None)
        return moved

    def _renew_releases(self) -> None:
        """Sign each task's newest version again before it expires: quiet and finished tasks stay installable."""
        now_s = self._clock.now_s()
        if now_s - self._renewed_s < RENEWAL_CHECK_S:
            return
        self._anchor_due = True  # web processes record things, too
        self._renewed_s = now_s
        self._clean_up()  # an operator may have ended a cohort
        with self._database.write() as connection:
            count_arrivals(connection, now_s)
        with self._database.read() as connection:
            names = task_names(connection)
        for name in names:
            try:
                with self._database.write() as connection:
                    renew_release(connection, load_task(connection, name), self._release_key, now_s)
            except KeyReplaced:
                raise
            except FedloomError as error:
                log.error("task %s: its release cannot be renewed: %s", name, error)  # noqa: TRY400  # as in _try_step

    def _tidy(self) -> None:
        """Let go of the past, now and then."""
        now_s = self._clock.now_s()
        if now_s - self._tidied_s < TIDYING_S:
            return
        self._tidied_s = self._told_s = now_s
        retire_versions(self._database, self._retention)
        cohorts = forget_cohorts(self._database, self._retention, now_s, self._tell)
        forget_versions(self._database)
        try:
            files = remove_unneeded(self._database, self._blobs, now_s, self._tell)
        except OSError as error:
            log.warning("old files stay for now: %s", failure_of(error))  # rounds must not wait for it
            return
        if cohorts or files:
            log.info("what %d old cohorts had sent and %d old files are deleted", cohorts, files)

    def _tell(self, what: str, done: int, total: int | None = None) -> None:  # noqa: ARG002  # as every report
        """Say now and then how far the letting go is, which takes long where much is left."""
        now_s = self._clock.now_s()
        if now_s - self._told_s >= TOLD_S:
            self._told_s = now_s
            log.info("letting go of the past: %s: %d", what, done)

    def _clean_up(self) -> None:
        """Delete what a driver left that was killed before it cleaned up."""
        with self._database.read() as connection:
            phases = [phase.value for phase in OVER]
            left = {*self._uploads.cohorts(), *cohorts_with_shares(connection)}
            query = select(cohort.c.id).where(cohort.c.id.in_(left), cohort.c.phase.in_(phases))
            over = list(connection.execute(query).scalars())
        for cohort_id in over:
            self._forget(cohort_id)

    def _advance_task(self, name: str) -> bool:
        with self._database.read() as connection:
            task = load_task(connection, name)
            opened = open_round(connection, name)
            cohort_id = current_cohort_id(connection, name)
            record = load_cohort(connection, cohort_id) if cohort_id else None
        look = _Look(task, opened, record)
        if opened is None:
            return self._open_round(look)
        if record is not None and record.round_number == opened.number and _gradients_are_spent(task, record):
            return self._publish_again(look, record)
        if record is None or record.round_number != opened.number or record.state.phase is Phase.FAILED:
            attempt = record.attempt + 1 if record is not None and record.round_number == opened.number else 1
            return self._form_cohort(look, opened, attempt)
        now_s = self._clock.now_s()
        if record.state.phase is Phase.FORMING and now_s - opened.opened_s > task.plan.deadlines.round_s:
            return self._abandon(look, "nobody came: the round's deadline passed")
        try:
            return self._advance_cohort(task, record)
        except VectorsLost as error:
            return self._lost(record, error)

    def _advance_release(self, name: str) -> bool:
        """Do what is due about what devices use, of an active task or one that is done."""
        now_s = self._clock.now_s()
        with self._database.read() as connection:
            task, found = load_task(connection, name), running_evaluation(connection, name)
            plan = plan_of(connection, name, found[0].candidate) if found else task.plan
        if sign_due(self._database, task, self._release_key, now_s):
            return True
        if found is None:
            return False
        promotion, record = found
        if end_late(self._database, promotion, record, plan.deadlines.round_s, now_s):
            return True
        if record is None or record.state.phase is Phase.FAILED:
            new_id = partial(random_id, "cohort", self._random_bytes)
            return form_evaluation(self._database, replace(task, plan=plan), promotion, record, new_id, now_s)
        try:
            return self._advance_cohort(replace(task, plan=plan), record)
        except VectorsLost as error:
            return self._lost(record, error)

    def _stands(self, connection: Connection, look: _Look) -> bool:
        """Say whether what a step decided by is still so, and stays so until the transaction ends.

        Who slept longer than its lease finds that another driver went on; an operator may have stopped the task, or
        imported a version.
        """
        name, before = look.task.name, look.record
        if not self._leases.is_mine(connection, task_lease(name)):
            return False
        lock_release(connection, name, None)
        if load_task(connection, name).state != look.task.state or open_round(connection, name) != look.opened:
            return False
        if before is None:
            return current_cohort_id(connection, name) is None
        same = current_cohort_id(connection, name) == before.id
        return same and load_cohort(connection, before.id, lock=True).state == before.state

    def _refused_by_budget(self, look: _Look) -> bool:
        """Finish a task of which one more cohort would reveal too much."""
        task = look.task
        if task.plan.privacy.mechanism == "none":
            return False
        now_s = self._clock.now_s()
        with self._database.read() as connection:  # which takes long the first time, and nobody waits for it
            reason = spent_reason(connection, task.plan, layout_of(self._blobs, task))
        if not reason:
            return False
        with self._database.write() as connection:
            if not self._stands(connection, look):
                return False
            close_round(connection, task, None, now_s, reason=reason, stopped=reason)
        log.warning("task %s: done, %s", task.name, reason)
        return True

    def _open_round(self, look: _Look) -> bool:
        if self._refused_by_budget(look):
            return True
        with self._database.write() as connection:
            if not self._stands(connection, look):
                return False
            number = new_round(connection, look.task, self._clock.now_s())
        log.info("task %s: round %d opened", look.task.name, number)
        return True

    def _abandon(self, look: _Look, reason: str) -> bool:
        now_s, record = self._clock.now_s(), look.record
        with self._database.write() as connection:
            if not self._stands(connection, look):
                return False
            if record is not None and record.state.phase not in OVER:
                failed = replace(record.state, phase=Phase.FAILED, since_s=now_s, failure=f"round-abandoned: {reason}")
                save_state(connection, record.id, failed)
            close_round(connection, look.task, None, now_s, reason=reason)
        log.warning("task %s: round abandoned, %s", look.task.name, reason)
        return True

    def _publish_again(self, look: _Look, record: StoredCohort) -> bool:
        """Give up the round and publish its weights under the next number, so that devices may contribute again."""
        task, now_s = look.task, self._clock.now_s()
        with self._database.read() as connection:
            master = load_master(connection, self._blobs, task.name, record.base_version)
        made = self._next_version(task, record, master, task.plan, now_s)
        master_sha256 = self._put(task, made, master)
        with self._database.write() as connection:
            if not self._stands(connection, look):
                return False
            insert_version(connection, task.name, made, master_sha256, now_s)
            close_round(connection, task, None, now_s, reason=record.state.failure)
        log.warning("task %s: round %d abandoned, %s", task.name, record.round_number, record.state.failure)
        return True

    def _next_version(
        self, task: Task, record: StoredCohort, weights: npt.NDArray[np.float32], plan: Plan, now_s: float
    ) -> Version:
        """Return ``weights``, f32[d], as the version after the one that the cohort trained from."""
        manifest, bundle = load_bundle(self._blobs, task)
        return make_version(
            record.base_version + 1,
            weights,
            plan=plan,
            manifest=manifest,
            bundle=bundle,
            key=self._release_key,
            now_s=now_s,
        )

    def _put(self, task: Task, made: Version, weights: npt.NDArray[np.float32]) -> str:
        """Store a version's files, with no transaction open, and return the hash of the master weights, f32[d]."""
        with self._database.read() as connection:
            before, _ = release_of(connection, task.name, made.number - 1)
        return put_version(self._blobs, made, weights, before)

    def _form_cohort(self, look: _Look, opened: OpenRound, attempt: int) -> bool:
        if attempt > MAX_ATTEMPTS:
            return self._abandon(look, f"{MAX_ATTEMPTS} cohorts failed")
        if self._refused_by_budget(look):
            return True
        now_s = self._clock.now_s()
        with self._database.write() as connection:
            if not self._stands(connection, look):
                return False
            insert_cohort(
                connection,
                cohort_id=random_id("cohort", self._random_bytes),
                task_name=look.task.name,
                round_number=opened.number,
                attempt=attempt,
                base_version=opened.base_version,
                now_s=now_s,
            )
        return True

    def _advance_cohort(self, task: Task, record: StoredCohort) -> bool:
        if record.state.phase is Phase.COLLECTING:
            self._add_arrived(task, record)
        # Most looks find nothing to do; they must not take the lock that uploads wait for.
        with self._database.read() as connection:
            seen = self._seen(connection, record)
        state, effect = advance(record.state, seen, task.plan.rules, task.plan.deadlines)
        if state == record.state:
            return False
        if effect is Effect.UNMASK:
            return self._unmask(task, record, seen)
        if effect is Effect.DRAW_SEED:
            return self._draw_seed(record, state)
        with self._database.write() as connection:
            looked_at, record = record, load_cohort(connection, record.id, lock=True)
            if record.state != looked_at.state:
                return True  # another driver took over meanwhile
            seen = self._seen(connection, record)
            state, effect = advance(record.state, seen, task.plan.rules, task.plan.deadlines)
            if state == record.state or effect in {Effect.UNMASK, Effect.DRAW_SEED}:
                return True  # what arrived meanwhile changed it; these two are begun outside this transaction
            state = self._save(connection, task, record, state, effect)
        return self._entered(record, state)

    def _entered(self, record: StoredCohort, state: CohortState) -> bool:
        """Say which state a cohort got into, and forget one that is over; always True, for something was done."""
        of = "round" if record.purpose == "training" else "evaluation for promotion"
        log.info("cohort %s (%s %d): %s %s", record.id, of, record.round_number, state.phase.value, state.failure)
        if state.phase in OVER:
            self._forget(record.id)
        return True

    def _draw_seed(self, record: StoredCohort, state: CohortState) -> bool:
        """Ask the authority, with no transaction open; while it does not answer, the cohort waits for its deadline."""
        body = record.roster_body
        try:
            with self._database.read() as connection:
                roster = roster_from_joins(connection, record, self._authority_key, self._clock.now_s())
            drawn = self._seed_source(record.id, roster.root)
            body = write_roster(with_seed(roster, drawn, self._authority_key))
        except TryLater as error:
            if self._stuck.get(record.id) != error.code:
                log.warning("cohort %s waits: %s", record.id, error)
            self._stuck[record.id] = error.code
            return False
        except FedloomError as error:
            state = replace(state, phase=Phase.FAILED, failure=f"{error.code}: {error.message}")
        with self._database.write() as connection:
            if load_cohort(connection, record.id, lock=True).state != record.state:
                return True  # another driver took over meanwhile
            connection.execute(update(cohort).where(cohort.c.id == record.id).values(roster=body))
            save_state(connection, record.id, state)
        return self._entered(record, state)

    def _save(
        self, connection: Connection, task: Task, record: StoredCohort, state: CohortState, effect: Effect
    ) -> CohortState:
        if effect is Effect.FIX_ROSTER:
            try:
                roster = roster_from_joins(connection, record, self._authority_key, self._clock.now_s())
            except FedloomError as error:
                state = replace(record.state, phase=Phase.FAILED, failure=f"{error.code}: {error.message}")
            else:
                body = write_roster(roster)
                connection.execute(update(cohort).where(cohort.c.id == record.id).values(roster=body))
        if effect is Effect.FREEZE_SURVIVORS:
            layout, frozen = layout_of(self._blobs, task), len(state.survivors)
            charge_frozen(connection, record.id, task.plan, layout, state.members, frozen, state.since_s)
        save_state(connection, record.id, state)
        return state

    def _seen(self, connection: Connection, record: StoredCohort) -> Seen:
        failed = self._unmask_failed.get(record.id, 0)
        return seen(connection, record, self._authority_key, self._clock.now_s(), failed)

    def _add_arrived(self, task: Task, record: StoredCohort, only: frozenset[int] | None = None) -> RunningSum:
        """Add every stored vector that is not in the running sum yet, or those of ``only``."""
        return self._sums.add_arrived(record, partial(words_of, self._blobs, task, record), only)

    def _lost(self, record: StoredCohort, error: VectorsLost) -> bool:
        """End a cohort whose vectors are no longer there: its members contribute anew to the next one."""
        failed = replace(
            record.state, phase=Phase.FAILED, since_s=self._clock.now_s(), failure=f"{error.code}: {error.message}"
        )
        with self._database.write() as connection:
            # Who lost the lease may miss vectors that another driver has added up and deleted.
            mine = self._leases.is_mine(connection, task_lease(record.task))
            if not mine or load_cohort(connection, record.id, lock=True).state != record.state:
                self._sums.forget(record.id)
                return False
            save_state(connection, record.id, failed)
        log.error("cohort %s: %s", record.id, error)
        return self._entered(record, failed)

    def _unmask(self, task: Task, record: StoredCohort, seen: Seen) -> bool:
        running = self._add_arrived(task, record, only=record.state.survivors)
        if running.added != record.state.survivors:
            raise FedloomError("sum-mismatch", "The running sum does not hold exactly the survivors.")
        workers, blame = self._workers, partial(_warn_of_wrong_shares, record.id)
        try:
            if record.purpose == "evaluation":
                found = reveal_comparison(
                    running.total, self._messages(record), task.plan, workers=workers, blame=blame
                )
                return self._settle(task, record, found)
            layout = layout_of(self._blobs, task)
            aggregate = reveal_sum(
                running.total, self._messages(record), task.plan, layout, workers=workers, blame=blame
            )
        except UnmaskingFailed as error:
            return self._unmasking_failed(record, seen, error)
        return self._publish(task, record, aggregate)

    def _settle(self, task: Task, record: StoredCohort, found: ComparedSum) -> bool:
        """End an evaluating cohort with what its stage's devices found, and do what follows for the release."""
        metric, now_s = load_bundle(self._blobs, task)[0].metric, self._clock.now_s()
        with self._database.write() as connection:
            state = lock_release(connection, task.name, None)
            running = running_evaluation(connection, task.name)
            current = load_cohort(connection, record.id, lock=True).state
            if state is None or running is None or running[0].cohort != record.id or current != record.state:
                return True  # another driver, or an operator, was quicker
            self._count(connection, record, now_s)
            save_state(connection, record.id, replace(record.state, phase=Phase.SUMMED, since_s=now_s))
            members = record.state.members
            verdict = settle_stage(connection, state, running[0], task, found, metric, members=members, now_s=now_s)
        stage, word = running[0].stage + 1, "passed" if verdict.passed else "failed"
        log.info("task %s: version %d %s stage %d: %s", task.name, record.base_version, word, stage, verdict.reason)
        self._forget(record.id)
        return True

    def _publish(self, task: Task, record: StoredCohort, aggregate: AggregateSum) -> bool:
        """Make the next version of a cohort's sum, and close the round."""
        layout = layout_of(self._blobs, task)
        aggregate = with_central_noise(aggregate, task.plan, record.state.members, self._random_bytes)
        with self._database.read() as connection:
            master = load_master(connection, self._blobs, task.name, record.base_version)
        now_s = self._clock.now_s()
        weights = step_weights(master, aggregate, task.plan, layout)
        made = self._next_version(task, record, weights, next_plan(task.plan, aggregate), now_s)
        master_sha256 = self._put(task, made, weights)
        with self._database.write() as connection:
            lock_release(connection, task.name, None)  # as an import does, which is quicker or waits
            if load_cohort(connection, record.id, lock=True).state != record.state:
                return True  # another driver took over meanwhile
            self._count(connection, record, now_s)
            insert_version(connection, task.name, made, master_sha256, now_s)
            save_state(connection, record.id, replace(record.state, phase=Phase.SUMMED, since_s=now_s))
            stopped = self._close(connection, task, record, aggregate, now_s)
        log.info(
            "task %s: round %d closed with %d of %d devices, version %d%s",
            task.name,
            record.round_number,
            aggregate.survivors,
            record.state.members,
            made.number,
            f"; done: {stopped}" if stopped else "",
        )
        self._forget(record.id)
        return True

    def _close(
        self, connection: Connection, task: Task, record: StoredCohort, aggregate: AggregateSum, now_s: float
    ) -> str:
        stopped = stop_reason(connection, task, aggregate.evaluation, now_s)
        close_round(connection, task, aggregate, now_s, members=record.state.members, stopped=stopped)
        return stopped

    def _count(self, connection: Connection, record: StoredCohort, now_s: float) -> None:
        devices = devices_in_order(record.roster_body or b"")
        count_contributions(connection, [devices[index] for index in record.state.survivors], now_s)

    def _messages(self, record: StoredCohort) -> CohortRecord:
        roster = record.roster(self._authority_key)
        index_of = {member.device: index for index, member in enumerate(roster.members)}
        with self._database.read() as connection:
            committed = commitments(connection, record.id)
            answers = step_bodies(connection, record.id, "answer")
        return CohortRecord(
            roster,
            Fates(record.state.sharers, record.state.survivors),
            committed,
            {index_of[device]: read_answer(body) for device, body in answers.items()},
        )

    def _unmasking_failed(self, record: StoredCohort, seen: Seen, error: UnmaskingFailed) -> bool:
        log.warning("cohort %s: %s", record.id, error)
        if error.code in {"bad-shares", "too-few-shares"} and seen.answered < record.state.survivors:
            # More answers may come and outvote the wrong ones.
            self._unmask_failed[record.id] = len(seen.answered)
            return False
        failed = replace(
            record.state,
            phase=Phase.FAILED,
            since_s=self._clock.now_s(),
            failure=f"{error.code}: {error.message}",
        )
        with self._database.write() as connection:
            if load_cohort(connection, record.id, lock=True).state != record.state:
                return True  # another driver took over meanwhile
            save_state(connection, record.id, failed)
        self._forget(record.id)
        return True

    def _forget(self, cohort_id: str) -> None:
        self._sums.forget(cohort_id)
        self._unmask_failed.pop(cohort_id, None)
        self._stuck.pop(cohort_id, None)
        self._uploads.remove(cohort_id)
        with self._database.write() as connection:
            forget_shares(connection, cohort_id)
            forget_partial_sum(connection, cohort_id)


def _warn_of_wrong_shares(cohort_id: str, holder: str, owners: Sequence[str]) -> None:
    log.warning(
        "cohort %s: wrong shares were worked around: holder %s sent them, or owner %s dealt them; nothing tells which",
        cohort_id,
        holder,
        ", ".join(owners),
    )


def _gradients_are_spent(task: Task, record: StoredCohort) -> bool:
    """Say whether a cohort failed after full-batch gradients may have left: devices send one per version only."""
    failed = record.state.phase is Phase.FAILED
    return failed and task.plan.training.method == "fedsgd" and bool(record.state.sharers)

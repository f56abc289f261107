"""The agent's loop: ask what to do, install what is new, contribute, and remember each step.

    with open_agent(StateFolder(path), log=print) as agent:
        agent.once()   one contribution, or a named error
        agent.turn()   what is to do now, see ``turns.py``

The clock, randomness and what happens after each step are parameters of ``open_agent``.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from edge_client import contribution
from edge_client.cohort_client import CohortClient
from edge_client.conditions.asked import Conditions, Unconditional
from edge_client.contribution import TrainedUpdate
from edge_client.crash_loop import CrashLoop
from edge_client.following import Follower
from edge_client.identity import Enrolment, Identity, load_enrolment, load_identity, save_enrolment, use_next_key
from edge_client.journal import TERMINAL, Contribution, Journal, State
from edge_client.local_work import LocalWork
from edge_client.memory import total_memory_mib
from edge_client.model_store import Installed, ModelStore
from edge_client.participant import Charge, Errand, OnState, Participant, Surroundings
from edge_client.problems import NotNow, VersionClosed
from edge_client.renewal import Renewal, is_due, signer_of
from edge_client.sealed_files import SealedFiles
from edge_client.state_folder import StateFolder
from edge_client.transport import Transport, pinned_pool
from edge_client.waiting_update import WaitingUpdate
from edge_client.waits import WAITS_FOR
from shared.clock import Clock, SystemClock
from shared.errors import BrokenState, FedloomError, Missing, ProtocolAbort, Refused, TryLater, Unauthenticated
from shared.ids import random_id
from shared.numeric.contribution_vector import Evaluation
from shared.privacy.charges import loss_of
from shared.secagg.masking import WORD_BYTES
from shared.secagg.roster import compared_hash
from shared.secagg.session import DeviceSession
from shared.wire.messages import Assignment, CheckIn, Rendezvous
from shared.wire.requests import CHECK_IN
from shared.wire.signed import Certificate

SHORTEST_WAIT_S = 0.05
LONGEST_WAIT_S = 60.0
COHORT_BYTES = 256 * 1024  # that a small cohort moves besides the vector
RENEWAL_PAUSE_S = 3600.0  # before a renewal of the key that failed is tried again


# Refusals that hold for the task's later rounds too; a clip norm may fall below the owner's again.
_FOR_GOOD = frozenset(
    {
        "floor-adversary",
        "floor-cohort-size",
        "floor-corrupt-share",
        "floor-epsilon",
        "floor-noise",
        "floor-participations",
        "privacy-budget-spent",
    }
)


# Refusals of a renewal after which this device's key is nothing to go on with.
_IDENTITY_OVER = frozenset({"device-revoked", "identity-quarantined", "key-superseded"})


def ignore_state(_state: str, _round: int) -> None:
    """Do nothing after a step."""


class Agent:
    """One enrolled device at work; made by ``open_agent``."""

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        transport: Transport,
        store: ModelStore,
        renewal: Renewal,
        around: Surroundings,
        conditions: Conditions,
        files: SealedFiles,
        crash_loop: CrashLoop,
    ) -> None:
        self._crash_loop = crash_loop
        self._participant = Participant(identity, journal, transport, around, conditions.before_joining, files)
        self._use(identity)
        self._renewal = renewal
        self._renew_after_s = 0.0  # a renewal failed
        self._shown = False  # whether this process has shown its certificate to a server that did not know the key
        self._journal = journal
        self._transport = transport
        self._store = store
        self._around = around
        self._conditions = conditions
        record = self._participant.record
        self._waiting = WaitingUpdate(files, self._enrolment, journal, record, around, conditions)
        examples = self._enrolment.examples
        self._work = LocalWork(examples, journal, store, record, around, conditions, self._waiting)
        self._follower = Follower(self._enrolment, journal, store, transport, around.clock, around.log)
        self._evaluated: int | None = None
        self._failures = 0  # since something last worked
        self._ruled_out: ProtocolAbort | None = None  # why no round of this task can have this device any more
        self._finished = False
        self._given_up = -1  # the round in which this device failed for a reason of its own
        self._declined_evaluation = 0  # the promotion for which it did

    def once(self) -> Contribution | None:
        """Contribute once, and return what became of it; None when the task is done.

        Raises:
            TryLater: ``no-round-open``, or what the network or the cohort did.
            FedloomError: what is wrong with the data, the model or the protocol.
        """
        self._waiting.tidy()
        self._conditions.require()
        assignment = self._check_in_between_rounds()
        try:
            return self._once(assignment)
        except FedloomError:
            if assignment.round_number in {self._given_up, self._declined_evaluation}:
                with suppress(FedloomError):  # so that its place goes to another device
                    self._check_in()
            raise

    def _once(self, assignment: Assignment) -> Contribution | None:
        installed = self._install_for(assignment)
        if assignment.action == "done":
            self._personalise(installed)
            return None
        if assignment.action == "wait":
            raise TryLater("no-round-open", f"Not now: {WAITS_FOR[assignment.reason]}.", "run it again later")
        if assignment.action == "evaluate":
            return self._evaluate(assignment.round_number, assignment.version)
        return self._contribute(assignment.round_number, installed)

    @property
    def task(self) -> str:
        """The task that it works on."""
        return self._enrolment.task

    @property
    def finished(self) -> bool:
        """Whether the task is done and its last version installed."""
        return self._finished

    @property
    def ruled_out(self) -> ProtocolAbort | None:
        """Why no later round of the task can have this device: budget or plan."""
        return self._ruled_out

    def turn(self) -> float:
        """Ask once what to do, do it, and return how many seconds to wait before the next turn.

        Errors are logged and remembered for ``status``; the next round is tried all the same.

        Raises:
            Refused: if the server does not accept this device (any more).
            BrokenState: if this device's own state is damaged.
        """
        self._finished = False
        self._waiting.tidy()
        if (hold_s := self._conditions.hold_s()) is not None:
            return max(SHORTEST_WAIT_S, hold_s)
        if (hold_s := self._crash_loop.hold_s()) is not None:
            return min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, hold_s))
        try:
            assignment = self._check_in_between_rounds()
        except TryLater as error:
            return self._failed(error)
        pause_s = self._act(assignment)
        self._finished = assignment.action == "done" and not self._failures
        return max(SHORTEST_WAIT_S, pause_s)

    def _act(self, assignment: Assignment) -> float:
        """Do what the server asked for, and return how many seconds to wait before asking again."""
        try:
            installed = self._install_for(assignment)
            if assignment.action == "evaluate":
                self._remember(assignment)
                self._evaluate(assignment.round_number, assignment.version)
                assignment = replace(assignment, retry_after_ms=0)
            elif assignment.action == "train" and assignment.round_number != self._given_up:
                self._remember(assignment)
                self._contribute(assignment.round_number, installed)
                assignment = replace(assignment, retry_after_ms=0)
            elif assignment.action == "train":  # it failed in this round; the next one may be better
                return self._pause_s()
            else:
                self._remember(assignment)
                if assignment.action == "done":
                    self._personalise(installed)
        except BrokenState:
            raise
        except FedloomError as error:
            return self._failed(error)
        self._failures = 0
        return assignment.retry_after_ms / 1000

    def _failed(self, error: FedloomError) -> float:
        """Remember an error, and return how many seconds to wait."""
        self._around.log(str(error))
        if isinstance(error, NotNow):  # the next turn begins with asking for how long
            return SHORTEST_WAIT_S
        self._journal.put("note", json.dumps({"error": error.to_json()}))
        return self._pause_s()

    def _pause_s(self) -> float:
        """Count one more time without success, and return how many seconds to wait after so many."""
        self._failures += 1
        longest = min(LONGEST_WAIT_S, 0.25 * 2.0 ** min(self._failures, 10))
        return longest * (0.5 + 0.5 * self._around.jitter())

    def renew_key(self, renew_key_days: int | None = None) -> Certificate:
        """Renew this device's key now, or end a renewal that was begun, and return the new certificate.

        Args:
            renew_key_days: how old the key may become from now on, None for as before.

        Raises:
            FedloomError: why not; the key in use stays as it is, unless the aggregator has taken the next one already.
        """
        if renew_key_days is not None:
            self._keep(replace(self._enrolment, renew_key_days=renew_key_days))
        if self._enrolment.next_certificate is None:
            # With a key that counts no more there is nothing to renew, and the operator is told by this.
            self._renewal.show(self._identity, self._identity)
            self._use(self._renewal.certify(self._identity))
        self._take_next_key()
        return self._enrolment.certificate

    def _check_in_between_rounds(self) -> Assignment:
        """Ask what to do; before that, or after, is the time to renew the key: no contribution is in hand."""
        if self._enrolment.next_certificate is not None and not self._renewal_waits():
            try:
                self._take_next_key()
            except Missing as error:  # of a server that cannot take it, so that the key before still counts
                self._put_off_renewal(error)
        assignment = self._check_in()
        self._waiting.follow(assignment)
        self._renew_key_if_due()
        return assignment

    def _renew_key_if_due(self) -> None:
        now_s = self._around.clock.now_s()
        if self._renewal_waits():
            return
        try:
            if self._enrolment.key_since_s is None:  # of a device that enrolled before: from when it is first asked
                self._keep(replace(self._enrolment, key_since_s=now_s))
            if self._identity.next_key is None and not is_due(self._enrolment, now_s):
                return
            self._use(self._renewal.certify(self._identity))
        except BrokenState:
            raise
        except FedloomError as error:
            if error.code in _IDENTITY_OVER:
                raise
            self._put_off_renewal(error)
            return
        try:
            self._take_next_key()
        except Missing as error:
            self._put_off_renewal(error)

    def _take_next_key(self) -> None:
        self._use(self._renewal.finish(self._identity))
        self._around.log(f"this device's key was renewed; it is number {self._enrolment.certificate.serial + 1}")

    def _renewal_waits(self) -> bool:
        return 0 < self._renew_after_s - self._around.clock.now_s() <= RENEWAL_PAUSE_S

    def _put_off_renewal(self, error: FedloomError) -> None:
        self._renew_after_s = self._around.clock.now_s() + RENEWAL_PAUSE_S
        self._around.log(f"this device's key was not renewed, which is tried again in an hour: {error}")

    def _use(self, identity: Identity) -> None:
        self._identity, self._enrolment = identity, identity.enrolment
        self._participant.use(identity)

    def _keep(self, enrolment: Enrolment) -> None:
        save_enrolment(self._renewal.folder, enrolment)
        self._use(replace(self._identity, enrolment=enrolment))

    def _check_in(self) -> Assignment:
        version = self._store.version_in_use
        used, declined = -1 if version is None else version, max(0, self._given_up)
        body = CheckIn(used, self._around.memory_mib, declined, self._declined_evaluation).to_bytes()
        try:
            return Assignment.from_bytes(self._transport.send("POST", CHECK_IN, body).body)
        except Unauthenticated as error:
            if self._shown or error.code != "bad-signature" or not self._enrolment.certificate.serial:
                raise
            self._shown = True  # an aggregator that was restored from a backup may know a key of before
            self._renewal.show(self._identity, self._identity)
        return Assignment.from_bytes(self._transport.send("POST", CHECK_IN, body).body)

    def _install_for(self, assignment: Assignment) -> Installed:
        with self._crash_loop.at("install", assignment.version, assignment.decision):
            return self._install_now(assignment)

    def _install_now(self, assignment: Assignment) -> Installed:
        try:
            self._follower.trust(assignment.release_key)
            used = self._follower.use(assignment.decision)
            if used is None:
                return self._install(assignment.version)
            self._judge_when_new(used, "in use")
            return self._store.install(assignment.version) if assignment.action == "train" else used
        except ProtocolAbort as error:
            if assignment.action == "train":
                self._refuse(assignment.round_number, assignment.version, error)
            elif assignment.action == "done" and error.code in _FOR_GOOD:
                self._ruled_out = error
            raise

    def _refuse(self, round_number: int, version: int, error: ProtocolAbort) -> None:
        """Let the ledger say that this device takes no part in a round, once, and why."""
        self._given_up = round_number
        if error.code in _FOR_GOOD:
            self._ruled_out = error
        self._waiting.refuse(error.code)
        last = self._journal.contributions()[-1:]
        if [(row.round_number, row.reason) for row in last] != [(round_number, error.code)]:
            entry = self._journal.begin(round_number, version, self._around.clock.now_s())
            self._participant.record(entry, State.REFUSED, reason=error.code)

    def _personalise(self, installed: Installed) -> None:
        with self._crash_loop.at("personalise", installed.version):
            self._work.personalise(installed)

    def _install(self, version: int) -> Installed:
        """Return the release of ``version``, judged on this device's held-out examples when it is new."""
        installed = self._store.install(version)
        self._judge_when_new(installed, "installed")
        return installed

    def _judge_when_new(self, installed: Installed, word: str) -> None:
        if self._evaluated != installed.version:
            self._evaluated = installed.version
            self._around.log(f"version {installed.version}: {word}")
            self._work.tell_recorders(installed)
            self._work.judge_int8(installed)

    def _contribute(self, round_number: int, installed: Installed) -> Contribution:
        """Train, unless what was trained before waits for a cohort, and take part; the journal says how it ended.

        Raises:
            Refused: ``already-contributed``. The same gradient masked in two sums of one version would be their
                difference where the other members are the same.
        """
        if installed.plan.training.method == "fedsgd" and self._journal.vector_left(installed.version):
            self._given_up = round_number
            raise Refused(
                "already-contributed",
                f"A masked gradient at version {installed.version} has left this device; a second one could reveal it.",
                "wait for the next version",
            )
        self._require_budget(round_number, installed)
        if (before := self._work.trained_before(installed)) is None:
            entry, trained = self._journal.begin(round_number, installed.version, self._around.clock.now_s()), None
            self._around.on_state(State.TRAINING, round_number)
        else:
            entry, trained = before
            self._waiting.resume(entry, round_number)
        try:
            self._conditions.require_transfer(_vector_bytes(installed) + COHORT_BYTES)
            if trained is None:
                trained = self._work.train(entry, round_number, installed)
            self._take_part(entry, round_number, installed, trained)
        except FedloomError as error:
            self._put_aside(entry, error)
            if not isinstance(error, TryLater):
                self._given_up = round_number
            self._crash_loop.contributed()
            raise
        self._crash_loop.contributed()
        return self._journal.contribution(entry)

    def _put_aside(self, entry: int, error: FedloomError) -> None:
        """Write down why a contribution did not come to its end; what was sealed waits where a later cohort may be."""
        self._waiting.tidy()
        if self._journal.contribution(entry).state in TERMINAL:
            return
        if isinstance(error, TryLater) and not isinstance(error, VersionClosed) and self._waiting.waits(entry):
            self._participant.record(entry, State.TRAINED, reason=error.code)
            return
        refused = isinstance(error, ProtocolAbort | Unauthenticated)
        self._participant.record(entry, State.REFUSED if refused else State.ABANDONED, reason=error.code)
        self._waiting.tidy()

    def _require_budget(self, round_number: int, installed: Installed) -> None:
        """Refuse to train for a cohort that this device could not join: it would be missed there.

        Raises:
            ProtocolAbort: see ``PrivacyFloors.check_next``.
        """
        plan, layout = installed.plan, installed.layout
        likely = plan.encoding(plan.cohort.largest, layout.shared.size, layout.statistics.size)
        floors = self._enrolment.privacy_floors
        try:
            floors.check_next(plan, self._journal.spent(), loss_of(plan, likely))
        except ProtocolAbort as error:
            self._refuse(round_number, installed.version, error)
            raise

    def _take_part(self, entry: int, round_number: int, installed: Installed, trained: TrainedUpdate) -> None:
        plan, clock, random_bytes = installed.plan, self._around.clock, self._around.random_bytes

        def bring(session: DeviceSession, cohort: CohortClient, charge: Charge) -> bool:
            return contribution.take_part(
                trained,
                session,
                cohort,
                plan,
                now_s=clock.now_s(),
                random_bytes=random_bytes,
                charge=lambda encoding: charge(loss_of(plan, encoding)),
            )

        asked = Rendezvous(installed.version)
        errand = Errand(f"round {round_number}", asked, installed, installed.model_sha256, bring)
        self._participant.take_part(entry, errand)

    def _evaluate(self, promotion: int, version: int) -> Contribution:
        """Compare a candidate with what is released, on held-out examples, and take part in a sum of what was found.

        Raises:
            FedloomError: what is wrong; this device then takes no part in evaluations of the promotion.
        """
        try:
            versions = self._follower.compared(version)
            if self._journal.evaluation_left(version):
                raise Refused(
                    "already-evaluated",
                    f"Masked counts of version {version} have left this device; in a second sum they could be told"
                    " apart.",
                )
            candidate, baseline = (self._store.load(number) for number in versions)
            self._enrolment.privacy_floors.check_next(candidate.plan, self._journal.spent(), ())
        except FedloomError as error:
            if not isinstance(error, TryLater):
                self._declined_evaluation = promotion
            raise
        entry = self._journal.begin(promotion, version, self._around.clock.now_s(), baseline.version)
        self._around.on_state(State.TRAINING, promotion)
        try:
            both = self._work.compare(entry, candidate, baseline)
            self._participant.take_part(entry, self._evaluation(candidate, baseline, both))
        except FedloomError as error:
            refused = isinstance(error, ProtocolAbort | Unauthenticated)
            self._participant.record(entry, State.REFUSED if refused else State.ABANDONED, reason=error.code)
            if not isinstance(error, TryLater):
                self._declined_evaluation = promotion
            self._crash_loop.contributed()
            raise
        self._crash_loop.contributed()
        return self._journal.contribution(entry)

    def _evaluation(self, candidate: Installed, baseline: Installed, both: tuple[Evaluation, Evaluation]) -> Errand:
        clock = self._around.clock

        def bring(session: DeviceSession, cohort: CohortClient, charge: Charge) -> bool:
            return contribution.take_part_in_evaluation(
                both, session, cohort, now_s=clock.now_s(), charge=lambda: charge(())
            )

        model_sha256 = compared_hash(candidate.model_sha256, baseline.model_sha256)
        what = f"evaluation of version {candidate.version}"
        return Errand(what, Rendezvous(candidate.version, "evaluation"), candidate, model_sha256, bring)

    def _remember(self, assignment: Assignment) -> None:
        note = json.dumps({"action": assignment.action, "reason": assignment.reason})
        if self._journal.get("note") != note:
            self._journal.put("note", note)


@contextmanager
def open_agent(
    folder: StateFolder,
    *,
    log: Callable[[str], None],
    on_state: OnState = ignore_state,
    clock: Clock | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
    jitter: Callable[[], float] = random.random,
    memory_mib: int | None = None,
    conditions: Callable[[Journal], Conditions] | None = None,
) -> Iterator[Agent]:
    """Open an enrolled device's state, close what an earlier process left unfinished, and yield the agent.

    ``conditions`` makes what keeps it to its owner's settings; without it nothing does.

    Raises:
        Refused: ``identity-missing``, ``certificate-expired``.
        BrokenState: ``identity-damaged``, ``journal-damaged``.
        TryLater: ``agent-running``.
        UsageError: ``settings-unreadable``, ``bad-settings``.
    """
    memory = total_memory_mib() if memory_mib is None else memory_mib
    around = Surroundings(clock or SystemClock(), random_bytes, jitter, log, memory, on_state)
    enrolment = load_enrolment(folder)
    if enrolment.certificate.expires_at_s < around.clock.now_s():
        raise Refused(
            "certificate-expired",
            "This device's certificate has expired.",
            "check the clock; else run `fedloom-agent leave` and enrol with a new code",
        )
    with folder.lock():
        identity = load_identity(folder)
        use_next_key(folder, identity.enrolment)
        enrolment = identity.enrolment
        journal = Journal(folder.journal_file, enrolment.journal_id)
        if enrolment.journal_id is None:
            enrolment = replace(enrolment, journal_id=journal.adopt_id(random_id("journal", random_bytes)))
            save_enrolment(folder, enrolment)
            identity = replace(identity, enrolment=enrolment)
        kept, transport = None, None
        try:
            kept = conditions(journal) if conditions else Unconditional()
            transport = Transport(
                enrolment.url,
                pinned_pool(enrolment.root.tls_root_pem),
                signer=signer_of(identity, journal.next_counter),
                clock=around.clock,
                jitter=around.jitter,
                permits=kept.permits,
            )
            crash_loop = CrashLoop(journal, around.clock, log)
            unfinished, waiting = journal.recover(around.clock.now_s()), journal.sealed.waiting
            died = []
            for row in unfinished:
                kept_on = waiting is not None and waiting.entry == row.id
                use = "waits for a cohort" if kept_on else "is not used"
                log(f"round {row.round_number}: the last process ended in state {row.state}; its update {use}")
                if not (kept_on and row.state is State.TRAINED and row.reason):  # that was put aside, and is no death
                    died.append(row)
            crash_loop.look(died)
            store = ModelStore(folder, enrolment, transport, journal, around.clock, log)
            renewal = Renewal(
                folder,
                transport,
                journal.next_counter,
                around.clock,
                random_bytes,
                around.jitter,
                lambda step: on_state(step, 0),
            )
            with _noting_stops(crash_loop):
                yield Agent(identity, journal, transport, store, renewal, around, kept, SealedFiles(folder), crash_loop)
        finally:
            _close(journal, transport, kept)


@contextmanager
def _noting_stops(crash_loop: CrashLoop) -> Iterator[None]:
    """Tell an agent that was asked to end, by a signal, from one that died."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            with suppress(BrokenState):
                crash_loop.stopped()
        raise


def _close(journal: Journal, transport: Transport | None, conditions: Conditions | None) -> None:
    try:
        if transport is not None:
            transport.close()
            journal.add_other_traffic(transport.traffic.take())
        if conditions is not None:
            conditions.close()
    finally:
        journal.close()


def _vector_bytes(installed: Installed) -> int:
    """Return how long every masked vector of a plan is, whatever the roster."""
    layout = installed.layout
    return WORD_BYTES * installed.plan.vector_words(layout.shared.size, layout.statistics.size)

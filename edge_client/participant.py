"""How this device takes part in cohorts: with an update, or with what it found of two versions, in one journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_client.cohort_client import CohortClient, find_cohort
from edge_client.identity import Identity
from edge_client.journal import Journal, State
from edge_client.journal_sealed import Waiting
from edge_client.model_store import Installed
from edge_client.problems import CohortOver
from edge_client.sealed_files import SealedFiles
from edge_client.transport import Transport
from shared.clock import Clock
from shared.errors import ProtocolAbort, Refused, TryLater
from shared.privacy.floors import Loss
from shared.secagg.roster import CohortBinding
from shared.secagg.session import DeviceSession
from shared.wire.messages import Meeting, Rendezvous

OnState = Callable[[str, int], None]
Charge = Callable[[Loss], None]
# Refusals before a vector has left, for which one other member can be to blame: the next cohort may be without it.
_OF_ANOTHER_MEMBER = frozenset({"too-few-shares", "bad-sealed-share"})


@dataclass(frozen=True)
class Surroundings:
    """What the agent does not decide itself.

    Attributes:
        clock: the time, and how to wait.
        random_bytes: cryptographic randomness.
        jitter: numbers in [0, 1) that spread devices in time.
        log: takes one line per event.
        memory_mib: that this device has.
        on_state: called after each state of a contribution is durable, with state and round. States named ``...ing``
            come before a message is sent, the others after the server acknowledged it. Also after each step of a
            renewal of the key, with 0.
    """

    clock: Clock
    random_bytes: Callable[[int], bytes]
    jitter: Callable[[], float]
    log: Callable[[str], None]
    memory_mib: int
    on_state: OnState


@dataclass(frozen=True)
class Errand:
    """What a device brings into a cohort.

    Attributes:
        what: in words, for the log.
        asked: which cohort it looks for.
        installed: whose plan holds.
        model_sha256: that all members sign.
        bring: goes through the steps, and returns whether this device is in the sum; it charges what that reveals.
    """

    what: str
    asked: Rendezvous
    installed: Installed
    model_sha256: bytes
    bring: Callable[[DeviceSession, CohortClient, Charge], bool]


class Participant:
    """One enrolled device in cohorts.

    Args:
        identity: who it is.
        journal: says how each contribution stands, before every message.
        transport: the way to the server.
        around: what the agent does not decide itself.
        before_joining: called each time before it asks for a cohort; may wait, or give up by raising.
        files: of an update that waits; destroyed before a byte of its masked form leaves.
    """

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        transport: Transport,
        around: Surroundings,
        before_joining: Callable[[], None],
        files: SealedFiles,
    ) -> None:
        self._before_joining = before_joining
        self._files = files
        self.use(identity)
        self._journal = journal
        self._transport = transport
        self._around = around

    def use(self, identity: Identity) -> None:
        """Go on with the device's next key."""
        self._identity, self._enrolment = identity, identity.enrolment

    def take_part(self, entry: int, errand: Errand) -> None:
        """Go into a cohort, and into another one as long as no byte of the vector has left."""
        failures = 0
        while True:
            meeting = find_cohort(self._transport, errand.asked, self._around.clock, lambda: self._may_join(entry))
            try:
                counted = self._in_cohort(entry, meeting, errand)
                break
            except (CohortOver, ProtocolAbort) as error:
                # Every other refusal ends this device's part in the round.
                if self._journal.contribution(entry).vector_sent or (
                    isinstance(error, ProtocolAbort) and error.code not in _OF_ANOTHER_MEMBER
                ):
                    raise
                self._around.log(f"{errand.what}: cohort {meeting.cohort} ended before the vector: {error}")
                self.record(entry, State.TRAINED, reason=error.code)
                failures += 1
                self._transport.back_off(failures)
        self.record(entry, State.COUNTED if counted else State.NOT_COUNTED)
        self._around.log(f"{errand.what}: {'counted' if counted else 'not counted'} in {meeting.cohort}")

    def _in_cohort(self, entry: int, meeting: Meeting, errand: Errand) -> bool:
        plan = errand.installed.plan
        session = DeviceSession(
            identity=self._identity.key,
            certificate=self._enrolment.certificate,
            binding=CohortBinding(
                task=plan.task,
                cohort=meeting.cohort,
                plan_sha256=errand.installed.plan_sha256,
                model_sha256=errand.model_sha256,
                expires_at_s=meeting.expires_at_s,
                purpose=errand.asked.purpose,
            ),
            rules=plan.rules,
            authority_key=self._enrolment.root.authority_key,
            random_bytes=self._around.random_bytes,
            cipher=plan.cohort.cipher,
            see_certificates=self._journal.see_certificates,
        )

        def record(state: State) -> None:
            if state is State.UPLOADING:
                self._spend(entry, meeting.cohort)
            else:
                self.record(entry, state, cohort=meeting.cohort)

        def charge(loss: Loss) -> None:
            self._enrolment.privacy_floors.check_next(plan, self._journal.spent(), loss)
            self._journal.charge(entry, loss, plan.privacy.delta, plan.privacy.mechanism)

        cohort = CohortClient(self._transport, meeting, record, self._around.clock)
        try:
            return errand.bring(session, cohort, charge)
        finally:
            for index, reason in session.withheld.items():
                self._around.log(
                    f"cohort {meeting.cohort}: no share of {session.name_of(index)}'s self mask was revealed: nothing"
                    f" shows that it masked towards all survivors around it [{reason}]"
                )

    def _may_join(self, entry: int) -> None:
        """Wait before a cohort is asked for; raises where what was sealed may not go into any more."""
        self._before_joining()
        waiting, now_s = self._waiting(entry), self._around.clock.now_s()
        if waiting is not None and self._journal.no_earlier_than_signed(now_s) >= waiting.expires_at_s:
            raise TryLater("sealed-update-expired", "What was trained waited for too long.", "it is trained again")

    def _waiting(self, entry: int) -> Waiting | None:
        """Return the row of a contribution's update that is sealed, None where none is.

        Raises:
            Refused: ``update-withdrawn``.
        """
        waiting = self._journal.sealed.waiting
        if waiting is None or waiting.entry != entry:
            return None
        if waiting.withdrawn:
            raise Refused("update-withdrawn", "The owner took back what was trained.", "it is trained again")
        return waiting

    def _spend(self, entry: int, cohort: str) -> None:
        """Write down that a byte of the masked form may leave from now on, and destroy the update that waited.

        Raises:
            Refused: ``update-withdrawn``, and nothing leaves.
        """
        waiting = self._waiting(entry)
        self.record(entry, State.UPLOADING, cohort=cohort)
        if waiting is not None:
            try:
                self._files.destroy()
            except TryLater as error:  # it is spent all the same; the next look tries again
                self._around.log(str(error))

    def record(
        self, entry: int, state: State, *, cohort: str | None = None, reason: str = "", seconds_training: float = 0.0
    ) -> None:
        """Put a contribution into a state, and tell whoever watches."""
        self._journal.record(
            entry,
            state,
            self._around.clock.now_s(),
            cohort=cohort,
            reason=reason,
            seconds_training=seconds_training or None,
            traffic=self._transport.traffic.take(),
        )
        self._around.on_state(state, self._journal.contribution(entry).round_number)

"""Which version this device uses: the newest, or what a release decision says, verified and never an older decision."""

from __future__ import annotations

from collections.abc import Callable

from edge_client.identity import Enrolment
from edge_client.journal import Journal
from edge_client.model_store import Installed, ModelStore, release_key
from edge_client.transport import Transport
from shared.clock import Clock
from shared.decision import Decision, verify_decision
from shared.errors import Refused
from shared.release_key import verify_release_key
from shared.wire.messages import read_signed
from shared.wire.requests import DECISION, RELEASE_KEY


class Follower:
    """Follows release decisions.

    Args:
        enrolment: whose keys it trusts.
        journal: remembers the decision that was followed last.
        store: keeps versions.
        transport: the way to the server.
        clock: for the expiry.
        log: takes one line per event.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        journal: Journal,
        store: ModelStore,
        transport: Transport,
        clock: Clock,
        log: Callable[[str], None],
    ) -> None:
        self._enrolment = enrolment
        self._journal = journal
        self._store = store
        self._transport = transport
        self._clock = clock
        self._log = log

    def trust(self, number: int) -> None:
        """Learn of a later release key than this device knows, if the server has one.

        Raises:
            Unauthenticated: ``bad-signature`` where the authority did not certify it.
            Refused: ``release-key-replayed``.
        """
        known = self._journal.release_key
        before = 0 if known is None else known.number
        if number <= before:
            return
        signed = read_signed(self._transport.send("GET", RELEASE_KEY).body, "release_key")
        key = verify_release_key(signed, self._enrolment.root.authority_key, min_number=before + 1)
        self._journal.trust(key)
        self._log(f"releases are signed by key {key.number} from now on, as the authority certified")

    def use(self, sequence: int) -> Installed | None:
        """Put in use what the newest decision says; None where there is none, and the newest version is used.

        A server that says less than it did changes nothing: what was followed last is followed on.

        Args:
            sequence: of the decision that the server has, 0 for none.

        Raises:
            FedloomError: see ``verify_decision`` and ``ModelStore.install``; what was in use stays in use.
        """
        known = self._journal.decision
        if sequence > (known.sequence if known is not None else 0):
            known = self._fetch(known)
        if known is None:
            return None
        return self._store.use(known.use(self._enrolment.device).version)

    def _fetch(self, known: Decision | None) -> Decision:
        signed = read_signed(self._transport.send("GET", DECISION).body, "decision")
        decision = verify_decision(
            signed,
            public_key=release_key(self._enrolment.root, self._journal),
            task=self._enrolment.task,
            min_sequence=0 if known is None else known.sequence,
            now_s=self._clock.now_s(),
        )
        self._journal.follow(decision)
        use = decision.use(self._enrolment.device)
        self._log(f"release decision {decision.sequence}: version {use.version} is to be used here, {use.why}")
        return decision

    def compared(self, candidate: int) -> tuple[int, int]:
        """Return candidate and baseline that the decision lets this device evaluate.

        Raises:
            Refused: ``not-in-stage`` where it does not say that this device is in a stage of ``candidate``.
        """
        known = self._journal.decision
        if known is None or known.candidate != candidate or not known.includes(self._enrolment.device):
            raise Refused(
                "not-in-stage",
                f"The server asks for an evaluation of version {candidate}, which no release decision gives this"
                " device.",
            )
        return candidate, known.released

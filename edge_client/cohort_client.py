"""A cohort over HTTP: one message up and one answer down per step, each step in the journal before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_client.journal import Record, State
from edge_client.problems import CohortOver, utc_text
from edge_client.transport import PATIENCE_S, Transport
from edge_client.upload import send_vector
from shared.clock import Clock
from shared.errors import TryLater
from shared.ids import require_name
from shared.limits import MAX_JSON_BYTES, MAX_ROSTER_BYTES
from shared.secagg.masking import MaskedUpdate
from shared.secagg.roster import Member
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import SharesMessage, UnmaskAnswer
from shared.wire.canonical import Json, decode, encode
from shared.wire.messages import (
    Agreements,
    Meeting,
    Outcome,
    Rendezvous,
    read_indexed,
    read_octets,
    write_answer,
    write_octets,
    write_shares,
)
from shared.wire.requests import COHORTS, RENDEZVOUS, VECTOR


def find_cohort(transport: Transport, asked: Rendezvous, clock: Clock, before_each: Callable[[], None]) -> Meeting:
    """Wait for a cohort of a version that was trained from, or evaluated; ``before_each`` time that it asks may wait.

    Raises:
        VersionClosed: if none forms any more.
        TryLater: ``clock-wrong`` where a cohort that forms now has expired by this device's clock.
    """
    body = transport.poll(RENDEZVOUS, float("inf"), "POST", asked.to_bytes(), before_each=before_each)
    meeting = Meeting.from_bytes(body)
    require_name(meeting.cohort, "the cohort")  # it becomes part of addresses
    if meeting.expires_at_s < (now_s := clock.now_s()):
        raise TryLater(
            "clock-wrong",
            f"By this device's clock it is {utc_text(now_s)}, but a new cohort expires before that,"
            f" at {utc_text(meeting.expires_at_s)}.",
            "set this device's clock; it is tried again later",
        )
    return meeting


class CohortClient:
    """The steps of one cohort, see ``CohortSteps``.

    Args:
        transport: the way to the server.
        meeting: the cohort and when its messages expire.
        record: writes a state into the journal.
        clock: for the expiry.
    """

    def __init__(self, transport: Transport, meeting: Meeting, record: Record, clock: Clock) -> None:
        self._transport = transport
        self._meeting = meeting
        self._record = record
        self._clock = clock

    def join(self, member: Member) -> Json:
        """Join, and wait for the roster."""
        self._tell("join", encode(member.to_json()), State.JOINING, State.JOINED)
        return decode(self._ask("roster", MAX_ROSTER_BYTES), max_bytes=MAX_ROSTER_BYTES)

    def share(self, shares: SharesMessage) -> Mapping[int, bytes]:
        """Send sealed shares, and wait for the ones sent here."""
        self._tell("shares", write_shares(shares), State.SHARING, State.SHARES_SENT)
        return read_indexed(self._ask("inbox"), "boxes", SEALED_BYTES)

    def upload(self, masked: MaskedUpdate, signed_inbox: bytes) -> bytes:
        """Send the masked vector with the list of boxes in it, and wait for the survivors."""
        self._tell(VECTOR, masked.to_bytes(), State.UPLOADING, State.VECTOR_SENT, signed_inbox)
        return read_octets(self._ask("survivors"), "bitmap")

    def agree(self, signature: bytes) -> Agreements:
        """Send the signature over the survivors, and wait for everybody's."""
        self._tell("agreement", write_octets("signature", signature), State.AGREEING, State.AGREED)
        return Agreements.from_bytes(self._ask("agreements"))

    def answer(self, answer: UnmaskAnswer) -> bool:
        """Send the shares that open the sum, and wait for what became of it."""
        self._tell("answer", write_answer(answer), State.ANSWERING, State.ANSWERED)
        return Outcome.from_bytes(self._ask("outcome")).counted

    def _tell(self, step: str, body: bytes, before: State, after: State, signed_inbox: bytes = b"") -> None:
        now_s, expires_at_s = self._clock.now_s(), float(self._meeting.expires_at_s)
        if now_s > expires_at_s:
            raise CohortOver("cohort-expired", "The cohort took longer than its messages are valid.")
        until_s = min(expires_at_s, now_s + PATIENCE_S)
        self._record(before)
        if step == VECTOR:
            send_vector(self._transport, self._target(step), body, signed_inbox, until_s, self._clock)
        else:
            self._transport.send("PUT", self._target(step), body, until_s=until_s)
        self._record(after)

    def _ask(self, step: str, max_bytes: int = MAX_JSON_BYTES) -> bytes:
        return self._transport.poll(self._target(step), self._meeting.expires_at_s, max_bytes=max_bytes)

    def _target(self, step: str) -> str:
        return f"{COHORTS}/{self._meeting.cohort}/{step}"

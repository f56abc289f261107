"""One enrolled device of the load: the agent's own requests, signatures, keys and masks, without training and disk.

What every device of a cohort would find out alike, each by itself, is found out once per process: that the roster's
signatures and those under the survivors are good. Everything that the server sees is as real devices send it.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edge_client.transport import PATIENCE_S, Reply, Signer, Transport, pinned_pool
from edge_client.upload import send_vector
from shared.clock import SystemClock
from shared.errors import FedloomError
from shared.limits import MAX_ROSTER_BYTES
from shared.plan import Plan
from shared.root import EnrolmentCode, Root
from shared.secagg.masking import MaskedUpdate, Words
from shared.secagg.roster import CohortBinding, Roster
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession
from shared.wire.canonical import Json, decode, encode, octets_to_text, sha256
from shared.wire.messages import (
    Agreements,
    EnrolRequest,
    Meeting,
    Outcome,
    Rendezvous,
    read_indexed,
    read_octets,
    read_signed,
    write_answer,
    write_octets,
    write_shares,
)
from shared.wire.requests import (
    COHORTS,
    ENROL,
    INBOX_HEADER,
    JSON,
    OCTETS,
    RELEASES,
    RENDEZVOUS,
    VECTOR,
    enrolment_message,
)
from shared.wire.signed import Certificate, SigningKey

CLOCK: Final = SystemClock()


@dataclass
class Tally:
    """What a process's requests took, and which were refused.

    Attributes:
        seconds: of requests, by kind; in the window the kind names its part, too.
        errors: how often which code came.
        answered: requests, timed or not.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    answered: int = 0

    def time(self, kind: str, request: Callable[[], Reply]) -> bool:
        """Make a request once, and say whether it was accepted."""
        start_s = time.perf_counter()
        try:
            request()
        except FedloomError as error:
            self.errors[error.code] = self.errors.get(error.code, 0) + 1
            return False
        finally:
            self.seconds.setdefault(kind, []).append(time.perf_counter() - start_s)
            self.answered += 1
        return True


@dataclass
class Alike:
    """What the devices of a process find out together.

    Attributes:
        plan: of their task.
        root: that they pin.
        model_sha256: of the version that they would have trained from.
        authority_key: that certifies members.
    """

    plan: Plan
    root: Root
    model_sha256: bytes
    _rosters: dict[bytes, tuple[Json, Roster]] = field(default_factory=dict)
    _accepted: dict[tuple[int, bytes], bool] = field(default_factory=dict)

    def roster(self, body: bytes, binding: CohortBinding) -> Roster:
        """Return the verified roster of ``body``."""
        digest = sha256(body)
        if digest not in self._rosters:
            value = decode(body, max_bytes=MAX_ROSTER_BYTES)
            roster = Roster.verified(value, binding, self.root.authority_key, CLOCK.now_s())
            self._rosters[digest] = value, roster
        return self._rosters[digest][1]

    def accepts(self, index: int, signature: bytes, check: Callable[[], bool]) -> bool:
        """Return what ``check`` says of a member's signature."""
        key = index, signature
        if key not in self._accepted:
            self._accepted[key] = check()
        return self._accepted[key]


class _Session(DeviceSession):
    """A device's session that shares with others what they all verify."""

    alike: Alike
    known_roster: Roster

    def _read_roster(self, _roster_json: Json, _now_s: float) -> Roster:
        return self.known_roster

    def _accepts(self, index: int, signature: bytes) -> bool:
        return self.alike.accepts(index, signature, lambda: super(_Session, self)._accepts(index, signature))


class LoadDevice:
    """One device; its steps are called in the order in which they stand here.

    Args:
        code: that it enrols with.
        alike: what it shares with others.
        tally: of its requests.
    """

    def __init__(self, code: EnrolmentCode, alike: Alike, tally: Tally) -> None:
        self._alike = alike
        self._tally = tally
        self._key = SigningKey.generate(os.urandom)
        pool = pinned_pool(alike.root.tls_root_pem)
        unsigned = Transport(code.url, pool, signer=None, clock=CLOCK, jitter=random.random)
        proof = self._key.sign(enrolment_message(code.fingerprint, code.secret, self._key.public))
        body = EnrolRequest(code.secret, self._key.public, proof).to_bytes()
        answer = unsigned.send("POST", ENROL, body, until_s=CLOCK.now_s() + PATIENCE_S).body
        self._certificate = Certificate.verified(read_signed(answer, "certificate"), alike.root.authority_key)
        signer = Signer(code.fingerprint, self._certificate.device, self._key, itertools.count(1).__next__)
        self._transport = Transport(code.url, pool, signer=signer, clock=CLOCK, jitter=random.random)

    @property
    def place(self) -> int:
        """Its index in the roster."""
        return self._session.known_roster.index_of(self._certificate.device)

    @property
    def roster(self) -> Roster:
        """Of its cohort."""
        return self._session.known_roster

    def close(self) -> None:
        """Close its connection."""
        self._transport.close()

    def join(self) -> None:
        """Join the cohort that forms."""
        plan = self._alike.plan
        meeting = Meeting.from_bytes(self._poll("POST", RENDEZVOUS, Rendezvous(0).to_bytes()))
        self._cohort = meeting.cohort
        self._binding = CohortBinding(
            plan.task, meeting.cohort, plan.sha256, self._alike.model_sha256, meeting.expires_at_s
        )
        self._session = _Session(
            identity=self._key,
            certificate=self._certificate,
            binding=self._binding,
            rules=plan.rules,
            authority_key=self._alike.root.authority_key,
            random_bytes=os.urandom,
            cipher=plan.cohort.cipher,
        )
        self._session.alike = self._alike
        self._tell("join", encode(self._session.join().to_json()))

    def share(self) -> None:
        """Wait for the roster, and send sealed shares."""
        body = self._poll("GET", self._target("roster"), max_bytes=MAX_ROSTER_BYTES)
        self._session.known_roster = self._alike.roster(body, self._binding)
        self._tell("shares", write_shares(self._session.share(None, CLOCK.now_s())))

    def mask(self, words: Words) -> MaskedUpdate:
        """Wait for the others' shares, and mask ``words``, which are overwritten."""
        inbox = read_indexed(self._poll("GET", self._target("inbox")), "boxes", SEALED_BYTES)
        return self._session.mask(inbox, words)

    def look(self, part: int) -> None:
        """Read the release, as devices do every now and then, in a part of the window."""
        self._small("GET", f"{RELEASES}/0", b"", f"small/{part}")

    def upload(self, vector: bytes, part: int) -> None:
        """Send the masked vector in a part of the window."""
        target, send, inbox = self._target(VECTOR), self._transport.send_once, self._session.signed_inbox
        headers = {INBOX_HEADER: octets_to_text(inbox)}
        if not self._tally.time(
            f"upload/{part}",
            lambda: send("PUT", target, vector, content_type=OCTETS, counts_as="vector_up", headers=headers),
        ):
            send_vector(self._transport, target, vector, inbox, CLOCK.now_s() + PATIENCE_S, CLOCK)

    def agree(self) -> None:
        """Wait for the survivors, and sign them."""
        bitmap = read_octets(self._poll("GET", self._target("survivors")), "bitmap")
        self._tell("agreement", write_octets("signature", self._session.agree(bitmap)))

    def answer(self) -> None:
        """Wait for the others' signatures, and send the shares that open the sum."""
        agreed = Agreements.from_bytes(self._poll("GET", self._target("agreements")))
        self._tell("answer", write_answer(self._session.unmask(agreed.signatures, agreed.inboxes)))

    def counted(self) -> bool:
        """Wait for the end, and return whether it is in the sum."""
        return Outcome.from_bytes(self._poll("GET", self._target("outcome"))).counted

    def _target(self, step: str) -> str:
        return f"{COHORTS}/{self._cohort}/{step}"

    def _tell(self, step: str, body: bytes) -> None:
        self._small("PUT", self._target(step), body)

    def _small(self, method: str, target: str, body: bytes, kind: str = "small") -> None:
        send = self._transport.send_once
        if not self._tally.time(
            kind, lambda: send(method, target, body, content_type=JSON, counts_as="other_up", headers={})
        ):
            self._transport.send(method, target, body, until_s=CLOCK.now_s() + PATIENCE_S)

    def _poll(self, method: str, target: str, body: bytes = b"", max_bytes: int = 1 << 20) -> bytes:
        self._tally.answered += 1
        return self._transport.poll(target, float("inf"), method, body, max_bytes=max_bytes)

"""Enrolled devices without a disk that do one protocol step when they are told to, over any transport.

    member = enrol(pool, url, code, number, plan)
    member.meet(model_sha256)
    for step in STEPS: member.do(step)

Keys, signatures, sessions and requests are the agent's own; only training is left out.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import urllib3

from edge_client.cohort_client import CohortClient
from edge_client.journal import State
from edge_client.transport import Signer, Transport
from shared.clock import Clock, SystemClock
from shared.limits import MAX_ROSTER_BYTES
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation, to_words
from shared.numeric.evaluation_vector import to_evaluation_words
from shared.numeric.quantization import QuantizedUpdate, quantize
from shared.plan import Plan
from shared.release import WEIGHTS_FILE, Release, verify_release
from shared.root import EnrolmentCode, Root
from shared.secagg.masking import Words
from shared.secagg.roster import CohortBinding, Purpose, compared_hash
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession
from shared.wire.canonical import Fields, decode, encode, octets_to_text
from shared.wire.messages import (
    Agreements,
    EnrolRequest,
    Meeting,
    Outcome,
    Rendezvous,
    read_indexed,
    read_octets,
    read_release,
    write_answer,
    write_octets,
    write_shares,
)
from shared.wire.requests import BLOBS, COHORTS, ENROL, INBOX_HEADER, RELEASES, RENDEZVOUS, enrolment_message
from shared.wire.signed import Certificate, Signed, SigningKey

STEPS: Final = ("join", "share", "upload", "agree", "answer")
NO_EVALUATION: Final = Evaluation(0.0, 0, 0)
Values = npt.NDArray[np.float32]


def ignore_state(_state: State) -> None:
    """Keep no journal."""


@dataclass
class Member:
    """One device.

    Attributes:
        number: for the test.
        key: its identity.
        certificate: what the authority says of it.
        root: whom it trusts.
        plan: of its task.
        transport: the way to the server.
        clock: the time.
        values: f32[d], its update.
        examples: how many the update was trained on.
        evaluation: of the base version.
        masks: whether it masks its vector, as every device should.
        compared: what a candidate and a baseline did on its held-out examples, where it evaluates.
        quantized: what it rounded its update to.
        words: its vector before masking.
        inbox: the sealed shares that it received.
    """

    number: int
    key: SigningKey
    certificate: Certificate
    root: Root
    plan: Plan
    transport: Transport
    clock: Clock
    values: Values = field(default_factory=lambda: np.zeros(0, np.float32))
    examples: int = 1
    evaluation: Evaluation = NO_EVALUATION
    masks: bool = True
    compared: tuple[Evaluation, Evaluation] | None = None
    quantized: QuantizedUpdate | None = None
    words: Words | None = None
    inbox: dict[int, bytes] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Its pseudonym."""
        return self.certificate.device

    def release(self, version: int) -> Release:
        """Return a verified release."""
        body, signature = read_release(self.transport.send("GET", f"{RELEASES}/{version}").body)
        return verify_release(
            body,
            signature,
            public_key=self.root.release_key,
            task=self.plan.task,
            min_version=version,
            now_s=self.clock.now_s(),
        )

    def weights(self, version: int) -> bytes:
        """Return the weights file of a version."""
        entry = self.release(version).files[WEIGHTS_FILE]
        target = f"{BLOBS}/{entry.sha256}"
        with self.transport.open("GET", target, self.transport.signed("GET", target)) as response:
            return entry.check(self.transport.read(response, 1 << 30), WEIGHTS_FILE)

    @property
    def inbox_header(self) -> dict[str, str]:
        """What goes with every part of its vector."""
        return {INBOX_HEADER: octets_to_text(self.session.signed_inbox)}

    def meet(self, model_sha256: str, version: int = 0) -> None:
        """Find the cohort that forms, and make fresh keys for it."""
        body = self.transport.poll(RENDEZVOUS, float("inf"), "POST", Rendezvous(version).to_bytes())
        self.enter(Meeting.from_bytes(body), model_sha256)

    def meet_to_evaluate(self, candidate: int, baseline: int, compared: tuple[Evaluation, Evaluation]) -> None:
        """Find the cohort that evaluates, and make fresh keys for it."""
        hashes = [bytes.fromhex(self.release(version).model_sha256) for version in (candidate, baseline)]
        asked = Rendezvous(candidate, "evaluation")
        body = self.transport.poll(RENDEZVOUS, float("inf"), "POST", asked.to_bytes())
        self.compared = compared
        self.enter(Meeting.from_bytes(body), compared_hash(*hashes).hex(), asked.purpose)

    def enter(self, meeting: Meeting, model_sha256: str, purpose: Purpose = "training") -> None:
        """Make fresh keys for a cohort."""
        self.cohort = meeting.cohort
        self.session = DeviceSession(
            identity=self.key,
            certificate=self.certificate,
            binding=CohortBinding(
                self.plan.task,
                meeting.cohort,
                self.plan.sha256,
                bytes.fromhex(model_sha256),
                meeting.expires_at_s,
                purpose,
            ),
            rules=self.plan.rules,
            authority_key=self.root.authority_key,
            random_bytes=os.urandom,
            cipher=self.plan.cohort.cipher,
        )
        self._steps = CohortClient(self.transport, meeting, ignore_state, self.clock)

    def target(self, step: str) -> str:
        """Return the address of a step of its cohort."""
        return f"{COHORTS}/{self.cohort}/{step}"

    def do(self, step: str) -> None:
        """Read what the step before led to, and send the message of ``step``."""
        self.send_prepared(*self.prepare(step))

    def send_prepared(self, route: str, body: bytes) -> None:
        """Send what ``prepare`` returned."""
        self._steps._tell(route, body, State.TRAINING, State.TRAINING, self.session.signed_inbox)

    def prepare(self, step: str) -> tuple[str, bytes]:
        """Return the route and the body of a step without sending it."""
        return {
            "join": self._join,
            "share": self._share,
            "upload": self._upload,
            "agree": self._agree,
            "answer": self._answer,
        }[step]()

    def counted(self) -> bool:
        """Wait for the end, and return whether it is in the sum."""
        return Outcome.from_bytes(self._steps._ask("outcome")).counted

    def _join(self) -> tuple[str, bytes]:
        return "join", encode(self.session.join().to_json())

    def _share(self) -> tuple[str, bytes]:
        roster = decode(self._steps._ask("roster", MAX_ROSTER_BYTES), max_bytes=MAX_ROSTER_BYTES)
        return "shares", write_shares(self.session.share(roster, self.clock.now_s()))

    def _upload(self) -> tuple[str, bytes]:
        self.inbox = read_indexed(self._steps._ask("inbox"), "boxes", SEALED_BYTES)
        if self.compared is not None:
            self.words = to_evaluation_words(*self.compared)
            return "vector", self.session.mask(self.inbox, self.words.copy()).to_bytes()
        rule = self.plan.update
        clipped = clip(
            LocalUpdate(self.values, self.examples), max_l2_norm=rule.max_l2_norm, max_weight=rule.max_weight
        )
        if self.plan.privacy.mechanism == "skellam":
            self.words = self._noised(clipped)
        else:
            self.quantized = quantize(clipped, self.plan.grid(self.session.members), os.urandom)
            self.words = to_words(self.quantized, self.evaluation)
        masked = self.session.mask(self.inbox, self.words.copy())
        return "vector", masked.to_bytes() if self.masks else self.words.astype("<u8").tobytes()

    def _noised(self, clipped: ClippedUpdate) -> Words:
        encoding = self.plan.encoding(self.session.members, clipped.values.size, 0)
        statistics = ClippedUpdate(np.zeros(0), 1.0, 1, 1.0, clipped=False)
        return encoding.encode(clipped, statistics, self.evaluation, sid=self.session.sid, random_bytes=os.urandom)

    def _agree(self) -> tuple[str, bytes]:
        bitmap = read_octets(self._steps._ask("survivors"), "bitmap")
        return "agreement", write_octets("signature", self.session.agree(bitmap))

    def _answer(self) -> tuple[str, bytes]:
        agreed = Agreements.from_bytes(self._steps._ask("agreements"))
        return "answer", write_answer(self.session.unmask(agreed.signatures, agreed.inboxes))


def new_transport(
    url: str,
    pool: urllib3.PoolManager,
    root: Root,
    certificate: Certificate | None,
    key: SigningKey,
    clock: Clock,
) -> Transport:
    """Return a transport that signs as a device, or as nobody yet."""
    signer = None
    if certificate is not None:
        signer = Signer(root.fingerprint, certificate.device, key, itertools.count(1).__next__)
    return Transport(url, pool, signer=signer, clock=clock, jitter=lambda: 0.5)


def redeem_body(code: EnrolmentCode, key: SigningKey, fingerprint: bytes | None = None) -> bytes:
    """Return what a device sends to enrol."""
    proof = key.sign(enrolment_message(fingerprint or code.fingerprint, code.secret, key.public))
    return EnrolRequest(code.secret, key.public, proof).to_bytes()


def enrol(
    pool: urllib3.PoolManager, root: Root, code: EnrolmentCode, number: int, plan: Plan, clock: Clock | None = None
) -> Member:
    """Redeem a code with a fresh key."""
    key, chosen = SigningKey.generate(os.urandom), clock or SystemClock()
    unsigned = new_transport(code.url, pool, root, None, key, chosen)
    body = unsigned.send("POST", ENROL, redeem_body(code, key)).body
    signed = Signed.from_json(Fields(decode(body), "enrolment").mapping("certificate", 2), "certificate")
    certificate = Certificate.verified(signed, root.authority_key)
    transport = new_transport(code.url, pool, root, certificate, key, chosen)
    return Member(number, key, certificate, root, plan, transport, chosen)


def one_hot(number: int, dimension: int, scale: float = 1.0) -> Values:
    """Return an update that only one device can have made."""
    values = np.zeros(dimension, np.float32)
    values[number] = scale
    return values

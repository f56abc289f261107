"""The JSON bodies of the protocol, each read and written here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from shared.errors import UsageError
from shared.limits import MAX_MEMBERS, MAX_MEMORY_MIB, MAX_RETRY_AFTER_MS
from shared.release import MAX_VERSION
from shared.secagg.roster import Purpose
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import SharesMessage, UnmaskAnswer
from shared.secagg.shares import SECRET_BYTES
from shared.wire.canonical import Fields, Json, decode, encode, octets_from_text, octets_to_text
from shared.wire.signed import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signed

_COMMITMENT_BYTES: Final = 32
_YEAR_9999_S: Final = 253_402_300_799
Action = Literal["train", "evaluate", "wait", "done"]
Reason = Literal[
    "",
    "no-round",
    "joined",
    "declined",
    "round-full",
    "other-group",
    "too-little-memory",
    "contributions-used",
    "too-soon",
]  # why a device waits


def write_by_index(values: Mapping[int, bytes]) -> dict[str, Json]:
    """Return octets by roster index in the form that travels."""
    return {str(index): octets_to_text(value) for index, value in sorted(values.items())}


def read_by_index(values: Mapping[str, Json], length: int | None) -> dict[int, bytes]:
    """Undo ``write_by_index``; every value must have ``length`` octets, or some if that is None.

    Raises:
        UsageError: ``bad-field``.
    """
    result: dict[int, bytes] = {}
    for key, value in values.items():
        octets = octets_from_text(value) if isinstance(value, str) else b""
        fits = len(octets) == length if length is not None else bool(octets)
        if not (key.isascii() and key.isdigit() and str(int(key[:9])) == key and fits):
            raise UsageError("bad-field", f"An entry by roster index should hold {length or 'some'} octets.")
        result[int(key)] = octets
    return result


@dataclass(frozen=True)
class EnrolRequest:
    """A device redeems its code: the code's secret, its new public key, and a signature that proves the key."""

    secret: bytes
    identity_key: bytes
    proof: bytes

    def to_bytes(self) -> bytes:
        """Write."""
        return encode(
            {
                "secret": octets_to_text(self.secret),
                "identity_key": octets_to_text(self.identity_key),
                "proof": octets_to_text(self.proof),
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> EnrolRequest:
        """Read."""
        fields = Fields(decode(body), "enrolment")
        request = cls(
            fields.octets("secret", max_length=64),
            fields.octets("identity_key", PUBLIC_KEY_BYTES),
            fields.octets("proof", SIGNATURE_BYTES),
        )
        fields.end()
        return request


@dataclass(frozen=True)
class RenewalRequest:
    """A device asks for a certificate of its next key.

    Attributes:
        certificate: its newest one.
        identity_key: the next public key, 32 octets.
        signature: by the key in the certificate, over ``renewal_message``.
        proof: by the next key, over the same.
    """

    certificate: Signed
    identity_key: bytes
    signature: bytes
    proof: bytes

    def to_bytes(self) -> bytes:
        """Write."""
        return encode(
            {
                "certificate": self.certificate.to_json(),
                "identity_key": octets_to_text(self.identity_key),
                "signature": octets_to_text(self.signature),
                "proof": octets_to_text(self.proof),
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> RenewalRequest:
        """Read; no signature is verified yet."""
        fields = Fields(decode(body), "renewal")
        request = cls(
            Signed.from_json(fields.mapping("certificate", 2), "certificate"),
            fields.octets("identity_key", PUBLIC_KEY_BYTES),
            fields.octets("signature", SIGNATURE_BYTES),
            fields.octets("proof", SIGNATURE_BYTES),
        )
        fields.end()
        return request


@dataclass(frozen=True)
class SeedRequest:
    """An aggregator asks the authority for the seed of a fixed roster's graph.

    Attributes:
        cohort: the cohort's id.
        roster_root: Merkle root of the roster, 32 octets.
        signature: by the release key, over ``seed_request_message``.
    """

    cohort: str
    roster_root: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Write."""
        root, signature = octets_to_text(self.roster_root), octets_to_text(self.signature)
        return encode({"cohort": self.cohort, "roster_root": root, "signature": signature})

    @classmethod
    def from_bytes(cls, body: bytes) -> SeedRequest:
        """Read."""
        fields = Fields(decode(body), "seed request")
        request = cls(
            fields.text("cohort", 64), fields.octets("roster_root", 32), fields.octets("signature", SIGNATURE_BYTES)
        )
        fields.end()
        return request


def write_signed(name: str, signed: Signed) -> bytes:
    """Return a body with one signed document: ``certificate``, ``seed``, ``decision`` or ``release_key``."""
    return encode({name: signed.to_json()})


def read_signed(body: bytes, name: str) -> Signed:
    """Undo ``write_signed``; the signature is not verified yet."""
    fields = Fields(decode(body), name)
    signed = Signed.from_json(fields.mapping(name, 2), name)
    fields.end()
    return signed


@dataclass(frozen=True)
class CheckIn:
    """A device asks what to do, and says what it is.

    Attributes:
        version: that it uses; -1 before the first.
        memory_mib: that it has.
        declined: the round in which it will not take part though it was asked, 0 for none; its place is free then.
        declined_evaluation: the promotion whose versions it will not evaluate, 0 for none.
    """

    version: int
    memory_mib: int
    declined: int = 0
    declined_evaluation: int = 0

    def to_bytes(self) -> bytes:
        """Write."""
        return encode(
            {
                "version": self.version,
                "memory_mib": self.memory_mib,
                "declined": self.declined,
                "declined_evaluation": self.declined_evaluation,
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> CheckIn:
        """Read."""
        fields = Fields(decode(body), "check-in")
        message = cls(
            fields.integer("version", -1, MAX_VERSION),
            fields.integer("memory_mib", 0, MAX_MEMORY_MIB),
            fields.integer("declined", 0, MAX_VERSION),
            fields.integer("declined_evaluation", 0, MAX_VERSION),
        )
        fields.end()
        return message


@dataclass(frozen=True)
class Assignment:
    """The answer to a check-in.

    Attributes:
        action: ``train`` from ``version`` in ``round_number``; ``evaluate`` the candidate ``version`` of promotion
            ``round_number`` beside the version that is released; ``wait`` and check in again; ``done``: no more
            rounds are planned.
        version: the newest one, or the candidate.
        round_number: the open round, or the last one; or the promotion.
        retry_after_ms: when to check in again, for ``wait`` and ``done``.
        reason: why it waits, empty for other actions.
        decision: sequence of the newest release decision; 0 where there is none, and the newest version is used.
        release_key: number of the key that signs releases, 0 for the one in the root document.
    """

    action: Action
    version: int
    round_number: int
    retry_after_ms: int
    reason: Reason = ""
    decision: int = 0
    release_key: int = 0

    def to_bytes(self) -> bytes:
        """Write."""
        return encode(
            {
                "action": self.action,
                "version": self.version,
                "round": self.round_number,
                "retry_after_ms": self.retry_after_ms,
                "reason": self.reason,
                "decision": self.decision,
                "release_key": self.release_key,
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> Assignment:
        """Read."""
        fields = Fields(decode(body), "assignment")
        message = cls(
            cast("Action", fields.choice("action", get_args(Action))),
            fields.integer("version", 0, MAX_VERSION),
            fields.integer("round", 0, MAX_VERSION),
            fields.integer("retry_after_ms", 0, MAX_RETRY_AFTER_MS),
            cast("Reason", fields.choice("reason", get_args(Reason))),
            fields.integer("decision", 0, MAX_VERSION),
            fields.integer("release_key", 0, MAX_VERSION),
        )
        fields.end()
        return message


@dataclass(frozen=True)
class Meeting:
    """The cohort that a trained device may join: its id and when its messages expire."""

    cohort: str
    expires_at_s: int

    def to_bytes(self) -> bytes:
        """Write."""
        return encode({"cohort": self.cohort, "expires_at_s": self.expires_at_s})

    @classmethod
    def from_bytes(cls, body: bytes) -> Meeting:
        """Read."""
        fields = Fields(decode(body), "meeting")
        message = cls(fields.text("cohort", 64), fields.integer("expires_at_s", 0, _YEAR_9999_S))
        fields.end()
        return message


@dataclass(frozen=True)
class Rendezvous:
    """A device asks for a cohort: of the version that it trained from, or of the candidate that it evaluated."""

    version: int
    purpose: Purpose = "training"

    def to_bytes(self) -> bytes:
        """Write."""
        return encode({"version": self.version, "purpose": self.purpose})

    @classmethod
    def from_bytes(cls, body: bytes) -> Rendezvous:
        """Read."""
        fields = Fields(decode(body), "rendezvous")
        message = cls(
            fields.integer("version", 0, MAX_VERSION),
            cast("Purpose", fields.choice("purpose", get_args(Purpose))),
        )
        fields.end()
        return message


def write_shares(message: SharesMessage) -> bytes:
    """Return the body of step ``shares``."""
    return encode({"commitment": octets_to_text(message.commitment), "boxes": write_by_index(message.boxes)})


def read_shares(body: bytes) -> SharesMessage:
    """Undo ``write_shares``."""
    fields = Fields(decode(body), "shares")
    message = SharesMessage(
        fields.octets("commitment", _COMMITMENT_BYTES),
        read_by_index(fields.mapping("boxes", MAX_MEMBERS), SEALED_BYTES),
    )
    fields.end()
    return message


def write_indexed(name: str, values: Mapping[int, bytes]) -> bytes:
    """Return a body with one field of octets by roster index: ``boxes`` (inbox)."""
    return encode({name: write_by_index(values)})


def read_indexed(body: bytes, name: str, length: int) -> dict[int, bytes]:
    """Undo ``write_indexed``."""
    fields = Fields(decode(body), name)
    values = read_by_index(fields.mapping(name, MAX_MEMBERS), length)
    fields.end()
    return values


@dataclass(frozen=True)
class Agreements:
    """What a survivor needs before it answers.

    Attributes:
        signatures: over the survivors, by index.
        inboxes: of the survivors whose shares the receiver holds, whose boxes each used, signed, by index.
    """

    signatures: Mapping[int, bytes]
    inboxes: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """Write."""
        return encode({"signatures": write_by_index(self.signatures), "inboxes": write_by_index(self.inboxes)})

    @classmethod
    def from_bytes(cls, body: bytes) -> Agreements:
        """Read."""
        fields = Fields(decode(body), "agreements")
        signatures = read_by_index(fields.mapping("signatures", MAX_MEMBERS), SIGNATURE_BYTES)
        inboxes = read_by_index(fields.mapping("inboxes", MAX_MEMBERS), None)
        fields.end()
        return cls(signatures, inboxes)


def write_octets(name: str, value: bytes) -> bytes:
    """Return a body with one field of octets: ``bitmap`` (survivors) or ``signature`` (agreement)."""
    return encode({name: octets_to_text(value)})


def read_octets(body: bytes, name: str, length: int | None = None) -> bytes:
    """Undo ``write_octets``."""
    fields = Fields(decode(body), name)
    value = fields.octets(name, length)
    fields.end()
    return value


def write_answer(answer: UnmaskAnswer) -> bytes:
    """Return the body of step ``answer``."""
    return encode({"self_mask": write_by_index(answer.self_mask), "mask_key": write_by_index(answer.mask_key)})


def read_answer(body: bytes) -> UnmaskAnswer:
    """Undo ``write_answer``; nobody may be in both halves.

    Raises:
        UsageError: ``bad-field``.
    """
    fields = Fields(decode(body), "answer")
    answer = UnmaskAnswer(
        read_by_index(fields.mapping("self_mask", MAX_MEMBERS), SECRET_BYTES),
        read_by_index(fields.mapping("mask_key", MAX_MEMBERS), SECRET_BYTES),
    )
    fields.end()
    if answer.self_mask.keys() & answer.mask_key.keys():
        raise UsageError("bad-field", "An answer reveals both shares of one member; it was not stored.")
    return answer


@dataclass(frozen=True)
class Outcome:
    """How a cohort ended, for its members: ``counted`` says whether this device is in the published sum."""

    counted: bool

    def to_bytes(self) -> bytes:
        """Write."""
        return encode({"counted": "yes" if self.counted else "no"})

    @classmethod
    def from_bytes(cls, body: bytes) -> Outcome:
        """Read."""
        fields = Fields(decode(body), "outcome")
        message = cls(fields.choice("counted", ("yes", "no")) == "yes")
        fields.end()
        return message


def write_received(received_bytes: int) -> bytes:
    """Return how much of a vector is stored: what a device asks before it goes on."""
    return encode({"received_bytes": received_bytes})


def read_received(body: bytes, size_bytes: int) -> int:
    """Undo ``write_received``, for a vector of ``size_bytes``."""
    fields = Fields(decode(body), "received")
    received = fields.integer("received_bytes", 0, size_bytes)
    fields.end()
    return received


def write_release(body: bytes, signature: bytes) -> bytes:
    """Return the answer of the releases route: the exact bytes of release.json and the detached signature."""
    return encode({"release": octets_to_text(body), "signature": octets_to_text(signature)})


def read_release(body: bytes) -> tuple[bytes, bytes]:
    """Undo ``write_release``."""
    fields = Fields(decode(body), "release")
    result = fields.octets("release"), fields.octets("signature", SIGNATURE_BYTES)
    fields.end()
    return result

"""What devices are told to use for inference: one signed document per task, and which device is in a stage of it.

A release goes to a growing share of a task's devices. Which ones is a hash of task, version and device, so that every
stage contains the one before it, each device can tell by itself whether it is meant, and a server cannot show a
version to a device of its choice. ``sequence`` only grows: going back to an older version is a new decision, and an
old decision that is played again is refused. Not handled here: the versions themselves, see ``release.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.errors import Refused
from shared.ids import require_name
from shared.release import MAX_VERSION, key_id
from shared.wire.canonical import Fields, Json, decode, encode, sha256, transcript
from shared.wire.signed import Signed, SigningKey

DECISION_DOMAIN: Final = "fedloom/1/decision"
PLACES: Final = 2**32  # a device's place in a release is below it; so is a stage's limit, or it is all of them
_FORMAT: Final = "fedloom-decision-1"
_PLACE_BYTES: Final = 4
_YEAR_9999_S: Final = 253_402_300_799
Why = Literal["pinned", "candidate", "released"]


def place_of(task: str, version: int, device: str) -> int:
    """Return where a device stands in the release of a version, evenly spread below ``PLACES``."""
    return int.from_bytes(sha256(transcript("fedloom/1/stage", task, version, device))[:_PLACE_BYTES], "big")


@dataclass(frozen=True)
class Use:
    """The version that a device uses, and why."""

    version: int
    why: Why


@dataclass(frozen=True)
class Decision:
    """What a task's devices use.

    Attributes:
        task: the task.
        sequence: larger than in every decision before.
        released: the version that everybody uses who is told nothing else.
        candidate: a version that is on its way, None for none.
        limit: devices whose place is below it use the candidate; 0 without one.
        pinned: the version that everybody uses whatever else is said here, None for none.
        issued_at_s: seconds since the epoch.
        expires_at_s: seconds since the epoch; later a device does not begin to follow it.
        key_id: of the release key.
    """

    task: str
    sequence: int
    released: int
    candidate: int | None
    limit: int
    pinned: int | None
    issued_at_s: int
    expires_at_s: int
    key_id: str = ""

    def includes(self, device: str) -> bool:
        """Say whether a device is in the candidate's stage."""
        return self.candidate is not None and place_of(self.task, self.candidate, device) < self.limit

    def use(self, device: str) -> Use:
        """Return what a device uses."""
        if self.pinned is not None:
            return Use(self.pinned, "pinned")
        if self.candidate is not None and self.includes(device):
            return Use(self.candidate, "candidate")
        return Use(self.released, "released")

    @property
    def versions(self) -> frozenset[int]:
        """Every version that is named."""
        named = self.released, self.candidate, self.pinned
        return frozenset(number for number in named if number is not None)

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed."""
        body: dict[str, Json] = {
            "format": _FORMAT,
            "task": self.task,
            "sequence": self.sequence,
            "released": self.released,
            "limit": self.limit,
            "issued_at_s": self.issued_at_s,
            "expires_at_s": self.expires_at_s,
            "key_id": self.key_id,
        }
        optional = {"candidate": self.candidate, "pinned": self.pinned}
        return encode(body | {name: value for name, value in optional.items() if value is not None})


def sign_decision(decision: Decision, key: SigningKey) -> Signed:
    """Return the decision, naming the key, with its signature."""
    return Signed.make(key, DECISION_DOMAIN, replace(decision, key_id=key_id(key.public)).to_bytes())


def parse_decision(body: bytes) -> Decision:
    """Read a decision without verifying it: one that was verified before, or the server's own."""
    fields = Fields(decode(body), "decision")
    fields.choice("format", (_FORMAT,))
    decision = Decision(
        task=require_name(fields.text("task"), "the task"),
        sequence=fields.integer("sequence", 1, MAX_VERSION),
        released=fields.integer("released", 0, MAX_VERSION),
        candidate=fields.integer("candidate", 0, MAX_VERSION) if fields.has("candidate") else None,
        limit=fields.integer("limit", 0, PLACES),
        pinned=fields.integer("pinned", 0, MAX_VERSION) if fields.has("pinned") else None,
        issued_at_s=fields.integer("issued_at_s", 0, _YEAR_9999_S),
        expires_at_s=fields.integer("expires_at_s", 0, _YEAR_9999_S),
        key_id=fields.text("key_id", 64),
    )
    fields.end()
    return decision


def verify_decision(signed: Signed, *, public_key: bytes, task: str, min_sequence: int, now_s: float) -> Decision:
    """Return the decision in ``signed`` if a device may follow it.

    Args:
        signed: as it came.
        public_key: the release key.
        task: that the device is enrolled in.
        min_sequence: of the decision that it followed last, 0 for none.
        now_s: the time.

    Raises:
        Unauthenticated: ``bad-signature``.
        Refused: ``wrong-key``, ``wrong-task``, ``decision-replayed``, ``decision-expired``.
        UsageError: for a malformed body.
    """
    signed.verify(public_key, DECISION_DOMAIN, "a release decision")
    decision = parse_decision(signed.body)
    if decision.key_id != key_id(public_key):
        raise Refused("wrong-key", "The decision names another signing key than the one that signed it.")
    if decision.task != task:
        raise Refused("wrong-task", f"The decision is for task {decision.task!r}, this device is enrolled in {task!r}.")
    if decision.sequence < min_sequence:
        raise Refused(
            "decision-replayed",
            f"The server shows release decision {decision.sequence}; this device already followed {min_sequence}.",
            "the server may have been restored from an old backup: ask its operator",
        )
    if decision.expires_at_s < now_s:
        raise Refused(
            "decision-expired",
            f"Release decision {decision.sequence} has expired.",
            "check this device's clock; else the operator has to look whether a driver runs",
        )
    return decision

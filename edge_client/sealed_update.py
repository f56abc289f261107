"""A trained update, encrypted for the time that it waits for a cohort: sealing and opening, without disk and clock.

What is sealed is clipped and not yet rounded: rounding, noise and masks are drawn anew in each cohort, with that
cohort's keys, and nothing of them is kept. Each update has a key of its own, so that destroying 32 octets destroys it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from edge_client.contribution import TrainedUpdate
from edge_client.trainer.protocol import Examples, TrainingDiverged
from shared.errors import BrokenState
from shared.numeric.clipping import ClippedUpdate
from shared.numeric.contribution_vector import Evaluation
from shared.secagg.masking import CipherName
from shared.secagg.sealing import decrypt, encrypt
from shared.wire.canonical import encode, transcript

SEALING_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_MARK_BYTES: Final = 16
_LENGTH_BYTES: Final = 8
_NONCE: Final = bytes(12)  # each key seals one update, ever


@dataclass(frozen=True)
class Binding:
    """What an update was made for; it opens for nothing else.

    Attributes:
        task: that the device is enrolled in.
        plan_sha256: hash of the plan's exact bytes.
        version: that training started from.
        model_sha256: of that version.
        device: this device's pseudonym.
        entry: of the contribution in this device's journal.
        made_at_s: when it was trained, seconds since the epoch.
        expires_at_s: when it is worth nothing any more.
    """

    task: str
    plan_sha256: bytes
    version: int
    model_sha256: bytes
    device: str
    entry: int
    made_at_s: float
    expires_at_s: float

    @property
    def context(self) -> bytes:
        """What the tag covers besides the update."""
        times = self.made_at_s.hex(), self.expires_at_s.hex()
        return transcript(
            "fedloom/1/sealed-update",
            self.task,
            self.plan_sha256,
            self.version,
            self.model_sha256,
            self.device,
            self.entry,
            *times,
        )


@dataclass(frozen=True)
class Marks:
    """Which examples an update was trained on, recognisable only beside the examples themselves.

    Attributes:
        salt: of the hashes.
        hashes: of each example, sorted, 16 octets each.
    """

    salt: bytes
    hashes: bytes

    @classmethod
    def of(cls, examples: Examples, salt: bytes) -> Marks:
        """Return the marks of ``examples``."""
        return cls(salt, b"".join(sorted(_hashes(examples, salt))))

    def are_all_in(self, examples: Examples) -> bool:
        """Say whether every one of them is still among ``examples``, as often as it was."""
        pieces = range(0, len(self.hashes), _MARK_BYTES)
        mine = Counter(self.hashes[start : start + _MARK_BYTES] for start in pieces)
        return mine <= Counter(_hashes(examples, self.salt))


def _hashes(examples: Examples, salt: bytes) -> list[bytes]:
    arrays = [*sorted(examples.inputs().items()), ("y", examples.y)]
    head = salt + repr([(name, one.dtype.str, one.shape[1:]) for name, one in arrays]).encode()
    found = []
    for number in range(len(examples)):
        digest = sha256(head)
        for _, values in arrays:
            digest.update(np.ascontiguousarray(values[number]).tobytes())
        found.append(digest.digest()[:_MARK_BYTES])
    return found


def new_salt(random_octets: bytes) -> bytes:
    """Return a salt for marks made of at least 16 random octets."""
    return random_octets[:_SALT_BYTES]


def seal(trained: TrainedUpdate, marks: Marks, binding: Binding, *, key: bytes, cipher: CipherName) -> bytes:
    """Return ``trained`` without its local tensors, which the device keeps elsewhere, encrypted under ``key``.

    Args:
        trained: what training made.
        marks: of the examples that it was trained on.
        binding: what it is for.
        key: 32 octets that seal nothing else.
        cipher: of the plan: AES-256-GCM or ChaCha20-Poly1305.
    """
    parts = trained.update.raw, trained.statistics.raw
    failure = trained.failure
    head = encode(
        {
            "update": _head(trained.update),
            "statistics": _head(trained.statistics),
            "loss_sum": float(trained.evaluation.loss_sum).hex(),
            "correct": int(trained.evaluation.correct),
            "count": int(trained.evaluation.count),
            "examples": trained.examples,
            "mean_loss": None if trained.mean_loss is None else float(trained.mean_loss).hex(),
            "failure": None if failure is None else [failure.code, failure.message, failure.remedy],
            "salt": marks.salt.hex(),
            "marks": len(marks.hashes),
        }
    )
    octets = (part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)
    plain = b"".join((len(head).to_bytes(_LENGTH_BYTES, "big"), head, marks.hashes, *octets))
    return encrypt(plain, key=key, nonce=_NONCE, context=binding.context, cipher=cipher)


def open_sealed(box: bytes, binding: Binding, *, key: bytes, cipher: CipherName) -> tuple[TrainedUpdate, Marks]:
    """Undo ``seal``; local tensors are empty.

    Raises:
        BrokenState: ``sealed-update-damaged`` if a bit of it, of the key or of what it is bound to is another one.
    """
    try:
        plain = decrypt(box, key=key, nonce=_NONCE, context=binding.context, cipher=cipher)
    except (InvalidTag, ValueError) as error:
        raise damaged("it does not open") from error
    end = _LENGTH_BYTES + int.from_bytes(plain[:_LENGTH_BYTES], "big")
    head = json.loads(plain[_LENGTH_BYTES:end])
    rest = memoryview(plain)[end:]
    marks = Marks(bytes.fromhex(head["salt"]), bytes(rest[: head["marks"]]))
    rest = rest[head["marks"] :]
    update, rest = _part(head["update"], rest)
    statistics, _ = _part(head["statistics"], rest)
    mean_loss, failure = head["mean_loss"], head["failure"]
    trained = TrainedUpdate(
        update,
        statistics,
        Evaluation(float.fromhex(head["loss_sum"]), head["correct"], head["count"]),
        head["examples"],
        None if mean_loss is None else float.fromhex(mean_loss),
        np.zeros(0, np.float32),
        None if failure is None else TrainingDiverged(*failure),
    )
    return trained, marks


def damaged(why: str) -> BrokenState:
    """Return the error for a sealed update that cannot be used."""
    return BrokenState(
        "sealed-update-damaged", f"The trained update that waited cannot be used: {why}.", "it is trained again"
    )


def _head(part: ClippedUpdate) -> dict[str, Any]:
    return {
        "dtype": part.raw.dtype.newbyteorder("<").str,
        "size": part.raw.size,
        "scale": float(part.scale).hex(),
        "weight": int(part.weight),
        "max_l2_norm": float(part.max_l2_norm).hex(),
        "clipped": bool(part.clipped),
    }


def _part(head: dict[str, Any], octets: memoryview) -> tuple[ClippedUpdate, memoryview]:
    dtype = np.dtype(head["dtype"])
    end = dtype.itemsize * head["size"]
    values: NDArray[Any] = np.frombuffer(octets[:end], dtype)
    scale, max_l2_norm = (float.fromhex(head[name]) for name in ("scale", "max_l2_norm"))
    return ClippedUpdate(values, scale, head["weight"], max_l2_norm, head["clipped"]), octets[end:]

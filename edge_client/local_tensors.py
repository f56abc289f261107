"""The tensors that stay on this device: their values between rounds, and the promise that they are never uploaded.

The values are in one file, bound to the bundle and the initial values that they come from. With another bundle, and
where the file is damaged, training starts again from the release's initial values: the file holds nothing that cannot
be learned again, so neither stops the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edge_client.durable import write_durably
from edge_client.journal import Journal
from edge_client.trainer.protocol import F32
from shared.bundle import TensorSpec
from shared.errors import BrokenState, Refused
from shared.wire.canonical import sha256

_MAGIC: Final = b"fedloom-local-1\n"
_HASH_BYTES: Final = 32
_HEAD_BYTES: Final = len(_MAGIC) + 2 * _HASH_BYTES
_KEPT: Final = "local-tensors"  # of the journal: every path that was ever local


class LocalTensors:
    """The values in ``path``.

    Args:
        path: of the file.
        journal: remembers which tensors were ever local.
        log: takes one line per event.
    """

    def __init__(self, path: Path, journal: Journal, log: Callable[[str], None]) -> None:
        self._path = path
        self._journal = journal
        self._log = log

    def admit(self, tensors: Sequence[TensorSpec]) -> None:
        """Refuse a model that would upload what was local before, and remember what is local now.

        Raises:
            Refused: ``local-tensor-exposed`` naming the tensors.
        """
        kept = set(json.loads(self._journal.get(_KEPT) or "[]"))
        exposed = [f"{spec.path} ({spec.role})" for spec in tensors if spec.role != "local" and spec.path in kept]
        if exposed:
            raise Refused(
                "local-tensor-exposed",
                f"The release wants {', '.join(exposed)}, which was to stay on this device: its values would leave.",
                "ask the operator why; to give them away all the same, run `fedloom-agent leave` and enrol anew",
            )
        local = {spec.path for spec in tensors if spec.role == "local"}
        if local - kept:
            self._journal.put(_KEPT, json.dumps(sorted(local | kept)))

    def load(self, identity: bytes, initial: F32) -> F32:
        """Return this device's own values, f32[n]; ``initial`` where it has none of this bundle yet.

        Args:
            identity: 32 octets that name the bundle and ``initial``.
            initial: f32[n], the release's values.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return initial
        except OSError as error:
            return self._rebuilt(identity, initial, str(error.strerror))
        head, body = data[:_HEAD_BYTES], data[len(_MAGIC) + _HASH_BYTES :]
        if not head.startswith(_MAGIC) or head[len(_MAGIC) : -_HASH_BYTES] != sha256(body):
            return self._rebuilt(identity, initial, "its bytes are not those that were written")
        if body[:_HASH_BYTES] != identity:
            self._log("the model changed: its local tensors start from the release's initial values")
            return initial
        return np.frombuffer(body[_HASH_BYTES:], "<f4").astype(np.float32)

    def save(self, identity: bytes, values: F32) -> None:
        """Keep values, f32[n]; on the disk when this returns, readable by this user alone.

        Raises:
            TryLater: ``disk-write-failed``; the old values stay.
        """
        body = identity + np.ascontiguousarray(values, "<f4").tobytes()
        write_durably(self._path, _MAGIC + sha256(body) + body)

    def _rebuilt(self, identity: bytes, initial: F32, reason: str) -> F32:
        damage = BrokenState(
            "local-tensors-damaged",
            f"{self._path} cannot be used: {reason}. Local tensors start from the release's initial values.",
            "check the disk if this happens again",
        )
        self._log(str(damage))
        self.save(identity, initial)
        return initial

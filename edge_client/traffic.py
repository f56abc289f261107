"""What left this device and what came: bytes by purpose, as HTTP sends them inside TLS."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

Upward = Literal["vector_up", "other_up"]
Downward = Literal["weights_down", "bundle_down", "other_down"]


@dataclass
class Traffic:
    """Bytes by purpose; request lines, status lines and headers count as ``other``.

    Attributes:
        vector_up: masked vectors.
        other_up: everything else that was sent.
        weights_down: weights of new versions.
        bundle_down: programs and plans, which come once.
        other_down: everything else that was received.
    """

    vector_up: int = 0
    other_up: int = 0
    weights_down: int = 0
    bundle_down: int = 0
    other_down: int = 0

    def count(self, purpose: Upward | Downward, octets: int) -> None:
        """Add ``octets``."""
        setattr(self, purpose, getattr(self, purpose) + octets)

    def add(self, other: Traffic) -> None:
        """Add every count of ``other``."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def take(self) -> Traffic:
        """Return the counts so far and start again at zero."""
        taken = Traffic(**asdict(self))
        for field in fields(self):
            setattr(self, field.name, 0)
        return taken

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

"""What an agent asks before it works."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Protocol

from edge_client.permits import Permits


class Conditions(Protocol):
    """What an agent asks before it works; ``Keeper``, or nobody."""

    @property
    def permits(self) -> Permits:
        """What a transport asks."""
        ...

    @property
    def sealed_update_s(self) -> float:
        """For how long the owner lets a trained update wait for a cohort; infinity for as long as the plan does."""
        ...

    def hold_s(self) -> float | None:
        """Return how long to wait before asking again, None if the agent may go on."""
        ...

    def require(self) -> None:
        """Go on only if the agent may; raises ``NotNow``."""
        ...

    def require_transfer(self, octets: int) -> None:
        """Go on only if so many bytes may still be moved today; raises ``NotNow``."""
        ...

    def before_batch(self) -> None:
        """Wait between two batches for as long as this device may not train; raises ``NotNow``."""
        ...

    def before_joining(self) -> None:
        """Wait before a cohort is asked for, for as long as this device may not work; raises ``NotNow``."""
        ...

    def goes_on(self) -> None:
        """Be told that other work goes on, such as judging a model; nothing waits for that."""
        ...

    def training(self) -> AbstractContextManager[None]:
        """Count what is trained in the block."""
        ...

    def close(self) -> None:
        """Nothing more is spent."""
        ...


class Unconditional:
    """Conditions that always hold, for a process whose owner is elsewhere."""

    permits = Permits()
    sealed_update_s = inf

    def hold_s(self) -> None:
        """Do not wait."""

    def require(self) -> None:
        """Go on."""

    def require_transfer(self, octets: int) -> None:
        """Go on."""

    def before_batch(self) -> None:
        """Go on."""

    def before_joining(self) -> None:
        """Go on."""

    def goes_on(self) -> None:
        """Go on."""

    def training(self) -> AbstractContextManager[None]:
        """Count nothing."""
        return nullcontext()

    def close(self) -> None:
        """Count nothing."""

"""What the owner of a device allows to be revealed, whatever a plan says; reading it needs no NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ProtocolAbort
from shared.privacy.rdp import composed, epsilon

if TYPE_CHECKING:
    from shared.plan import Plan  # brings NumPy

Loss = tuple[float, ...]  # one Renyi divergence bound per order of ``ORDERS``; empty: without any bound


def epsilon_of(losses: Sequence[Loss], delta: float) -> float:
    """Return the epsilon of all ``losses`` together: infinite if one has no bound, 0 without any."""
    if not losses:
        return 0.0
    return epsilon(composed(losses), delta) if all(losses) else math.inf


@dataclass(frozen=True)
class PrivacyFloors:
    """What the owner of a device demands, 0 for no demand; noise that the aggregator promises to add counts as none.

    Attributes:
        min_noise_multiplier: the least noise in a sum, over this device's largest contribution.
        max_participations: how many masked vectors ever leave this device.
        max_epsilon: what they may reveal altogether, at ``delta`` or a plan's smaller one.
        delta: at which epsilon is counted; no plan can raise it.
    """

    min_noise_multiplier: float = 0.0
    max_participations: int = 0
    max_epsilon: float = 0.0
    delta: float = 1e-6

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan with less noise than the owner wants.

        Raises:
            ProtocolAbort: ``floor-noise``.
        """
        noise = plan.privacy.noise_multiplier if plan.privacy.mechanism == "skellam" else 0.0
        needed = max(self.min_noise_multiplier, 1e-9 if self.max_epsilon else 0.0)
        if noise < needed:
            raise ProtocolAbort(
                "floor-noise",
                f"Devices of this plan add noise of {noise:g} times one contribution, this device wants"
                f" {f'at least {self.min_noise_multiplier:g}' if self.min_noise_multiplier else 'some'}.",
                "ask the operator for a plan with more noise from the devices",
            )

    def check_next(self, plan: Plan, spent: Sequence[Loss], loss: Loss) -> None:
        """Refuse a participation that costs ``loss`` after those that were ``spent``.

        Raises:
            ProtocolAbort: ``floor-participations``, ``floor-epsilon``; or ``privacy-budget-spent`` by the plan itself.
        """
        privacy = plan.privacy
        limited = privacy.mechanism != "none"
        if self.max_participations and len(spent) >= self.max_participations:
            raise _spent("floor-participations", f"This device took part {len(spent)} times, as often as it may.")
        if limited and len(spent) >= privacy.max_participations:
            raise _spent("privacy-budget-spent", f"The plan lets each device take part {len(spent)} times.")
        delta = min(self.delta, privacy.delta)
        if self.max_epsilon and (own := epsilon_of([*spent, loss], delta)) > self.max_epsilon:
            raise _spent(
                "floor-epsilon",
                f"{_once_more(spent)} make epsilon {own:.3g} at delta {delta:g}, this device allows"
                f" {self.max_epsilon:g}.",
            )
        if limited and (total := epsilon_of([*spent, loss], privacy.delta)) > privacy.max_epsilon:
            raise _spent(
                "privacy-budget-spent",
                f"{_once_more(spent)} make epsilon {total:.3g} at delta {privacy.delta:g}, the plan allows"
                f" {privacy.max_epsilon:g}.",
            )


def _once_more(spent: Sequence[Loss]) -> str:
    return "One more contribution would" if spent else "One contribution alone would"


def _spent(code: str, message: str) -> ProtocolAbort:
    return ProtocolAbort(code, message, "nothing more leaves this device for this task; it still gets new versions")

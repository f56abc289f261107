"""What the owner of a device demands of cohorts, whatever a plan says; reading it needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import ProtocolAbort
from shared.secagg.parameters import CohortRules


@dataclass(frozen=True)
class DeviceFloors:
    """What the owner of the device demands, whatever a plan says.

    Attributes:
        min_survivors: the fewest devices in a sum that this one takes part in.
        max_l2_norm: the largest clip norm accepted.
        semi_honest: whether thresholds are accepted that withstand an aggregator only if it keeps to the protocol.
        min_corrupt_share: gamma, the share of members whose collusion thresholds have to withstand at least.
    """

    min_survivors: int = 10
    max_l2_norm: float = 1000.0
    semi_honest: bool = False
    min_corrupt_share: float = 0.05

    def check(self, rules: CohortRules, max_l2_norm: float) -> None:
        """Refuse a plan below the floors.

        Raises:
            ProtocolAbort: ``floor-cohort-size``, ``floor-clip-norm``, ``floor-adversary`` or ``floor-corrupt-share``.
        """
        if rules.min_survivors < self.min_survivors:
            raise ProtocolAbort(
                "floor-cohort-size",
                f"The plan reveals sums of {rules.min_survivors} devices, this device wants at least"
                f" {self.min_survivors}: in a small cohort the sum says much about each member.",
                f"if that is acceptable, `fedloom-agent allow --allow-cohorts-of {rules.min_survivors}`, or ask the"
                " operator for larger cohorts",
            )
        if max_l2_norm > self.max_l2_norm:
            raise ProtocolAbort(
                "floor-clip-norm",
                f"The plan clips to {max_l2_norm:g}, this device allows at most {self.max_l2_norm:g}.",
                "ask the operator for a smaller max_l2_norm",
            )
        if rules.adversary == "semi-honest" and not self.semi_honest:
            raise ProtocolAbort(
                "floor-adversary",
                "The plan's thresholds protect from a server that only reads along, not from one that lies.",
                "if that is acceptable, `fedloom-agent allow --allow-semi-honest`, or ask the operator for"
                " semi-malicious ones",
            )
        if rules.corrupt_share < self.min_corrupt_share:
            raise ProtocolAbort(
                "floor-corrupt-share",
                f"The plan's thresholds withstand a share of {rules.corrupt_share:g} of members that collude, this"
                f" device demands {self.min_corrupt_share:g}.",
                f"if that is acceptable, `fedloom-agent allow --min-corrupt-share {rules.corrupt_share:g}`, or ask the"
                " operator for a larger corrupt_share",
            )

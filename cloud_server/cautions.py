"""What is allowed in a plan and yet surprises those who run it, said when the task is made."""

from __future__ import annotations

from typing import Final

from shared.plan import Plan
from shared.secagg.session import DeviceFloors

FEW_FOR_NOISE: Final = 100  # members; with fewer, noise of a useful strength drowns the update


def cautions(plan: Plan) -> list[str]:
    """Return a sentence for each thing that the operator should know before devices enrol."""
    cohort, privacy, found = plan.cohort, plan.privacy, []
    floors = DeviceFloors()
    usual = floors.min_survivors
    if cohort.min_survivors < usual:
        found.append(
            f"The plan reveals sums of {cohort.min_survivors} devices. A device takes part in sums of {usual} or more"
            f" unless its owner enrols it with --allow-cohorts-of {cohort.min_survivors}."
        )
    if cohort.corrupt_share < floors.min_corrupt_share:
        found.append(
            f"The plan's thresholds withstand a share of {cohort.corrupt_share:g} of colluding members. A device wants"
            f" {floors.min_corrupt_share:g} unless its owner enrols it with"
            f" --min-corrupt-share {cohort.corrupt_share:g}."
        )
    if int(cohort.corrupt_share * cohort.largest) == 0:
        found.append(
            f"A share of {cohort.corrupt_share:g} of {cohort.largest} members rounds down to none: whoever operates the"
            " aggregator together with one member may see more than the sum."
        )
    if privacy.mechanism == "none":
        return found
    if plan.stop.rounds > privacy.max_participations:
        found.append(
            f"Each device takes part {privacy.max_participations} times and {plan.stop.rounds} rounds are planned: with"
            f" the same devices in each, the task waits for new ones after round {privacy.max_participations}."
        )
    if cohort.largest < FEW_FOR_NOISE:
        found.append(
            f"Noise is hidden in sums over hundreds of devices; over at most {cohort.largest} it costs much accuracy."
            " See docs/privacy.md."
        )
    return found

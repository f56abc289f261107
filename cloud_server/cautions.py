"""What is allowed in a plan and yet surprises those who run it, said when the task is made."""

from __future__ import annotations

from typing import Final

from shared.plan import Plan
from shared.secagg.floors import DeviceFloors

FEW_FOR_NOISE: Final = 100  # members; with fewer, noise of a useful strength drowns the update


def cautions(plan: Plan, paid: int | None = None) -> list[str]:
    """Return a sentence for each thing that the operator should know before devices enrol.

    Args:
        plan: of the task.
        paid: how many cohorts its privacy budget pays for, None where it never runs out.
    """
    cohort, found = plan.cohort, list[str]()
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
    most = plan.eligibility.max_contributions
    if 0 < most < plan.stop.rounds:
        found.append(
            f"Each device contributes {most} times at most and {plan.stop.rounds} rounds are planned: with the same"
            f" devices in each, the task waits for new ones after round {most}."
        )
    if plan.eligibility.min_interval_s > plan.deadlines.round_s:
        found.append(
            "Devices wait for longer between contributions (eligibility.min_interval_s) than a round lasts"
            " (deadlines.round_s): with the same devices in each, rounds are abandoned."
        )
    return [*found, *_about_noise(plan, paid)]


def enrolment_options(plan: Plan) -> str:
    """Return what owners must add to ``fedloom-agent enroll`` to take part in this plan, empty for nothing."""
    usual, cohort, options = DeviceFloors(), plan.cohort, list[str]()
    if cohort.min_survivors < usual.min_survivors:
        options.append(f"--allow-cohorts-of {cohort.min_survivors}")
    if cohort.corrupt_share < usual.min_corrupt_share:
        options.append(f"--min-corrupt-share {cohort.corrupt_share:g}")
    if cohort.adversary == "semi-honest":
        options.append("--allow-semi-honest")
    if plan.update.max_l2_norm > usual.max_l2_norm:
        options.append(f"--max-clip-norm {plan.update.max_l2_norm:g}")
    return " ".join(options)


def _about_noise(plan: Plan, paid: int | None) -> list[str]:
    cohort, privacy, found = plan.cohort, plan.privacy, list[str]()
    if privacy.mechanism == "none":
        if privacy.noise_multiplier:
            found.append('The plan has a noise_multiplier and mechanism = "none": no noise is added.')
        return found
    if paid is not None:
        allowed, rounds = f"{privacy.max_epsilon:g}", plan.stop.rounds
        if not rounds:
            found.append(f"max_epsilon = {allowed} pays for {paid} rounds, and no end is planned: the task ends then.")
        elif paid < rounds:
            found.append(
                f"max_epsilon = {allowed} pays for {paid} rounds, and {rounds} are planned: the task ends then."
            )
        else:
            found.append(f"max_epsilon = {allowed} pays for {paid} rounds; cohorts that fail late are paid, too.")
    elif plan.stop.rounds > privacy.max_participations:
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

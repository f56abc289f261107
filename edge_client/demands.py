"""What the owner demands of plans: given when the device is enrolled, and changed later."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, Final

from shared.privacy.floors import PrivacyFloors
from shared.secagg.floors import DeviceFloors

_OF_COHORTS: Final = {
    "allow_cohorts_of": "min_survivors",
    "allow_semi_honest": "semi_honest",
    "min_corrupt_share": "min_corrupt_share",
    "max_clip_norm": "max_l2_norm",
}
_OF_PRIVACY: Final = {
    "min_noise": "min_noise_multiplier",
    "max_participations": "max_participations",
    "max_epsilon": "max_epsilon",
    "delta": "delta",
}


def demanded(
    arguments: argparse.Namespace, floors: DeviceFloors, privacy_floors: PrivacyFloors
) -> tuple[DeviceFloors, PrivacyFloors]:
    """Return what is demanded now.

    Args:
        arguments: of a command; an option that was not given is None.
        floors: demanded before.
        privacy_floors: likewise.
    """

    def given(names: dict[str, str]) -> dict[str, Any]:
        values = {field: getattr(arguments, option) for option, field in names.items()}
        return {field: value for field, value in values.items() if value is not None}

    return replace(floors, **given(_OF_COHORTS)), replace(privacy_floors, **given(_OF_PRIVACY))


def warning(floors: DeviceFloors) -> str:
    """Return what an owner should know who allows less than is usual, empty if nothing."""
    if floors.min_survivors >= DeviceFloors().min_survivors:
        return ""
    return (
        f"Sums of {floors.min_survivors} devices are allowed: together, the other {floors.min_survivors - 1} could"
        " compute what this device contributed."
    )

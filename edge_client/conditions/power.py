"""Mains and batteries, from ``/sys/class/power_supply`` (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_client.conditions.kernel_files import folders_in, number_of, text_of

_OUTSIDE = frozenset({"Mains", "USB", "Wireless", "USB_C", "USB_PD", "USB_DCP", "USB_CDP", "BrickID"})
_STORES = frozenset({"Battery", "UPS"})
_CHARGED_FROM_OUTSIDE = frozenset({"Charging", "Full", "Not charging"})


@dataclass(frozen=True)
class Power:
    """Whether there is outside power, a battery, and its charge in percent."""

    on_mains: bool | None
    has_battery: bool | None
    battery_percent: float | None


def read_power(root: Path) -> Power:
    """Return how the machine is powered; one without a battery is on mains.

    Batteries of mice and keyboards (scope ``Device``) do not drive the machine.
    """
    base = root / "sys" / "class" / "power_supply"
    found = folders_in(base)
    if found is None:
        # No such class at all: a kernel without power supplies. A folder that is there and shut says nothing.
        return (
            Power(None, None, None) if base.exists() else Power(on_mains=True, has_battery=False, battery_percent=None)
        )
    supplies = [one for one in found if text_of(one / "scope") != "Device"]
    kinds = {one: text_of(one / "type") for one in supplies}
    batteries = [one for one in supplies if kinds[one] in _STORES and number_of(one / "present") != 0]
    if not batteries:
        return Power(on_mains=True, has_battery=False, battery_percent=None)
    outside = [number_of(one / "online") for one in supplies if kinds[one] in _OUTSIDE]
    charges = [charge for one in batteries if (charge := _charge(one)) is not None]
    return Power(_on_mains(batteries, outside), has_battery=True, battery_percent=min(charges, default=None))


def _on_mains(batteries: list[Path], outside: list[int | None]) -> bool | None:
    states = {text_of(one / "status") for one in batteries}
    if "Discharging" in states:  # although a plug may say that it is in: it is too weak, or not connected
        return False
    if any(online for online in outside) or states & _CHARGED_FROM_OUTSIDE:
        return True
    return False if outside and all(online == 0 for online in outside) else None


def _charge(battery: Path) -> float | None:
    percent = number_of(battery / "capacity")
    if percent is not None:
        return float(max(0, min(100, percent)))
    for kind in ("energy", "charge"):
        now, full = number_of(battery / f"{kind}_now"), number_of(battery / f"{kind}_full")
        if now is not None and full:
            return max(0.0, min(100.0, 100.0 * now / full))
    return None

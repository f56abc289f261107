"""What was read of a machine; None wherever that cannot be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Readings:
    """One look at the machine.

    Attributes:
        on_mains: whether it has outside power; True for a machine without a battery.
        has_battery: whether there is one that drives the machine.
        battery_percent: its charge, of the emptiest one.
        throttled: what a Raspberry Pi's firmware reports now: ``under-voltage``, ``frequency-capped``, ``throttled``,
            ``soft-temperature-limit``; None where there is no such firmware.
        temperature_c: of the hottest sensor.
        load_per_core: processes that ran or waited, mean of a minute, divided by cores.
        memory_available_mib: that programs can have without swapping.
        memory_pressure_percent: share of the last 10 s in which some program waited for memory.
        cpu_pressure_percent: the same for the processor.
        io_pressure_percent: the same for disks.
        metered: whether NetworkManager calls a connection metered.
    """

    on_mains: bool | None = None
    has_battery: bool | None = None
    battery_percent: float | None = None
    throttled: frozenset[str] | None = None
    temperature_c: float | None = None
    load_per_core: float | None = None
    memory_available_mib: float | None = None
    memory_pressure_percent: float | None = None
    cpu_pressure_percent: float | None = None
    io_pressure_percent: float | None = None
    metered: bool | None = None


@dataclass(frozen=True)
class UsedToday:
    """What was used on this local day; never less than what really was.

    Attributes:
        transferred_bytes: up and down.
        training_s: seconds of training.
        written_bytes: to the disk.
    """

    transferred_bytes: float = 0.0
    training_s: float = 0.0
    written_bytes: float = 0.0

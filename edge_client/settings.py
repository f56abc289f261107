"""What the owner of a device sets: every key, its unit, its default and what is allowed. No file and no clock here.

A limit that is "off" limits nothing. Whoever asks for a limit gets it: one that cannot be measured on this machine
keeps it from training, see ``conditions.decide``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from shared.errors import UsageError

OFF: Final = "off"
ALWAYS: Final = ""
MEGABYTE: Final = 1_000_000  # bytes
DAY_MINUTES: Final = 24 * 60
Kind = Literal["number", "flag", "hours"]
_WINDOW: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class Train:
    """When this device may train; None is "off". Units are in the names."""

    hours: str = ALWAYS
    on_battery: bool = False
    battery_at_least_percent: float = 20.0
    throttled: bool = False
    temperature_below_c: float | None = None
    load_below_per_core: float | None = None
    memory_available_at_least_mib: float | None = None
    memory_pressure_below_percent: float | None = None
    metered: bool = False
    pause_at_most_s: float = 1800.0
    sealed_update_at_most_s: float | None = None


@dataclass(frozen=True)
class Limits:
    """How much this device may use per local day; None is "off". A megabyte is 10**6 bytes."""

    download_and_upload_megabytes_per_day: float | None = None
    training_seconds_per_day: float | None = None
    energy_wh_per_day: float | None = None
    power_w: float | None = None
    written_megabytes_per_day: float | None = None

    @property
    def transferred_bytes(self) -> float:
        """How many bytes may go up and down."""
        return _bytes(self.download_and_upload_megabytes_per_day)

    @property
    def written_bytes(self) -> float:
        """How many bytes may be written."""
        return _bytes(self.written_megabytes_per_day)

    @property
    def training_s(self) -> float:
        """How long training may take, for its time and for its energy."""
        of_energy = math.inf
        if self.energy_wh_per_day is not None and self.power_w is not None:
            of_energy = self.energy_wh_per_day * 3600.0 / self.power_w
        return min(of_energy, math.inf if self.training_seconds_per_day is None else self.training_seconds_per_day)


def _bytes(megabytes: float | None) -> float:
    return math.inf if megabytes is None else megabytes * MEGABYTE


@dataclass(frozen=True)
class Settings:
    """Everything that an owner can set."""

    train: Train = field(default_factory=Train)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Rule:
    """What one key may be.

    Attributes:
        kind: of value.
        about: what it does.
        unit: empty where it has none.
        low: the smallest number.
        high: the largest number.
        may_be_off: whether "off" is allowed.
    """

    kind: Kind
    about: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    may_be_off: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.kind == "flag":
            return "true or false"
        if self.kind == "hours":
            return 'local times as "22:00-07:00", several separated by commas, or "" for always'
        unit = f", in {self.unit}" if self.unit else ""
        off = ' or "off"' if self.may_be_off else ""
        return f"a number from {self.low:g} to {self.high:g}{unit}{off}"


RULES: Final[dict[str, Rule]] = {
    "train.hours": Rule("hours", "train at these local times only", "local time"),
    "train.on_battery": Rule("flag", "train while the machine runs on a battery"),
    "train.battery_at_least_percent": Rule(
        "number", "train with this much charge, where there is a battery", "%", 0, 100
    ),
    "train.throttled": Rule("flag", "train while the firmware reports under-voltage or throttling (Raspberry Pi)"),
    "train.temperature_below_c": Rule(
        "number", "train while the hottest sensor is below", "°C", 0, 150, may_be_off=True
    ),
    "train.load_below_per_core": Rule(
        "number",
        "train while other programs' load of one minute is below",
        "processes per core",
        0,
        1000,
        may_be_off=True,
    ),
    "train.memory_available_at_least_mib": Rule(
        "number", "train with this much memory available", "MiB", 0, 2**20, may_be_off=True
    ),
    "train.memory_pressure_below_percent": Rule(
        "number", "train while memory stalls (PSI some avg10) are below", "% of time", 0, 100, may_be_off=True
    ),
    "train.metered": Rule("flag", "work over a connection that NetworkManager calls metered"),
    "train.pause_at_most_s": Rule("number", "give up a training that has to pause for longer", "seconds", 1, 86400),
    "train.sealed_update_at_most_s": Rule(
        "number",
        "keep a trained update that could not join a cohort for this long, where the plan would longer; 0 keeps none",
        "seconds",
        0,
        7_776_000,
        may_be_off=True,
    ),
    "limits.download_and_upload_megabytes_per_day": Rule(
        "number", "move this much, down and up together", "10**6 bytes per local day", 0, 1e9, may_be_off=True
    ),
    "limits.training_seconds_per_day": Rule(
        "number", "train for this long", "seconds per local day", 0, 86400, may_be_off=True
    ),
    "limits.energy_wh_per_day": Rule(
        "number",
        "use this much energy for training, at limits.power_w",
        "watt-hours per local day",
        0,
        1e6,
        may_be_off=True,
    ),
    "limits.power_w": Rule(
        "number", "what this machine draws while it trains, by your meter", "watts", 0.01, 1e4, may_be_off=True
    ),
    "limits.written_megabytes_per_day": Rule(
        "number", "write this much to the card", "10**6 bytes per local day", 0, 1e9, may_be_off=True
    ),
}
SECTIONS: Final[dict[str, type[Any]]] = {"train": Train, "limits": Limits}


def from_values(values: Mapping[str, Any], origin: str) -> Settings:
    """Return the settings that a file's sections give.

    Args:
        values: sections by name, as TOML reads them.
        origin: where they are from, for messages.

    Raises:
        UsageError: ``bad-settings`` that names the key, what is allowed, and the nearest known key.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for section, keys in values.items():
        if section not in SECTIONS:
            raise _unknown(section, list(SECTIONS), origin, "section")
        if not isinstance(keys, Mapping):
            raise UsageError("bad-settings", f"{origin}: {section} is no section.", f"write [{section}] above its keys")
        for key, value in keys.items():
            name = f"{section}.{key}"
            if name not in RULES:
                raise _unknown(name, list(RULES), origin, "key")
            given[section][key] = checked(name, value, origin)
    made = Settings(Train(**given["train"]), Limits(**given["limits"]))
    if made.limits.energy_wh_per_day is not None and made.limits.power_w is None:
        raise UsageError(
            "bad-settings",
            f"{origin}: limits.energy_wh_per_day needs limits.power_w: energy is training time times that power.",
            "measure what this machine draws while it trains, and set limits.power_w first",
        )
    return made


def checked(name: str, value: object, origin: str) -> str | bool | float | None:
    """Return a key's value, None for "off".

    Raises:
        UsageError: ``bad-settings``.
    """
    rule = RULES[name]
    if rule.may_be_off and value == OFF:
        return None
    if rule.kind == "flag" and isinstance(value, bool):
        return value
    if rule.kind == "hours" and isinstance(value, str) and _are_hours(value):
        return value.strip()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if rule.kind == "number" and is_number and rule.low <= value <= rule.high:  # type: ignore[operator]  # a number
        return float(value)  # type: ignore[arg-type]  # a number
    raise UsageError("bad-settings", f"{origin}: {name} is {_shown(value)}.", f"it must be {rule.allowed}")


def windows(hours: str) -> tuple[tuple[int, int], ...]:
    """Return checked hours as minutes of the day, first and end; an end before the first is on the next day."""
    found = (_WINDOW.fullmatch(part.strip()) for part in hours.split(",") if part.strip())
    times = (tuple(map(int, one.groups())) for one in found if one)
    return tuple((first * 60 + minute, end * 60 + last) for first, minute, end, last in times)


def _are_hours(text: str) -> bool:
    parts = [part for part in text.split(",") if part.strip()] if text.strip() else []
    found = windows(text)
    return len(found) == len(parts) and (bool(found) or not text.strip()) and all(first != end for first, end in found)


def nearest(name: str, known: list[str]) -> str:
    """Return the known name that is most like ``name``."""
    by_tail = {one.rpartition(".")[2]: one for one in known}
    close = difflib.get_close_matches(name, known, 1, 0.6)
    tail = difflib.get_close_matches(name.rpartition(".")[2], list(by_tail), 1, 0.0)
    return close[0] if close else by_tail[tail[0]]


def _unknown(name: str, known: list[str], origin: str, what: str) -> UsageError:
    return UsageError(
        "bad-settings",
        f"{origin}: there is no {what} {_shown(name)[1:-1]}.",
        f"the nearest one is {nearest(name, known)}; `fedloom-agent config` lists all",
    )


def unknown_key(name: str) -> UsageError:
    """Return the error for a key that there is not."""
    return _unknown(name, list(RULES), "config set", "key")


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


def as_values(settings: Settings) -> dict[str, str | bool | float]:
    """Return every key with its value as a person writes it."""
    sections: dict[str, dict[str, Any]] = asdict(settings)
    return {
        f"{section}.{key}": OFF if value is None else value
        for section, keys in sections.items()
        for key, value in keys.items()
    }

"""Files of /proc and /sys as real machines have them, written below a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

# A Raspberry Pi 4 with Raspberry Pi OS (Debian 12): no power supply class entries, one thermal zone.
PI: Final[dict[str, str]] = {
    "proc/loadavg": "0.36 0.42 0.38 1/183 24117\n",
    "proc/meminfo": (
        "MemTotal:        3885396 kB\nMemFree:         2409964 kB\nMemAvailable:    3299520 kB\n"
        "Buffers:           75188 kB\nCached:           862812 kB\nSwapTotal:        102396 kB\n"
    ),
    "proc/pressure/cpu": (
        "some avg10=1.47 avg60=2.09 avg300=1.80 total=192847721\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ),
    "proc/pressure/io": (
        "some avg10=0.00 avg60=0.04 avg300=0.11 total=20173344\nfull avg10=0.00 avg60=0.03 avg300=0.09 total=17634711\n"
    ),
    "proc/pressure/memory": (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=83127\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=61204\n"
    ),
    "proc/self/io": (
        "rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nsyscw: 632675\nread_bytes: 0\nwrite_bytes: 323932160\n"
        "cancelled_write_bytes: 0\n"
    ),
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48199\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
}
UPS_HAT: Final[dict[str, str]] = {  # a fuel gauge on I2C (MAX17040) with the mains' pin on a GPIO
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/capacity": "63\n",
    "sys/class/power_supply/battery/voltage_now": "3915000\n",
    "sys/class/power_supply/battery/online": "1\n",
    "sys/class/power_supply/gpio-charger/type": "Mains\n",
    "sys/class/power_supply/gpio-charger/online": "0\n",
}
LAPTOP: Final[dict[str, str]] = {
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/present": "1\n",
    "sys/class/power_supply/BAT0/status": "Not charging\n",
    "sys/class/power_supply/BAT0/energy_now": "30240000\n",
    "sys/class/power_supply/BAT0/energy_full": "50400000\n",
}
MOUSE: Final[dict[str, str]] = {  # whose battery drives no machine
    "sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
    "sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
    "sys/class/power_supply/hidpp_battery_0/status": "Discharging\n",
    "sys/class/power_supply/hidpp_battery_0/capacity": "5\n",
}
WIFI: Final = (
    "GENERAL.STATE:100 (connected)\nGENERAL.METERED:no (guessed)\n\n"
    "GENERAL.STATE:20 (unavailable)\nGENERAL.METERED:unknown\n\n"
    "GENERAL.STATE:100 (connected (externally))\nGENERAL.METERED:no (guessed)\n"
)
PHONE: Final = (
    "GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes (guessed)\n\n"
    "GENERAL.STATE:30 (disconnected)\nGENERAL.METERED:unknown\n"
)
UNPLUGGED_PHONE: Final = "GENERAL.STATE:30 (disconnected)\nGENERAL.METERED:yes\n"


def write_machine(root: Path, *trees: Mapping[str, str]) -> Path:
    """Write files below ``root``, and return it."""
    for tree in trees:
        for name, text in tree.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def heat(root: Path, temperature_c: float) -> None:
    """Let the sensor of a Pi show a temperature."""
    path = root / "sys/class/thermal/thermal_zone0/temp"
    partial = path.with_suffix(".new")
    partial.write_text(f"{round(temperature_c * 1000)}\n")
    partial.replace(path)


def programs(answers: Mapping[str, str]) -> Callable[[Sequence[str]], str | None]:
    """Return what runs programs: those that are named answer, the others are not installed."""
    return lambda words: answers.get(words[0])

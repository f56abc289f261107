"""Probes against files as real machines have them, and against anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from edge_client.conditions.heat import VCGENCMD, read_temperature_c, read_throttled
from edge_client.conditions.load import read_written_bytes
from edge_client.conditions.network import NMCLI, read_metered
from edge_client.conditions.power import Power, read_power
from edge_client.conditions.probes import PROGRAM_EVERY_S, PROGRAM_TIMEOUT_S, Probes, run_program
from edge_client.conditions.readings import Readings
from tests.edge_client.machines import LAPTOP, MOUSE, PHONE, PI, UNPLUGGED_PHONE, UPS_HAT, WIFI, programs, write_machine

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # machines


def test_everything_that_a_pi_says_is_read(tmp_path: Path) -> None:
    run = programs({"vcgencmd": "throttled=0x50005\n", "nmcli": WIFI})
    probes = Probes(write_machine(tmp_path, PI), run, lambda: 0.0, 4)
    assert probes.read() == Readings(
        on_mains=True,
        has_battery=False,
        battery_percent=None,
        throttled=frozenset({"under-voltage", "throttled"}),
        temperature_c=48.199,
        load_per_core=0.09,
        memory_available_mib=3299520 / 1024,
        memory_pressure_percent=0.0,
        cpu_pressure_percent=1.47,
        io_pressure_percent=0.0,
        metered=False,
    )
    assert probes.written_bytes() == 323932160


def test_a_machine_that_says_nothing_is_unknown_and_on_mains(tmp_path: Path) -> None:
    probes = Probes(tmp_path, programs({}), lambda: 0.0, 1)
    assert probes.read() == Readings(on_mains=True, has_battery=False)
    assert probes.written_bytes() is None


@pytest.mark.parametrize(
    ("trees", "found"),
    [
        ((PI,), Power(on_mains=True, has_battery=False, battery_percent=None)),
        ((UPS_HAT,), Power(on_mains=False, has_battery=True, battery_percent=63.0)),
        (
            (UPS_HAT, {"sys/class/power_supply/battery/status": "Charging\n"}),
            Power(on_mains=True, has_battery=True, battery_percent=63.0),
        ),
        ((LAPTOP,), Power(on_mains=True, has_battery=True, battery_percent=60.0)),
        (
            (LAPTOP, {"sys/class/power_supply/AC/online": "0\n", "sys/class/power_supply/BAT0/status": "Unknown\n"}),
            Power(on_mains=False, has_battery=True, battery_percent=60.0),
        ),
        ((MOUSE,), Power(on_mains=True, has_battery=False, battery_percent=None)),
        (
            ({"sys/class/power_supply/b/type": "Battery\n", "sys/class/power_supply/b/status": "Unknown\n"},),
            Power(on_mains=None, has_battery=True, battery_percent=None),
        ),
        (
            (LAPTOP, {"sys/class/power_supply/BAT0/present": "0\n"}),
            Power(on_mains=True, has_battery=False, battery_percent=None),
        ),
    ],
)
def test_power(tmp_path: Path, trees: tuple[dict[str, str], ...], found: Power) -> None:
    assert read_power(write_machine(tmp_path, *trees)) == found


def test_the_emptiest_battery_counts(tmp_path: Path) -> None:
    second = {
        "sys/class/power_supply/BAT1/type": "Battery\n",
        "sys/class/power_supply/BAT1/status": "Full\n",
        "sys/class/power_supply/BAT1/capacity": "41\n",
    }
    assert read_power(write_machine(tmp_path, LAPTOP, second)).battery_percent == 41


def test_the_hottest_sensor_counts_and_sensors_that_are_off_do_not(tmp_path: Path) -> None:
    root = write_machine(tmp_path, PI)
    for number, text in enumerate(["71500\n", "-273200\n", "0xffff\n", "655350\n"], 1):
        write_machine(root, {f"sys/class/thermal/thermal_zone{number}/temp": text})
    assert read_temperature_c(root) == 71.5


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("throttled=0x0\n", frozenset()),
        ("throttled=0x50000\n", frozenset()),  # it happened, but not now
        ("throttled=0xf\n", frozenset({"under-voltage", "frequency-capped", "throttled", "soft-temperature-limit"})),
        ("VCHI initialization failed\n", None),
        ("", None),
        (None, None),
    ],
)
def test_flags_of_the_firmware(printed: str | None, found: frozenset[str] | None) -> None:
    assert read_throttled(lambda words: printed if words == VCGENCMD else None) == found


@pytest.mark.parametrize(
    ("printed", "found"),
    [(WIFI, False), (PHONE, True), (WIFI + "\n" + PHONE, True), (UNPLUGGED_PHONE, None), ("", None), (None, None)],
)
def test_metered_connections(printed: str | None, found: bool | None) -> None:  # noqa: FBT001  # what is expected
    assert read_metered(lambda words: printed if words == NMCLI else None) == found


def test_programs_are_asked_now_and_then(tmp_path: Path) -> None:
    asked: list[str] = []
    time_s = [0.0]
    probes = Probes(tmp_path, lambda words: asked.append(words[0]), lambda: time_s[0], 1)
    for now_s in (0.0, 1.0, PROGRAM_EVERY_S - 0.1, PROGRAM_EVERY_S):
        time_s[0] = now_s
        probes.read()
    assert asked == ["vcgencmd", "nmcli"] * 2
    assert PROGRAM_EVERY_S < 5, "a pause follows within 5 s"


def test_programs_of_the_system_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "nmcli-of-somebody"
    planted.write_text("#!/bin/sh\necho yes\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_program(["nmcli-of-somebody"]) is None
    assert run_program(["echo", "a"]) == "a\n"
    assert run_program(["false"]) is None
    assert run_program(["sleep", str(10 * PROGRAM_TIMEOUT_S)]) is None


FILES = sorted({*PI, *UPS_HAT, *LAPTOP, *MOUSE})


@run_with(max_examples=50, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=60) | st.just(b"9" * 400), min_size=1))
def test_whatever_is_in_the_files_no_probe_fails(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("machine")
    write_machine(root, PI, UPS_HAT, LAPTOP, MOUSE)
    for name, data in files.items():
        (root / name).write_bytes(data)
    found = Probes(root, lambda _words: next(iter(files.values())).decode("utf-8", "replace"), lambda: 0.0, 1).read()
    assert found.battery_percent is None or 0 <= found.battery_percent <= 100
    assert found.temperature_c is None or -40 <= found.temperature_c <= 150


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    root = write_machine(tmp_path, PI, LAPTOP)
    (root / "proc/self/io").chmod(0)
    (root / "sys/class/power_supply").chmod(0)
    try:
        assert read_written_bytes(root) is None
        assert read_power(root) == Power(None, None, None)
    finally:
        (root / "sys/class/power_supply").chmod(0o755)

"""The agent's systemd unit is valid, gives little away, and starts a command that exists."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edge_client import cli, transport

UNIT = Path(cli.__file__).parent / "packaging" / "fedloom-agent.service"
MOST_EXPOSURE = 25  # tenths; systemd calls up to 2.5 OK


def values(name: str) -> list[str]:
    lines = UNIT.read_text("utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, whose program is the one of this environment."""
    program = shlex.split(values("ExecStart")[0])[0]
    copy = tmp_path / UNIT.name
    own = str(Path(sys.executable).parent / "fedloom-agent")
    copy.write_text(UNIT.read_text("utf-8").replace(program, own), "utf-8")
    return copy


def analyze(*words: str | Path) -> str:
    """Run systemd-analyze (Debian: package systemd)."""
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_is_valid(unit: Path) -> None:
    assert not analyze("verify", unit)


def test_it_exposes_little(unit: Path) -> None:
    assert "Overall exposure level" in analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit)


def test_it_starts_a_command_that_exists() -> None:
    _, *words = shlex.split(values("ExecStart")[0])
    folders = {"${STATE_DIRECTORY}": "/var/lib/fedloom", "${CONFIGURATION_DIRECTORY}": "/etc/fedloom"}
    for name, folder in folders.items():
        words = [word.replace(name, folder) for word in words]
    arguments = cli._parser().parse_args(words)
    assert arguments.state == [Path("/var/lib/fedloom")]
    assert arguments.config == Path("/etc/fedloom/agent.toml")
    assert arguments.wait_for_enrolment


def test_nothing_that_the_agent_may_wait_for_in_one_go_is_as_long_as_the_watchdog() -> None:
    (watchdog_s,) = map(float, values("WatchdogSec"))
    assert values("Type") == ["notify"]
    assert watchdog_s > 4 * (transport.CONNECT_TIMEOUT_S + transport.READ_TIMEOUT_S)


def test_what_does_not_mend_by_itself_is_not_started_again() -> None:
    codes = set(values("RestartPreventExitStatus")[0].split())
    assert codes == {"2", "3"}  # usage and settings; refused

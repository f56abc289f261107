"""The systemd units are valid, give nothing away, and start commands that exist."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_server import cli

DEPLOY = Path(cli.__file__).parent / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
MOST_EXPOSURE = 25  # tenths; systemd calls up to 2.5 OK


def command_of(unit: Path) -> list[str]:
    (line,) = (line for line in unit.read_text("utf-8").splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose program is the one of this environment."""
    source: Path = request.param
    program = Path(sys.executable).parent / "fedloom-server"
    copy = tmp_path / source.name
    copy.write_text(source.read_text("utf-8").replace(command_of(source)[0], str(program)), "utf-8")
    return copy


def analyze(*words: str | Path) -> str:
    """Run systemd-analyze (Debian: package systemd)."""
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_there_is_one_for_each_server() -> None:
    assert [unit.stem for unit in UNITS] == ["fedloom-aggregator", "fedloom-authority"]


def test_a_unit_is_valid(unit: Path) -> None:
    assert not analyze("verify", unit)


def test_a_unit_exposes_little(unit: Path) -> None:
    assert "Overall exposure level" in analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit)


def test_a_unit_starts_a_command_that_exists(unit: Path) -> None:
    _, *words = command_of(unit)
    options = [word.replace("${STATE_DIRECTORY}", "/var/lib/x") for word in words if word != "$FEDLOOM_OPTIONS"]
    arguments = cli.command_line().parse_args([*options, "--public-url", "https://my-server:8443"])
    assert (str(arguments.data), arguments.log) == ("/var/lib/x", "json")
    assert f"StateDirectory={unit.stem.removesuffix('-aggregator')}\n" in unit.read_text("utf-8")

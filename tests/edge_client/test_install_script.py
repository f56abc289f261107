"""The installer takes the way that fits a board, refuses the others by name, and installs no file that was changed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from edge_client import cli

PACKAGING: Final = Path(cli.__file__).parent / "packaging"
SCRIPT: Final = PACKAGING / "install.sh"
TOOLS: Final = ("sh", "sed", "tr", "dirname", "basename", "grep", "sha256sum", "cat")
REFUSED: Final = 3


@dataclass
class Board:
    """A machine that says of itself what a test wants.

    Attributes:
        folder: of its programs and its packages.
        machine: as ``uname -m`` says.
        bits: of its programs.
        release: /etc/os-release.
        python: version, empty for none.
        libc: what getconf says.
        system: as ``uname -s`` says.
    """

    folder: Path
    machine: str = "aarch64"
    bits: int = 64
    release: str = 'ID=debian\nVERSION_ID="12"\n'
    python: str = "3.11"
    libc: str = "glibc 2.36"
    system: str = "Linux"

    def install(self) -> subprocess.CompletedProcess[str]:
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name in TOOLS:
            (programs / name).unlink(missing_ok=True)
            (programs / name).symlink_to(shutil.which(name) or name)
        answers = {
            "uname": f'[ "$1" = -s ] && echo {self.system} || echo {self.machine}',
            "getconf": f'[ "$1" = LONG_BIT ] && echo {self.bits} || echo {self.libc}',
            "python3": f"echo {self.python}" if self.python else "exit 127",
        }
        for name, answer in answers.items():
            (programs / name).write_text(f"#!/bin/sh\n{answer}\n")
            (programs / name).chmod(0o755)
        (self.folder / "os-release").write_text(self.release)
        around = {"PATH": str(programs), "FEDLOOM_OS_RELEASE": str(self.folder / "os-release")}
        command = ["sh", str(SCRIPT), "--dry-run", "--packages", str(self.folder / "dist")]
        return subprocess.run(command, env=around, capture_output=True, text=True, check=False)

    def put(self, arch: str) -> Path:
        """Put a package where the installer looks, and its hash."""
        packages = self.folder / "dist"
        packages.mkdir(exist_ok=True)
        path = packages / f"fedloom-agent_0.1.0_{arch}.deb"
        path.write_bytes(b"a package")
        (packages / "SHA256SUMS").write_text(f"{hashlib.sha256(b'a package').hexdigest()}  {path.name}\n")
        return path


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
@pytest.mark.parametrize("name", ["debian", "raspbian"])
def test_debian_12_gets_the_package_of_its_machine(tmp_path: Path, machine: str, arch: str, name: str) -> None:
    board = Board(tmp_path, machine, release=f'ID={name}\nVERSION_ID="12"\n')
    path = board.put(arch)
    done = board.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"would run: apt-get install --yes {path}" in done.stdout


def test_a_package_that_was_changed_is_refused(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.put("arm64").write_bytes(b"another package")
    done = board.install()
    assert done.returncode == REFUSED
    assert "is not the file that SHA256SUMS names" in done.stderr
    assert "would run" not in done.stdout


def test_a_package_without_a_hash_is_refused(tmp_path: Path) -> None:
    board = Board(tmp_path)
    path = board.put("arm64")
    (path.parent / "SHA256SUMS").write_text(f"{'0' * 64}  another_file.deb\n")
    assert board.install().returncode == REFUSED
    (path.parent / "SHA256SUMS").unlink()
    assert "has no SHA256SUMS" in board.install().stderr


def test_newer_systems_get_an_environment_with_hashed_wheels(tmp_path: Path) -> None:
    done = Board(tmp_path, release='ID=ubuntu\nVERSION_ID="24.04"\n', python="3.12").install()
    assert done.returncode == 0, done.stderr
    assert "pip install --quiet --require-hashes" in done.stdout
    assert "apt-get" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits": 32}, "this system is 32-bit (aarch64)"),  # a 64-bit kernel below a 32-bit system
        ({"bits": 32, "machine": "armv7l"}, "this system is 32-bit (armv7l)"),
        ({"machine": "riscv64"}, "no TFLite runtime is published for riscv64"),
        ({"system": "Darwin"}, "this is Darwin"),
        ({"libc": ""}, "not glibc"),
        ({"release": "ID=debian\nVERSION_ID=11\n", "python": "3.9"}, "Python 3.9 has no TFLite runtime"),
        ({"release": "", "python": ""}, "there is no python3 here"),
        ({}, "holds no package for arm64"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    done = Board(tmp_path, **changes).install()  # type: ignore[arg-type]  # each as the board has it
    assert done.returncode == REFUSED
    assert reason in done.stderr
    assert "Try: " in done.stderr
    assert "would run" not in done.stdout


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
@pytest.mark.parametrize("name", ["install.sh", "postinst", "postrm", "prerm", "fedloom-agent"])
def test_shellcheck_finds_nothing(name: str) -> None:
    done = subprocess.run(["shellcheck", PACKAGING / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")

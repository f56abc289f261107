"""Build the agent's Debian package: ``python -m tools.packaging.build --arch amd64 --out dist``.

Its wheels are the ones of the hashed locks, for the package's machine, whichever one builds it. It is for Debian 12,
whose Python runs it, and lies in /opt/fedloom as a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.errors import FedloomError, Refused
from tools.packaging.contents import MACHINES, PYTHON, Machine, locked, prune, settings_template

ROOT: Final = Path(__file__).parents[2]
FILES: Final = ROOT / "edge_client" / "packaging"
VERSION: Final = "0.1.0"
_CONTROL: Final = """\
Package: fedloom-agent
Version: {version}
Architecture: {arch}
Maintainer: Fedloom <fedloom@localhost>
Installed-Size: {kib}
Depends: python3 (>= 3.11), python3 (<< 3.12), libstdc++6, adduser, init-system-helpers
Suggests: python3-pil
Section: science
Priority: optional
Description: federated learning on this device's own data
 Trains a shared model on examples that never leave this device, and sends masked changes that only a sum reveals.
 The service is idle until the device is enrolled.
"""
_COMMAND: Final = """\
#!/opt/fedloom/bin/python3 -I
import sys

from edge_client.cli import main

sys.exit(main())
"""
_VENV: Final = "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\n"


def build(machine: Machine, out: Path, *, compression: str = "xz") -> Path:
    """Return the package that was built in ``out``.

    Args:
        machine: that it is for.
        out: folder, made if it is not there.
        compression: as dpkg-deb names it; "gzip" is several times faster, and the file half as large again.

    Raises:
        Refused: ``wheels-missing`` or ``wrong-python``.
    """
    if sys.version_info[:2] != (3, 11):
        raise Refused("wrong-python", f"Bytecode for Debian 12 needs Python {PYTHON}.", f"run it with Python {PYTHON}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedloom-deb-") as folder:
        tree = Path(folder) / "tree"
        site = tree / "opt/fedloom/lib/python3.11/site-packages"
        site.mkdir(parents=True)
        _install(machine, site, Path(folder) / "lock.txt")
        before = _mib(site)
        prune(site)
        print(f"wheels: {before:.0f} MiB, {_mib(site):.0f} MiB without what an agent never loads", file=sys.stderr)
        _add_fedloom(site)
        _compile(tree, site)
        _add_files(tree)
        _add_control(tree, machine)
        path = out / f"fedloom-agent_{VERSION}_{machine.debian}.deb"
        words: list[str | Path] = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", tree, path]
        subprocess.run(words, check=True, stdout=2)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {_mib(tree):.0f} MiB installed", file=sys.stderr)
    return path


def write_hashes(out: Path) -> None:
    """Write SHA256SUMS of every package in ``out``, which install.sh checks."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.glob("*.deb"))]
    (out / "SHA256SUMS").write_text("".join(lines), "utf-8")


def _install(machine: Machine, site: Path, lock: Path) -> None:
    lock.write_text(locked((ROOT / "requirements" / machine.runtime).read_text("utf-8"), machine), "utf-8")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    words += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
    words += [f"--platform={tag}" for tag in machine.platforms]
    done = subprocess.run([*words, "--target", site, "-r", lock], check=False, text=True, stderr=subprocess.PIPE)
    if done.returncode:
        raise Refused("wheels-missing", f"No package for {machine.debian}: {done.stderr.strip()[-400:]}")


def _add_fedloom(site: Path) -> None:
    for name in ("edge_client", "shared"):
        unwanted = shutil.ignore_patterns("__pycache__", "packaging", "spec", "decisions", "*.md")
        shutil.copytree(ROOT / name, site / name, ignore=unwanted)


def _compile(tree: Path, site: Path) -> None:
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # files of a package do not change under it
    if not compileall.compile_dir(site, quiet=2, stripdir=str(tree), invalidation_mode=mode):
        raise Refused("not-compiled", "Some files have no valid Python in them.")


def _add_files(tree: Path) -> None:
    own = tree / "opt/fedloom"
    (own / "bin").mkdir()
    (own / "bin/python3").symlink_to("/usr/bin/python3")
    (own / "pyvenv.cfg").write_text(_VENV)
    _put(own / "bin/fedloom-agent", _COMMAND, 0o755)
    _put(tree / "usr/bin/fedloom-agent", (FILES / "fedloom-agent").read_text(), 0o755)
    _put(tree / "lib/systemd/system/fedloom-agent.service", (FILES / "fedloom-agent.service").read_text(), 0o644)
    _put(tree / "etc/fedloom/agent.toml", settings_template(), 0o644)
    _put(tree / "usr/share/doc/fedloom-agent/copyright", (ROOT / "LICENSE").read_text(), 0o644)


def _add_control(tree: Path, machine: Machine) -> None:
    control = _CONTROL.format(version=VERSION, arch=machine.debian, kib=int(_mib(tree) * 1024))
    _put(tree / "DEBIAN/control", control, 0o644)
    _put(tree / "DEBIAN/conffiles", "/etc/fedloom/agent.toml\n", 0o644)
    for name in ("postinst", "prerm", "postrm"):
        _put(tree / "DEBIAN" / name, (FILES / name).read_text(), 0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _put(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)


def _mib(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Build one package and return an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.packaging.build", description=__doc__)
    parser.add_argument("--arch", choices=sorted(MACHINES), default="amd64", help="Debian's name of the machine")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the package")
    arguments = parser.parse_args(argv)
    try:
        print(build(MACHINES[arguments.arch], arguments.out))
        write_hashes(arguments.out)
    except FedloomError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

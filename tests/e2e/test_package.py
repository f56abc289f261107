"""The Debian package in a fresh Debian 12: it installs, waits, enrols, contributes, and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edge_client.agent import open_agent
from edge_client.enrolment import enrol
from edge_client.state_folder import StateFolder
from shared.clock import SystemClock
from shared.plan import Stop
from shared.secagg.floors import DeviceFloors
from tests.bundles import activity_folder
from tests.cloud_server.local import small_plan
from tests.e2e.servers import Deployment
from tests.edge_client.devices import work_on, write_points
from tools.packaging.build import build
from tools.packaging.contents import MACHINES

__all__ = ["activity_folder"]

ARCH: Final = {machine.python: name for name, machine in MACHINES.items()}.get(platform.machine(), "")
BASE: Final = Path(tempfile.gettempdir()) / f"fedloom-bookworm-{ARCH}.tgz"  # stays for the next run
STATE: Final = "/var/lib/fedloom"
EXAMPLES: Final = "/var/lib/fedloom-examples"
PROBE: Final = """
import sys
from pathlib import Path
from edge_client.trainer.runtime import load_interpreter
runner = load_interpreter(Path("/root/train.tflite").read_bytes()).get_signature_runner
weights = runner("get_weights")()["weights"]
assert runner("set_weights")(weights=weights)["count"].shape == (1,)
print(sys.executable)
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap"),
    pytest.mark.skipif(not ARCH, reason="no package is built for this machine"),
]


class Root:
    """A Debian in a folder, which shares the network of this machine and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        around = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", **environment}
        command = ["chroot", str(self.path), *words]
        return subprocess.Popen(
            command, env=around, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, out
        return out

    def inside(self, path: str) -> Path:
        return self.path / path.removeprefix("/")

    def files(self) -> set[str]:
        """Return every name, except where dpkg and Python's own tools keep notes."""
        notes = re.compile(r"/(proc|tmp|run|var/(cache|log|lib/dpkg)|var/lib/systemd/deb-systemd-helper.*)(/|$)")
        backups = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"}
        names = {"/" + str(path.relative_to(self.path)) for path in self.path.rglob("*")}
        return {name for name in names if not notes.match(name)} - backups


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(MACHINES[ARCH], tmp_path_factory.mktemp("package"))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    if not BASE.exists():
        made, partial = tmp_path / "base", BASE.with_suffix(".part")
        options = ["--variant=minbase", "--include=python3,ca-certificates"]
        subprocess.run(["debootstrap", *options, f"--arch={ARCH}", "bookworm", made], check=True)
        subprocess.run(["tar", "-C", made, "-czf", partial, "."], check=True)
        partial.replace(BASE)
    path = tmp_path / "root"
    path.mkdir()
    subprocess.run(["tar", "-C", path, "-xzf", BASE], check=True)
    yield Root(path)
    shutil.rmtree(path)


def bring_another(running: Deployment, folder: Path, task: str) -> threading.Thread:
    """Let another device contribute from outside."""
    (code,) = running.codes(task, 1)
    write_points(folder / "examples", 1)
    state = StateFolder(folder / "state")
    enrol(
        code.to_text(),
        state,
        folder / "examples",
        floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
        name="",
        clock=SystemClock(),
        random_bytes=np.random.default_rng(1).bytes,
        jitter=lambda: 0.5,
    )

    def work() -> None:
        with open_agent(state, log=lambda _line: None) as agent:
            work_on(agent)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def users_of(root: Root) -> set[str]:
    return {line.partition(":")[0] for line in root.inside("/etc/passwd").read_text().splitlines()}


def install(root: Root, package: Path) -> str:
    """Install the package, and return what that says."""
    shutil.copy(package, root.inside("/root"))
    told = root.run("dpkg", "-i", f"/root/{package.name}")
    root.inside(f"/root/{package.name}").unlink()
    return told


def test_from_installing_to_purging(running: Deployment, tmp_path: Path, package: Path, root: Root) -> None:
    before, users = root.files(), users_of(root)

    told = install(root, package)
    assert "idle until this device is enrolled" in told
    assert root.inside("/etc/systemd/system/multi-user.target.wants/fedloom-agent.service").is_symlink()
    assert users_of(root) == users | {"fedloom"}
    assert root.inside(STATE).stat().st_mode & 0o777 == 0o700

    plan = small_plan("package", members=2, stop=Stop(rounds=1), dropout_share=0.0)
    running.create_task(plan, 6)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(root.inside("/run/n")))
        root.inside("/run/n").chmod(0o666)
        supervisor.settimeout(300)
        words = ["--state", STATE, "--config", "/etc/fedloom/agent.toml", "--exit-when-done", "--json"]
        agent = root.start("fedloom-agent", "run", "--wait-for-enrolment", *words, NOTIFY_SOCKET="/run/n")
        try:
            assert supervisor.recv(4096) == b"READY=1"
            assert supervisor.recv(4096).startswith(b"STATUS=not enrolled yet")
            write_points(root.inside(EXAMPLES), 0)
            (code,) = running.codes("package", 1)
            demands = ["--allow-cohorts-of", "2", "--min-corrupt-share", "0"]
            root.run("fedloom-agent", "enroll", code.to_text(), "--state", STATE, "--examples", EXAMPLES, *demands)
            other = bring_another(running, tmp_path / "other", "package")
            out, _ = agent.communicate(timeout=600)
            other.join(60)
        finally:
            agent.kill()
            agent.wait()
    assert agent.returncode == 0, out
    ledger = root.run("fedloom-agent", "ledger", "--state", STATE)
    assert "counted" in ledger, ledger
    owner = root.inside(STATE).stat().st_uid
    assert {path.lstat().st_uid for path in root.inside(STATE).rglob("*")} == {owner} != {0}

    assert "leave --yes" in root.run("dpkg", "--remove", "fedloom-agent")
    assert root.inside(f"{STATE}/identity.key").exists()
    assert not root.inside("/opt/fedloom").exists()
    shutil.rmtree(root.inside(EXAMPLES))
    root.run("dpkg", "--purge", "fedloom-agent")
    assert root.files() - before == set()
    assert before - root.files() <= {"/opt"}  # which dpkg takes away where it is empty
    assert users_of(root) == users


def test_the_runtime_in_it_loads_a_model(root: Root, package: Path, activity_folder: Path) -> None:
    install(root, package)
    shutil.copy(activity_folder / "train.tflite", root.inside("/root"))
    assert root.run("/opt/fedloom/bin/python3", "-I", "-c", PROBE).strip() == "/opt/fedloom/bin/python3"


def test_purging_spares_examples_and_the_files_of_others(root: Root, package: Path) -> None:
    install(root, package)
    for name in (f"{STATE}/aggregator.sqlite3", f"{STATE}/identity.key", f"{EXAMPLES}/examples.npz"):
        root.inside(name).write_bytes(b"x")
    assert "were left" in root.run("dpkg", "--purge", "fedloom-agent")
    assert {path.name for path in root.inside(STATE).iterdir()} == {"aggregator.sqlite3"}
    assert {path.name for path in root.inside(EXAMPLES).iterdir()} == {"examples.npz"}
    assert "fedloom" in users_of(root)

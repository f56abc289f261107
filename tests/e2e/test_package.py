"""The Debian package in a fresh Debian 12: it installs, waits, enrols, contributes, and leaves nothing behind."""

from __future__ import annotations

import json
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
from edge_client.examples import ExampleStore
from edge_client.state_folder import StateFolder
from shared.bundle import Bundle
from shared.clock import SystemClock
from shared.plan import Cohort, Deadlines, Plan, Stop, Training, Update
from shared.secagg.floors import DeviceFloors
from tests.bundles import activity_folder
from tests.e2e.servers import Deployment
from tests.edge_client.devices import work_on
from tools.packaging.build import build
from tools.packaging.contents import MACHINES

__all__ = ["activity_folder"]

OWN_ARCH: Final = {machine.python: name for name, machine in MACHINES.items()}.get(platform.machine(), "")
ARCH: Final = os.environ.get("FEDLOOM_DEB_ARCH") or OWN_ARCH  # another one runs in qemu-user
FOREIGN: Final = ARCH != OWN_ARCH
EMULATOR: Final = Path("/proc/sys/fs/binfmt_misc") / f"qemu-{MACHINES[ARCH].emulated}" if ARCH else Path()
PATIENCE_S: Final = 3600.0 if FOREIGN else 1200.0
MOST_INSTALLED_BYTES: Final = 100 * 10**6
BASE: Final = Path(tempfile.gettempdir()) / f"fedloom-bookworm-{ARCH}.tgz"  # stays for the next run
STATE: Final = "/var/lib/fedloom"
EXAMPLES: Final = "/var/lib/fedloom-examples"
MODELS: Final = "/var/lib/fedloom-models"
HOUR_S: Final = 3600.0
EXAMPLE_COUNT: Final = 40
PLAN: Final = Plan(
    "package",
    training=Training(epochs=1, learning_rate=0.05),
    update=Update(max_l2_norm=10.0, statistics_max_l2_norm=40.0),
    cohort=Cohort(min_survivors=2, largest=2, corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
    stop=Stop(rounds=1),
)
RECORD: Final = f"""
import numpy as np
from edge_client.examples import ExampleStore
random = np.random.default_rng(0)
with ExampleStore("{EXAMPLES}") as store:
    for _ in range({EXAMPLE_COUNT}):
        store.record(random.normal(size=WIDTH).astype(np.float32), random.integers(0, 3))
"""
PREDICT: Final = f"""
import numpy as np
from edge_client.inference import Model
model = Model("{MODELS}")
print("version", model.version, "gives", model(np.zeros(WIDTH, np.float32)).shape)
"""
PROBE: Final = """
import sys
from pathlib import Path
import numpy as np
from edge_client.trainer.runtime import load_interpreter
runner = load_interpreter(Path("/srv/train.tflite").read_bytes()).get_signature_runner
set_weights = runner("set_weights")
(size,) = set_weights.get_input_details()["weights"]["shape"]
weights = np.arange(size, dtype=np.float32)
set_weights(weights=weights)
assert np.array_equal(runner("get_weights")()["weights"], weights)
print(sys.executable)
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(4 * PATIENCE_S),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap"),
    pytest.mark.skipif(not ARCH, reason="no package is built for this machine"),
    pytest.mark.skipif(FOREIGN and not EMULATOR.exists(), reason="needs qemu-user-static, registered with the flag F"),
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
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out
        return out

    def application(self, user: str, program: str) -> tuple[int, str]:
        """Run a program as somebody; return its exit code and what it said."""
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        process = self.start(*as_user, "/opt/fedloom/bin/python3", "-I", "-c", program)
        out, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out

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
    if "FEDLOOM_DEB" in os.environ:  # one that is there already
        return Path(os.environ["FEDLOOM_DEB"])
    return build(MACHINES[ARCH], tmp_path_factory.mktemp("package"), compression="gzip")


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


def record_examples(folder: Path, width: int) -> None:
    random = np.random.default_rng(1)
    with ExampleStore(folder) as store:
        for _ in range(EXAMPLE_COUNT):
            store.record(random.normal(size=width).astype(np.float32), random.integers(0, 3))


def bring_another(running: Deployment, folder: Path, task: str, width: int) -> threading.Thread:
    """Let another device contribute from outside."""
    (code,) = running.codes(task, 1)
    record_examples(folder / "examples", width)
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
    shutil.copy(package, root.inside("/srv"))
    told = root.run("dpkg", "-i", f"/srv/{package.name}")
    root.inside(f"/srv/{package.name}").unlink()
    return told


def contribute(running: Deployment, root: Root, other_folder: Path, width: int) -> None:
    """Let an application of another user record examples, and the package's agent contribute, which waits for that."""
    record = RECORD.replace("WIDTH", str(width))
    root.run("usermod", "--append", "--groups", "fedloom", "alice")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(root.inside("/run/n")))
        root.inside("/run/n").chmod(0o666)
        supervisor.settimeout(PATIENCE_S)
        words = ["--state", STATE, "--config", "/etc/fedloom/agent.toml", "--exit-when-done", "--json"]
        closed = ("sh", "-c", 'umask 077 && exec "$@"', "sh")  # as the unit has it
        agent = root.start(*closed, "fedloom-agent", "run", "--wait-for-enrolment", *words, NOTIFY_SOCKET="/run/n")
        try:
            assert supervisor.recv(4096) == b"READY=1"
            assert supervisor.recv(4096).startswith(b"STATUS=not enrolled yet")
            exit_code, said = root.application("alice", record)
            assert exit_code == 0, said
            assert root.application("stranger", record)[0] != 0
            (code,) = running.codes(PLAN.task, 1)
            folders = ["--state", STATE, "--examples", EXAMPLES, "--models", MODELS]
            demands = ["--allow-cohorts-of", "2", "--min-corrupt-share", "0"]
            root.run("fedloom-agent", "enroll", code.to_text(), *folders, *demands)
            other = bring_another(running, other_folder, PLAN.task, width)
            out, _ = agent.communicate(timeout=PATIENCE_S)
            other.join(60)
        finally:
            agent.kill()
            agent.wait()
    assert agent.returncode == 0, out
    ledger = root.run("fedloom-agent", "ledger", "--state", STATE)
    assert "counted" in ledger, ledger


def use_the_model(root: Root, width: int) -> None:
    """See what another user's application can reach, and what it cannot."""
    predict = PREDICT.replace("WIDTH", str(width))
    exit_code, said = root.application("alice", predict)
    assert exit_code == 0, said
    assert "version 1 gives (3,)" in said  # among lines of the runtime, which misses /proc
    assert root.application("stranger", predict)[0] != 0
    assert root.application("alice", f"import os; os.listdir('{STATE}')")[0] != 0
    exit_code, said = root.application("alice", RECORD.replace("WIDTH", str(width)))
    assert exit_code == 0, said  # into the file that the agent has used
    kept = {str(path.relative_to(root.inside(MODELS))) for path in root.inside(MODELS).rglob("*")}
    assert kept == {"current", "releases", "releases/1", "releases/1/infer_int8.tflite"}


def test_from_installing_to_purging(
    running: Deployment, personal_bundle: Bundle, tmp_path: Path, package: Path, root: Root
) -> None:
    for user in ("alice", "stranger"):
        root.run("useradd", "--no-create-home", "--user-group", user)
    before, users = root.files(), users_of(root)

    told = install(root, package)
    installed = (path for path in root.inside("/opt/fedloom").rglob("*") if not path.is_symlink() and path.is_file())
    assert sum(path.stat().st_size for path in installed) <= MOST_INSTALLED_BYTES
    assert "idle until this device is enrolled" in told
    assert root.inside("/etc/systemd/system/multi-user.target.wants/fedloom-agent.service").is_symlink()
    assert users_of(root) == users | {"fedloom"}
    assert root.inside(STATE).stat().st_mode & 0o777 == 0o700

    width = personal_bundle.manifest.inputs[0].shape[1]
    running.create_task_of(personal_bundle, PLAN)
    contribute(running, root, tmp_path / "other", width)
    use_the_model(root, width)
    owner = root.inside(STATE).stat().st_uid
    assert {path.lstat().st_uid for path in root.inside(STATE).rglob("*")} == {owner} != {0}

    assert "leave --yes" in root.run("dpkg", "--remove", "fedloom-agent")
    assert root.inside(f"{STATE}/identity.key").exists()
    assert not root.inside("/opt/fedloom").exists()
    shutil.rmtree(root.inside(EXAMPLES))
    assert "The server was told" in root.run("dpkg", "--purge", "fedloom-agent")
    states = running.rows("SELECT state, state_reason FROM device WHERE task = ?", PLAN.task)
    assert sorted(states) == [("active", ""), ("revoked", "the device left")]
    assert root.files() - before == set()
    assert before - root.files() <= {"/opt"}  # which dpkg takes away where it is empty
    assert users_of(root) == users
    assert "fedloom" not in root.inside("/etc/group").read_text()


def test_the_runtime_in_it_loads_a_model(root: Root, package: Path, activity_folder: Path) -> None:
    install(root, package)
    shutil.copy(activity_folder / "train.tflite", root.inside("/srv"))
    assert "/opt/fedloom/bin/python3" in root.run("/opt/fedloom/bin/python3", "-I", "-c", PROBE).splitlines()


def test_purging_spares_examples_and_the_files_of_others(root: Root, package: Path) -> None:
    install(root, package)
    for name in (f"{STATE}/aggregator.sqlite3", f"{STATE}/identity.key", f"{EXAMPLES}/examples.npz"):
        root.inside(name).write_bytes(b"x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1/leave"
        departure = {"method": "POST", "url": url, "tls_root": "", "headers": {}, "body": "{}"}
        root.inside(f"{STATE}/departure.json").write_text(json.dumps(departure))
        told = root.run("dpkg", "--purge", "fedloom-agent")
    assert "could not be told" in told
    assert "were left" in told
    assert {path.name for path in root.inside(STATE).iterdir()} == {"aggregator.sqlite3"}
    assert {path.name for path in root.inside(EXAMPLES).iterdir()} == {"examples.npz"}
    assert "fedloom" in users_of(root)

"""The installed agent's size, memory, idle time, and bytes on the disk, beside Flower's client on the same machine.

What runs is the content of the Debian package for this machine, unpacked, with this machine's Python 3.11. Flower is
what ``pip install flwr`` puts in an environment of its own, which holds no framework to train with; its SuperNode waits
for work of a SuperLink on this machine. Both are measured in turn, in the same way.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from models.registry import get_task
from shared.errors import FedloomError
from shared.examples import write_examples
from tools.bench.child import child
from tools.bench.processes import cpu_s, resident_mib, run_to_end, size_mib, tree
from tools.bench.report import Result
from tools.fleet import ALWAYS, Server, free_port, is_listening
from tools.packaging.build import VERSION

ROUNDS: Final = 4
SETTLING_S: Final = 15.0  # after which a process that waits is idle
IDLE_S: Final = 60.0
STARTS: Final = 15
ROOT: Final = Path(__file__).parents[2]
PLAN: Final = f"""
task = "activity"
training = {{ method = "fedavg", epochs = 4, learning_rate = 0.05 }}
update = {{ max_l2_norm = 3.0, max_weight = 400, lane_bits = 16 }}
cohort = {{ min_survivors = 2, largest = 2, corrupt_share = 0.0, dropout_share = 0.0 }}
stop = {{ rounds = {ROUNDS} }}
"""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Figures:
    """What is compared.

    Attributes:
        size_mib: of what is installed, without Python itself.
        idle_mib: resident memory while it waits for work.
        idle_share: of one core, meanwhile.
        start_ms: the median time of a command that only looks, in milliseconds.
    """

    size_mib: float
    idle_mib: float
    idle_share: float
    start_ms: float


class Agent:
    """The agent as it is in the package, on one device.

    Args:
        package: the unpacked package.
        folder: of the device; with its examples.
    """

    def __init__(self, package: Path, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.env = {**os.environ, "PYTHONPATH": str(_site(package)), "PYTHONDONTWRITEBYTECODE": "1"}

    def words(self, *words: str) -> list[str]:
        """Return a command line."""
        return [sys.executable, "-S", "-m", "edge_client", *words, "--state", str(self.state)]

    def enrol(self, code: str) -> None:
        """Redeem a code."""
        options = ("--examples", str(self.folder / "examples"), "--allow-cohorts-of", "2", "--min-corrupt-share", "0")
        run_to_end(self.words("enroll", code, *options), self.env, self.folder / "log")
        (self.state / "agent.toml").write_text(ALWAYS, "utf-8")

    def uploaded_bytes(self) -> int:
        """Return how long the masked vectors were that left the device."""
        run_to_end(self.words("ledger", "--json"), self.env, self.folder / "ledger.json")
        rows = json.loads((self.folder / "ledger.json").read_text())["contributions"]
        return sum(int(row["traffic"]["vector_up"]) for row in rows)


def measure() -> list[Result]:
    """Return the figures.

    Raises:
        FedloomError: ``bench-failed``, or ``no-package`` where the package was not built.
    """
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as name:
        folder = Path(name)
        package = _unpacked(folder / "package")
        return _agent(package, folder, _flower(folder))


def _agent(package: Path, folder: Path, flower: Figures) -> list[Result]:
    server = Server(folder / "server", folder / "server.log")
    try:
        first, second = _devices(server, package, folder)
        with _running(second.words("run"), second.env, folder / "second.log") as process:
            idle_mib, idle_share = _idle(process)  # it has the model, and nobody to train with
            used = run_to_end(first.words("run", "--exit-when-done"), first.env, folder / "first.log")
            after_mib, after_share = _idle(process)
        start_ms = _start_ms(first.words("status"), first.env, folder)
        uploaded_kib = first.uploaded_bytes() / ROUNDS / 1024
    finally:
        server.stop()
    if not used.written_bytes:
        raise FedloomError(
            "bench-failed", f"{folder} is no disk: nothing was written.", "set TMPDIR to a folder on one"
        )
    runtime = next(name for name in ("ai_edge_litert", "tflite_runtime") if (_site(package) / name).exists())
    node, written_kib = "Flower's SuperNode, idle", used.written_bytes / ROUNDS / 1024
    return [
        Result(f"agent/installed with {runtime}", size_mib(package), "MiB", "flwr, no trainer", flower.size_mib),
        Result("agent/idle, before it trained", idle_mib, "MiB", node, flower.idle_mib),
        Result("agent/idle, after it trained", after_mib, "MiB", node, flower.idle_mib),
        Result("agent/training activity, peak", used.peak_mib, "MiB", "at most", 90.0),
        Result("agent/idle, before it trained", 100 * idle_share, "% of a core", node, 100 * flower.idle_share),
        Result("agent/idle, after it trained", 100 * after_share, "% of a core", node, 100 * flower.idle_share),
        Result("agent/status", start_ms, "ms", "flwr --version", flower.start_ms),
        Result("agent/written to the disk in a round", written_kib, "KiB", "its upload", uploaded_kib),
    ]


def _unpacked(package: Path) -> Path:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    file = ROOT / "dist" / f"fedloom-agent_{VERSION}_{architecture}.deb"
    if not file.exists():
        raise FedloomError("no-package", f"{file} is not there.", f"make deb ARCH={architecture}")
    subprocess.run(["/usr/bin/dpkg-deb", "-x", file, package], check=True)
    return package


def _site(package: Path) -> Path:
    return package / "opt/fedloom/lib/python3.11/site-packages"


def _devices(server: Server, package: Path, folder: Path) -> list[Agent]:
    """Return two enrolled devices of a task that a server is at work on."""
    task = get_task("activity")
    child("tools.convert", task.factory, "--out", str(folder / "bundle"), *task.convert_options())
    (folder / "plan.toml").write_text(PLAN, "utf-8")
    server.run("task", "create", "--bundle", str(folder / "bundle"), "--plan", str(folder / "plan.toml"))
    server.start()
    codes = server.run("code", "create", "--task", task.name, "--count", "2")["codes"]
    data = list(task.load(task.test_owners).devices.values())
    agents = []
    for number, code in enumerate(codes):
        agent = Agent(package, folder / f"device-{number}")
        write_examples(agent.folder / "examples", *data[number])
        agent.enrol(code)
        agents.append(agent)
    return agents


def _flower(folder: Path) -> Figures:
    """Install Flower in an environment of its own, and measure its client beside its server."""
    bare = folder / "flower"
    path = f"{bare / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "FLWR_HOME": str(folder / "flower-home")}
    subprocess.run([sys.executable, "-m", "venv", bare], check=True)
    before_mib = size_mib(bare)  # of pip and setuptools
    subprocess.run([bare / "bin/pip", "install", "--quiet", "flwr"], check=True, stdout=sys.stderr)
    size = size_mib(bare) - before_mib
    port = free_port()
    fleet, control = (f"127.0.0.1:{one}" for one in (port, free_port()))
    link_words = [str(bare / "bin/flower-superlink"), "--insecure", "--fleet-api-address", fleet]
    link_words += ["--control-api-address", control, "--host", "127.0.0.1", "--port", str(free_port())]
    node_words = [str(bare / "bin/flower-supernode"), "--insecure", "--superlink", fleet]
    node_words += ["--host", "127.0.0.1", "--port", str(free_port())]
    with _running(link_words, env, folder / "superlink.log") as link:
        while not is_listening(port) and link.poll() is None:
            time.sleep(0.1)
        with _running(node_words, env, folder / "supernode.log") as node:
            idle_mib, idle_share = _idle(node)
    return Figures(size, idle_mib, idle_share, _start_ms([str(bare / "bin/flwr"), "--version"], env, folder))


@contextmanager
def _running(words: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen([*words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=log.parent)
        try:
            yield process
            if process.poll() is not None:
                last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
                raise FedloomError("bench-failed", f"{Path(words[0]).name} ended with {process.returncode}: {last}")
        finally:
            process.terminate()
            process.wait(30)


def _idle(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the resident memory in MiB, and the share of a core, of a process that waits, with its children."""
    time.sleep(SETTLING_S)
    if process.poll() is not None:
        return 0.0, 0.0  # whoever runs it says why
    before_s, started_s = cpu_s(tree(process.pid)), time.perf_counter()
    time.sleep(IDLE_S)
    pids = tree(process.pid)
    return resident_mib(pids), (cpu_s(pids) - before_s) / (time.perf_counter() - started_s)


def _start_ms(words: Sequence[str], env: Mapping[str, str], folder: Path) -> float:
    taken = [run_to_end(words, env, folder / "start.log").seconds for _ in range(STARTS)]
    return 1000 * median(taken)

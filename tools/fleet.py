"""One server and several agents as real processes, each with a folder of its own: for the demo and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.errors import FedloomError

REPOSITORY: Final = Path(__file__).parents[1]
DEVICE_ENVIRONMENTS: Final = {"LiteRT": ".venv-edge", "tflite-runtime": ".venv-edge-tflite"}
START_TIMEOUT_S: Final = 600.0  # a busy machine; one that ended is noticed at once
ALWAYS: Final = "[train]\non_battery = true\nbattery_at_least_percent = 0\nthrottled = true\nmetered = true\n"


class FleetFailed(FedloomError):
    """A process did not do what it should; its log says more."""


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Say whether a process takes connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def device_runtimes() -> dict[str, Path]:
    """Return the Python of each device environment that is set up, by the runtime's name.

    Raises:
        FleetFailed: ``no-device-environment``.
    """
    found = {name: REPOSITORY / folder / "bin" / "python" for name, folder in DEVICE_ENVIRONMENTS.items()}
    found = {name: python for name, python in found.items() if python.exists()}
    if not found:
        raise FleetFailed("no-device-environment", "No device environment is set up.", "run `make` first")
    return found


def call(command: Sequence[str | Path], what: str) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        FleetFailed: ``command-failed`` with the command's own words.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise FleetFailed("command-failed", f"{what} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


@dataclass
class Server:
    """The aggregator's process, or the authority's.

    Attributes:
        data: its folder.
        log: what it prints.
        port: on 127.0.0.1.
        command: that starts it.
    """

    data: Path
    log: Path
    port: int = field(default_factory=free_port)
    command: tuple[str, ...] = ("serve",)
    process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> Any:  # noqa: ANN401  # whatever JSON the command prints
        """Run a ``fedloom-server`` command on this server's folder and return its JSON."""
        command = [sys.executable, "-m", "cloud_server", *words, "--data", str(self.data), "--json"]
        return json.loads(call(command, f"fedloom-server {' '.join(words[:2])}"))

    def start(self) -> None:
        """Start serving and wait until it answers.

        Raises:
            FleetFailed: ``server-silent``.
        """
        command = [sys.executable, "-m", "cloud_server", *self.command, "--data", self.data]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in (*command, "--listen", f"127.0.0.1:{self.port}")],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            if is_listening(self.port):
                return
            time.sleep(0.1)
        raise FleetFailed("server-silent", "The server did not start.", f"read {self.log}")

    def stop(self) -> None:
        """Stop serving."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)


@dataclass
class Device:
    """One owner's device.

    Attributes:
        owner: its owner's number in the data set.
        folder: state, examples and log.
        python: of the device environment.
        runtime: which TFLite runtime that has.
    """

    owner: int
    folder: Path
    python: Path
    runtime: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.folder / "state"

    @property
    def running(self) -> bool:
        """Whether the agent's process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def marker(self) -> Path:
        """Appears when a faulty agent has stopped."""
        return self.folder / "stopped"

    def agent(self, *words: str | Path) -> list[str]:
        """Return a ``fedloom-agent`` command line."""
        return [str(word) for word in (self.python, "-m", "edge_client", *words, "--state", self.state)]

    def enrol(self, code: str, smallest_cohort: int) -> None:
        """Redeem an enrolment code."""
        examples = self.folder / "examples"
        command = self.agent("enroll", code, "--examples", examples, "--allow-cohorts-of", str(smallest_cohort))
        call(command, f"enrolling the device {self.folder.name}")
        # A demo on a laptop trains, whatever its plug and its network are.
        (self.state / "agent.toml").write_text(ALWAYS, "utf-8")

    def start(self, *, stop_in: str | None = None, in_round: int = 0) -> None:
        """Start the agent; with ``stop_in`` one that stops dead in that state of that round."""
        if stop_in is None:
            command = self.agent("run", "--exit-when-done")
        else:
            options = ["--stop-in", stop_in, "--round", str(in_round), "--marker", str(self.marker)]
            module = [str(self.python), "-m", "tools.demo.faulty_agent", "--state", str(self.state)]
            command = [*module, *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)

    def kill(self) -> None:
        """End the agent as a power cut would."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait(self, timeout_s: float) -> None:
        """Wait until the agent has installed the last version and ended.

        Raises:
            FleetFailed: ``agent-stuck`` or ``agent-failed``.
        """
        if self.process is None:
            return
        try:
            code = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise FleetFailed(
                "agent-stuck", f"The agent of {self.folder.name} did not end.", f"read {self.folder}/log"
            ) from error
        if code:
            raise FleetFailed(
                "agent-failed", f"The agent of {self.folder.name} ended with {code}.", f"read {self.folder}/log"
            )

    def ledger(self) -> Any:  # noqa: ANN401  # the JSON that the agent prints
        """Return what left the device."""
        return json.loads(call(self.agent("ledger", "--json"), "fedloom-agent ledger"))

    def status(self) -> Any:  # noqa: ANN401  # the JSON that the agent prints
        """Return how the device stands."""
        return json.loads(call(self.agent("status", "--json"), "fedloom-agent status"))

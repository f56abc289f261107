"""The n-th change on the device's disk fails, for n = 1, 2, 3 ... until a clean pass, in everything that a device does.

Whatever fails: the error has a name and says what to do, what was acknowledged is there, keys, counters and versions do
not go back, nothing is sent twice with other bytes, and the same thing works once the disk is back.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from cloud_server.api import waiting
from edge_client.agent import Agent
from edge_client.cli import main
from edge_client.examples import ExampleStore
from edge_client.examples.reading import read_examples
from edge_client.identity import load_enrolment, load_identity
from edge_client.journal import TERMINAL, Journal
from edge_client.report import ledger
from edge_client.state_folder import StateFolder, current_version
from shared.errors import FedloomError, Refused
from shared.limits import MIN_RENEWAL_INTERVAL_S
from shared.wire.canonical import sha256
from shared.wire.requests import COHORTS, COUNTER_HEADER, DEVICE_HEADER
from tests.cloud_server.local import Local, LocalPool
from tests.e2e.servers import quadratic_bundle
from tests.faults.agent_rounds import DIMENSION, AgentRound, without_a_network
from tests.faults.failing_disk import Disk, failing_disk
from tests.shared.refusals import refused

pytestmark = pytest.mark.timeout(3600)
MOST_CALLS: Final = 1500
FOR_EVER: Final = 1 << 30
CODES: Final = frozenset(
    {"disk-write-failed", "journal-not-written", "state-not-writable", "examples-not-stored", "examples-not-writable"}
)
# By name: what the call says, and how many in a row do.
FAULTS: Final = {"full": (errno.ENOSPC, FOR_EVER), "one-error": (errno.EIO, 1), "read-only": (errno.EROFS, FOR_EVER)}
LONG: Final = [pytest.param(name, 1, marks=pytest.mark.long) for name in FAULTS]
# What has many changes misses only some of them in the default suite.
in_turn = pytest.mark.parametrize(("fault", "step"), [("full", 11), *LONG])
with_no_writes = pytest.mark.parametrize(("fault", "step"), [("read-only", 1), *LONG[:2]])
one_by_one = pytest.mark.parametrize(("fault", "step"), [("full", 1), *LONG[1:]])


@dataclass
class Trials:
    """Things that are done on a disk that fails.

    Attributes:
        disk: on which devices' folders are.
        folder: of that disk.
        local: the server; its disk is sound.
        sent: hashes of what the device sent into cohorts, by path.
        device: the one that is looked at.
        counters: of every request, in order.
    """

    disk: Disk
    folder: Path
    local: Local
    sent: dict[str, set[str]] = field(default_factory=dict)
    counters: dict[str, list[int]] = field(default_factory=dict)
    device: str = ""

    def fails(self, fault: str, number: int, act: Callable[[], object]) -> FedloomError | None:
        """Let the n-th change fail while something is done; the error must have a name."""
        error, times = FAULTS[fault]
        self.disk.fail(number, error, times=times)
        caught: FedloomError | None = None
        try:
            act()
        except FedloomError as named:
            caught = named
        finally:
            self.disk.mend()
        if caught is not None:
            assert caught.code in CODES, (caught, self.disk.failed)
            assert caught.message
            assert caught.remedy
        return caught

    @property
    def failed(self) -> bool:
        """Whether the last one met the failure."""
        return bool(self.disk.failed)


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trials]:
    """Return a server in this process whose devices have a disk of their own."""
    bundle = quadratic_bundle(DIMENSION)
    monkeypatch.setattr("tests.cloud_server.local.quadratic_bundle", lambda _dimension: bundle)
    monkeypatch.setattr(waiting, "MAX_POLL_HOLD_S", 0.0)
    local = Local(tmp_path / "server")
    without_a_network(local, monkeypatch)
    (tmp_path / "device").mkdir()
    with failing_disk(tmp_path / "device") as disk:
        yield Trials(disk, tmp_path / "device", local)
    local.close()


def new_round(trials: Trials, name: str) -> AgentRound:
    return AgentRound(trials.local, trials.folder / name, name)


def numbers(trials: Trials, step: int) -> Iterator[int]:
    """Return numbers from 1 on until a pass met no failure."""
    for number in count(1, step):
        assert number < MOST_CALLS
        yield number
        if not trials.failed:
            return


@in_turn
def test_enrolling(trials: Trials, fault: str, step: int) -> None:
    for number in numbers(trials, step):
        scene = new_round(trials, f"enrol-{number}")
        error = trials.fails(fault, number, scene.enrol)
        if error is not None:
            key = scene.state.key_file.read_bytes() if scene.state.key_file.exists() else None
            if scene.state.enrolment_file.exists():  # all but the last sync was done
                with refused("already-enrolled", Refused):
                    scene.enrol()
            else:
                scene.enrol()  # with the same code, and with the key that the server may know already
            assert key in {None, scene.state.key_file.read_bytes()}
        identity = load_identity(scene.state)
        assert identity.key.public == identity.enrolment.certificate.identity_key
        with scene.agent() as agent:
            assert agent.task == scene.task
    assert number > 15


@in_turn
def test_a_whole_round(trials: Trials, fault: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    note_what_leaves(trials, monkeypatch)
    refused_codes = set()
    for number in numbers(trials, step):
        trials.sent.clear()
        scene = new_round(trials, f"round-{number}")
        device = trials.device = scene.enrol().device
        scene.others_meet()
        versions: list[int] = []

        def work(scene: AgentRound = scene, versions: list[int] = versions) -> None:
            with scene.agent() as agent:
                take_turns(trials, scene, agent, versions)

        error = trials.fails(fault, number, work)
        if error is not None:
            refused_codes.add(error.code)
        scene.others_finish()
        scene.lines.append("again")
        with scene.agent() as agent:
            take_turns(trials, scene, agent, versions)
        check(trials, scene, device, versions)
    assert number > 60
    assert refused_codes <= CODES


def take_turns(trials: Trials, scene: AgentRound, agent: Agent, versions: list[int]) -> None:
    """Work as `run` does; a disk that is full is so for some turns."""
    since = 0
    for _ in range(60):
        since += trials.failed
        if since > 3:
            trials.disk.mend()
        try:
            wait_s = agent.turn()
        finally:
            versions.append(-1 if (version := current_version(scene.state)) is None else version)
        if agent.finished:
            return
        scene.sleep(wait_s)
        if since > 3 and not scene.others_act():
            scene.others_finish()
    raise AssertionError(scene.lines)


def check(trials: Trials, scene: AgentRound, device: str, versions: list[int]) -> None:
    rows = ledger(scene.state)["contributions"]
    assert all(row["state"] in TERMINAL for row in rows), rows
    assert all(row["reason"] for row in rows if row["state"] == "abandoned")
    acknowledged = scene.acknowledged(device)
    scene.check_sum(counted=acknowledged)
    if any(row["state"] == "counted" for row in rows):
        assert acknowledged
    assert versions == sorted(versions)
    assert versions[-1] == 1
    assert all(len(bodies) == 1 for bodies in trials.sent.values()), scene.lines
    assert len([path for path in trials.sent if path.endswith("/vector")]) <= 1
    counters = trials.counters[device]
    assert counters == sorted(set(counters))  # none twice, none lower than before
    for path in scene.state.releases.iterdir():
        assert (path / "release.json").exists()
    assert not list(scene.state.path.glob(".*.new"))


def note_what_leaves(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the counters of all requests, and the hashes of what goes into cohorts."""
    real = LocalPool.urlopen

    def urlopen(self: LocalPool, method: str, url: str, body: Any = None, headers: Any = None, **named: Any) -> Any:  # noqa: ANN401
        sent = b"" if body is None else body.read()
        if COUNTER_HEADER in headers:
            trials.counters.setdefault(headers[DEVICE_HEADER], []).append(int(headers[COUNTER_HEADER]))
        if method == "PUT" and headers[DEVICE_HEADER] == trials.device and COHORTS in url:
            trials.sent.setdefault(url.partition("?")[0], set()).add(sha256(sent).hex())
        return real(self, method, url, io.BytesIO(sent) if sent else None, headers, **named)

    monkeypatch.setattr(LocalPool, "urlopen", urlopen)


@in_turn
def test_renewing_the_key(trials: Trials, fault: str, step: int) -> None:
    scene = new_round(trials, "renew")
    scene.enrol()
    for number in numbers(trials, step):
        trials.local.clock.time_s += MIN_RENEWAL_INTERVAL_S + 1
        before = load_identity(scene.state).enrolment.certificate.serial

        def renew() -> None:
            with scene.agent() as agent:
                agent.renew_key()

        error = trials.fails(fault, number, renew)
        identity = load_identity(scene.state)
        serial = identity.enrolment.certificate.serial
        assert serial in {before, before + 1}
        assert error is not None or serial == before + 1
        trials.local.clock.time_s += MIN_RENEWAL_INTERVAL_S + 1
        renew()
        now = load_identity(scene.state)
        assert now.enrolment.certificate.serial == serial + 1
        assert now.key.public == now.enrolment.certificate.identity_key
        assert now.enrolment.device == identity.enrolment.device
        assert now.next_key is None
    assert number > 20


@one_by_one
def test_recording_examples(trials: Trials, fault: str, step: int) -> None:
    folder, kept = trials.folder / "recorded", set[int]()
    for number in numbers(trials, step):

        def record(number: int = number) -> None:
            with ExampleStore(folder) as store:
                for part in range(3):
                    store.record(np.full(3, number, np.float32), 10 * number + part)
                    kept.add(10 * number + part)

        trials.fails(fault, number, record)
        if {"fsync", "fdatasync"} & set(trials.disk.failed):  # as a power cut: the last ones are not synced one by one
            kept.difference_update(10 * number + part for part in range(3))
        with ExampleStore(folder) as store:
            store.record(np.zeros(3, np.float32), 10 * number + 9)
            kept.add(10 * number + 9)
        train, held_out = read_examples(folder, trials.local.clock.now_s())
        found = {*train.y.tolist(), *held_out.y.tolist()}
        assert kept <= found
        assert found <= {10 * n + part for n in range(1, number + 1) for part in (0, 1, 2, 9)}
    assert number > 5


def run_command(line: list[str], codes: list[int]) -> None:
    codes.append(main(line))


@with_no_writes
@pytest.mark.parametrize("command", ["reset", "leave", "pause", "config"])
def test_commands_of_the_owner(
    trials: Trials, fault: str, step: int, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = new_round(trials, "template")
    scene.enrol()
    scene.others_meet()
    with scene.agent() as agent:
        agent.turn()  # a model is here
    words = {"config": ["set", "train.load_below_per_core", "2"], "pause": []}.get(command, ["--yes"])
    for number in numbers(trials, step):
        state = StateFolder(trials.folder / f"copy-{number}")
        shutil.copytree(scene.state.path, state.path, symlinks=True)
        line = [command, *words, "--state", str(state.path), "--json"]
        capsys.readouterr()
        codes: list[int] = []
        trials.fails(fault, number, partial(run_command, line, codes))
        answer = capsys.readouterr().out
        if codes[0]:
            error = json.loads(answer)["error"]
            assert error["code"] in CODES, (error, trials.disk.failed)
            assert error["try"]
            again = main(line)
            assert again == 0 or (command, json.loads(capsys.readouterr().out)["error"]["code"]) == (
                "leave",
                "identity-missing",
            )
        if command == "leave":
            assert not state.path.exists() or not any(path.suffix == ".key" for path in state.path.iterdir())
        else:
            assert load_identity(state) == load_identity(scene.state)
            Journal(state.journal_file, load_enrolment(state).journal_id).close()
        shutil.rmtree(state.path, ignore_errors=True)
    assert number > 1

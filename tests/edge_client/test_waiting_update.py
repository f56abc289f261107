"""A trained update that waits: it joins the next cohort of its version, once, or is dropped with its reason."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from edge_client import report, transport
from edge_client.agent import open_agent
from edge_client.cli import main
from edge_client.conditions.asked import Unconditional
from edge_client.identity import load_enrolment
from edge_client.journal import Journal, State
from edge_client.sealed_files import SealedFiles, withdraw_update
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder
from edge_client.texts import Chinese, English
from shared.errors import FedloomError, TryLater
from shared.plan import Training
from shared.wire.messages import write_received
from shared.wire.requests import DEVICE_HEADER, VECTOR
from tests.edge_client.aggregator import Aggregator, publish
from tests.edge_client.devices import ManualClock, enrolled, work_on, write_points
from tests.edge_client.loopback import Answer, Request, serve
from tests.shared.refusals import refused

DAY_S = 86400.0


class Killed(BaseException):
    """The power is cut."""


class Hasty(Unconditional):
    """An owner who lets nothing wait for longer than an hour."""

    sealed_update_s = 3600.0


class QuickClock(ManualClock):
    """Waits hardly, so that many attempts in vain are soon over, and other threads get on."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        time.sleep(min(seconds, 0.01))


@dataclass
class Scene:
    """Two devices of one task, and what the network does to the first one.

    Attributes:
        aggregator: behind the network.
        paths: of the devices.
        answer: what happens to each request.
        clock: of the first device.
        states: of the first device's contributions.
    """

    aggregator: Aggregator
    paths: list[Path]
    answer: Callable[[Request], Answer]
    clock: QuickClock = field(default_factory=lambda: QuickClock(1_800_010_000.0))
    states: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def respond(self, request: Request) -> Answer:
        """Answer a request as the network is now."""
        return self.answer(request)

    @property
    def folder(self) -> StateFolder:
        """The first device's state."""
        return StateFolder(self.paths[0] / "state")

    def cut(self, *routes: str) -> None:
        """Let requests of some routes end without an answer from now on."""

        def broken(request: Request) -> Answer:
            if any(route in request.path for route in routes):
                return Answer(hang_up=True)
            return self.aggregator(request)

        self.answer = broken

    def once(self, kill: State | None = None, conditions: Unconditional | None = None) -> None:
        """Let the first device contribute in a process of its own."""

        def on_state(state: str, _round: int) -> None:
            self.states.append(state)
            if state == kill:
                raise Killed

        with open_agent(
            self.folder,
            log=self.lines.append,
            on_state=on_state,
            clock=self.clock,
            conditions=lambda _journal: conditions or Unconditional(),
        ) as agent:
            agent.once()

    def leave_waiting(self) -> None:
        """Let the first device train, and find no way to a cohort."""
        self.cut("rendezvous")
        with refused("no-connection", TryLater):
            self.once()
        assert self.ends == [("trained", "no-connection")]

    def work(self) -> None:
        """Let both devices work until the task is done."""
        self.answer = self.aggregator
        other = threading.Thread(target=_work, args=(self.paths[1],))
        other.start()

        self.finish(other)

    def finish(self, other: threading.Thread) -> None:
        """Let the first device work until the task is done, and wait for the other one."""

        def on_state(state: str, _round: int) -> None:
            self.states.append(state)

        with open_agent(self.folder, log=self.lines.append, on_state=on_state, clock=self.clock) as agent:
            work_on(agent, self.clock)
        other.join(120)
        assert not other.is_alive()

    @property
    def ends(self) -> list[tuple[str, str]]:
        """How the first device's contributions stand."""
        return [(row["state"], row["reason"]) for row in report.ledger(self.folder)["contributions"]]

    @property
    def trainings(self) -> int:
        """How often the first device trained."""
        return self.states.count("training")

    def assert_exact(self) -> None:
        """The published weights are one step of the textbook, with every device's examples in it once."""
        folder = self.paths[0].parent
        points = np.concatenate([write_points(folder / "again", number) for number in range(2)]).astype(float)
        np.testing.assert_allclose(self.aggregator.master, 0.01 * 2 * points.sum(axis=0), atol=1e-5)


def _work(path: Path) -> None:
    with open_agent(StateFolder(path / "state"), log=lambda _line: None) as agent:
        work_on(agent)


@pytest.fixture
def scene(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(transport, "PATIENCE_S", 1.0)
    aggregator = Aggregator(certificates, 2)
    made = Scene(aggregator, [tmp_path / "0", tmp_path / "1"], aggregator)
    with serve(certificates, made.respond) as url:
        for number, path in enumerate(made.paths):
            enrolled(path, aggregator, url, number)
        yield made


def test_without_a_network_it_waits_and_the_next_cohort_gets_it(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.leave_waiting()
    assert scene.folder.sealing_key_file.stat().st_mode & 0o777 == 0o600
    told = report.status(scene.folder)["waiting"]
    assert (told["version"], told["round"], told["reason"]) == (0, 1, "no-connection")
    assert told["expires_at_s"] - told["made_at_s"] == DAY_S
    assert told["bytes"] == scene.folder.sealed_update_file.stat().st_size
    assert main(["status", "--state", str(scene.folder.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == told
    for language in (English, Chinese):
        assert main(["status", "--state", str(scene.folder.path), "--lang", language.code]) == 0
        text = capsys.readouterr().out
        assert language("status.waiting") in text
        assert "[no-connection]" in text
    assert report.ledger(scene.folder)["waiting"] == told
    SettingsFile(scene.folder.settings_file).change("train.sealed_update_at_most_s", "60")
    assert main(["status", "--state", str(scene.folder.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"]["expires_at_s"] == told["made_at_s"] + 60
    assert "waits for a cohort" in report.ledger_text(report.ledger(scene.folder))

    with refused("no-connection", TryLater):  # another process in vain
        scene.once()
    scene.work()
    assert scene.trainings == 1
    assert scene.ends == [("counted", "")]
    assert report.status(scene.folder)["waiting"] is None
    assert not SealedFiles(scene.folder).are_there()
    scene.assert_exact()


@pytest.mark.parametrize("state", [State.TRAINED, State.JOINING, State.SHARING])
def test_killed_before_the_first_byte_it_joins_another_cohort(scene: Scene, state: State) -> None:
    other = threading.Thread(target=_work, args=(scene.paths[1],))
    other.start()
    with pytest.raises(Killed):
        scene.once(kill=state)
    if state is not State.TRAINED:  # its first cohort ends without it
        scene.aggregator.over = dict.fromkeys(("roster", "shares", "inbox", "vector"), "too-few-members")
    scene.finish(other)
    assert scene.trainings == 1
    assert scene.ends == [("counted", "")]
    scene.assert_exact()


def test_a_reset_in_mid_upload_sends_the_same_bytes_and_nothing_waits_any_more(scene: Scene) -> None:
    name = load_enrolment(scene.folder).device
    bodies: list[bytes] = []
    left: list[bool] = []

    def broken(request: Request) -> Answer:
        if VECTOR not in request.path or request.headers[DEVICE_HEADER] != name:
            return scene.aggregator(request)
        if request.method == "GET":
            return Answer(body=write_received(0))
        bodies.append(request.body)
        left.append(SealedFiles(scene.folder).are_there() or _waits(scene))
        if len(bodies) < 3:
            return Answer(hang_up=True)
        scene.aggregator.over = dict.fromkeys(("vector", "survivors"), "too-few-survivors")
        return scene.aggregator(request)

    scene.answer = broken
    other = threading.Thread(target=_work, args=(scene.paths[1],))
    other.start()
    with refused("already-contributed"):  # one gradient leaves once per version
        with refused("too-few-survivors", TryLater):
            scene.once()
        scene.once()
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert not any(left), "before a byte left, neither journal nor disk had anything that waits"
    assert scene.ends == [("abandoned", "too-few-survivors")]
    scene.aggregator.rounds = 0
    other.join(120)
    assert not other.is_alive()


def _waits(scene: Scene) -> bool:
    journal = Journal(scene.folder.journal_file, load_enrolment(scene.folder).journal_id)
    try:
        return journal.sealed.waiting is not None
    finally:
        journal.close()


def _in_vain(path: Path) -> None:
    with open_agent(StateFolder(path / "state"), log=lambda _line: None) as agent, suppress(FedloomError):
        agent.once()


def expire(scene: Scene) -> None:
    scene.clock.time_s += DAY_S + 1


def go_back(scene: Scene) -> None:
    scene.clock.time_s -= 7200.0


def move_on(scene: Scene) -> None:
    aggregator = scene.aggregator
    aggregator.rounds = 2
    aggregator.versions.append(publish(1, aggregator.master + 1, aggregator.plan, aggregator.now_s))


def end_task(scene: Scene) -> None:
    scene.aggregator.rounds = 0


def change_plan(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.folder.journal_file)) as database, database:
        database.execute("UPDATE sealed_update SET made_for = 'another plan'")


def lengthen(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.folder.journal_file)) as database, database:
        database.execute("UPDATE sealed_update SET expires_at_s = expires_at_s + 1")


def flip_a_bit(scene: Scene) -> None:
    data = bytearray(scene.folder.sealed_update_file.read_bytes())
    data[len(data) // 2] ^= 1
    scene.folder.sealed_update_file.write_bytes(data)


def lose_the_key(scene: Scene) -> None:
    scene.folder.sealing_key_file.unlink()


def withdraw_an_example(scene: Scene) -> None:
    write_points(scene.paths[0] / "examples", 0, count=4)


def withdraw_all(scene: Scene) -> None:
    (scene.paths[0] / "examples" / "examples.npz").unlink()


def take_back(scene: Scene) -> None:
    assert withdraw_update(scene.folder, load_enrolment(scene.folder).journal_id, scene.clock.now_s())


def be_hasty(scene: Scene) -> None:
    scene.clock.time_s += Hasty.sealed_update_s


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (expire, "sealed-update-expired"),
        (be_hasty, "sealed-update-expired"),
        (go_back, "clock-went-back"),
        (move_on, "version-moved"),
        (end_task, "task-done"),
        (change_plan, "plan-changed"),
        (lengthen, "sealed-update-damaged"),
        (flip_a_bit, "sealed-update-damaged"),
        (lose_the_key, "sealed-update-damaged"),
        (withdraw_an_example, "examples-withdrawn"),
        (withdraw_all, "examples-withdrawn"),
        (take_back, "update-withdrawn"),
    ],
)
def test_it_is_dropped_with_its_reason(scene: Scene, change: Callable[[Scene], None], reason: str) -> None:
    scene.leave_waiting()
    before = scene.folder.sealed_update_file.read_bytes()
    change(scene)
    with suppress(FedloomError):
        scene.once(conditions=Hasty() if change is be_hasty else None)
    assert scene.ends[0] == ("abandoned", reason)
    assert not any("/cohorts/" in request.path for request in scene.aggregator.requests)
    assert not scene.folder.sealed_update_file.exists() or scene.folder.sealed_update_file.read_bytes() != before
    trains_anew = change not in {end_task, withdraw_all}
    assert scene.trainings == 1 + (change is not end_task)
    assert scene.ends[1:] == ([("trained", "no-connection")] if trains_anew else scene.ends[1:])


def test_more_examples_do_not_drop_it(scene: Scene) -> None:
    scene.leave_waiting()
    path = scene.paths[0] / "examples" / "examples.npz"
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **{name: np.concatenate([values[:1], values]) for name, values in arrays.items()})
    with refused("no-connection", TryLater):
        scene.once()
    assert scene.trainings == 1


@pytest.mark.parametrize("by", ["plan", "owner"])
def test_nothing_waits_where_that_is_not_wanted(scene: Scene, by: str) -> None:
    class Never(Unconditional):
        sealed_update_s = 0.0

    aggregator = scene.aggregator
    if by == "plan":
        deadlines = replace(aggregator.plan.deadlines, sealed_update_s=0.0)
        aggregator.plan = replace(aggregator.plan, deadlines=deadlines)
        aggregator.versions = [publish(0, aggregator.master, aggregator.plan, aggregator.now_s)]
    scene.cut("rendezvous")
    with refused("no-connection", TryLater):
        scene.once(conditions=Never() if by == "owner" else None)
    assert scene.ends == [("abandoned", "no-connection")]
    assert not SealedFiles(scene.folder).are_there()


def test_a_failed_cohort_after_bytes_left_means_training_anew(scene: Scene) -> None:
    aggregator = scene.aggregator
    aggregator.plan = replace(aggregator.plan, training=Training(method="fedavg"))
    aggregator.versions = [publish(0, aggregator.master, aggregator.plan, aggregator.now_s)]
    aggregator.over = {VECTOR: "too-few-survivors"}
    scene.work()
    assert scene.trainings == 2
    assert scene.ends == [("abandoned", "too-few-survivors"), ("counted", "")]


def test_files_without_a_row_are_destroyed(scene: Scene) -> None:
    scene.aggregator.rounds = 0
    SealedFiles(scene.folder).keep(bytes(32), b"left by a kill")
    scene.once()
    assert not SealedFiles(scene.folder).are_there()
    assert scene.ends == []


def test_an_owner_destroys_it_beside_a_running_agent(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.leave_waiting()
    words = ["--state", str(scene.folder.path)]
    with scene.folder.lock():  # as a running agent holds it
        assert main(["pause", "--drop-update", *words]) == 0
        assert not SealedFiles(scene.folder).are_there()
        assert scene.ends == [("trained", "no-connection")]
    assert main(["pause", "--off", *words]) == 0
    with refused("no-connection", TryLater):
        scene.once()
    assert scene.ends == [("abandoned", "update-withdrawn"), ("trained", "no-connection")]
    assert main(["reset", "--yes", *words]) == 0
    assert scene.ends[1] == ("abandoned", "reset-by-owner")
    assert not SealedFiles(scene.folder).are_there()
    assert "destroyed" in capsys.readouterr().err


def test_leaving_takes_it_along(scene: Scene) -> None:
    scene.leave_waiting()
    assert main(["leave", "--yes", "--state", str(scene.folder.path)]) == 0
    assert not scene.folder.path.exists()


def test_what_the_owner_took_back_in_a_cohort_is_not_sent(scene: Scene) -> None:
    def take_it_back(state: str, _round: int) -> None:
        if state == State.SHARES_SENT:
            withdraw_update(scene.folder, load_enrolment(scene.folder).journal_id, scene.clock.now_s())

    other = threading.Thread(target=_in_vain, args=(scene.paths[1],))
    other.start()
    with (
        open_agent(scene.folder, log=scene.lines.append, on_state=take_it_back) as agent,
        refused("update-withdrawn"),
    ):
        agent.once()
    scene.aggregator.over = dict.fromkeys(("vector", "survivors", "join"), "too-few-survivors")
    scene.aggregator.rounds = 0
    other.join(120)
    assert scene.ends == [("abandoned", "update-withdrawn")]
    names = scene.aggregator.cohorts[0].steps.get(VECTOR, {})
    assert load_enrolment(scene.folder).device not in names

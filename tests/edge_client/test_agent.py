"""The agent against an aggregator in memory: whole rounds, and what it does when cohorts fail."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_client import report
from edge_client.agent import LONGEST_WAIT_S, open_agent
from edge_client.identity import load_identity, save_enrolment
from edge_client.journal import Journal, State
from edge_client.state_folder import StateFolder
from shared.errors import BrokenState, FedloomError, ProtocolAbort, Refused, TryLater
from shared.numeric.differences import make_difference
from shared.plan import Personalisation, Training
from shared.wire.messages import Meeting
from shared.wire.signed import Certificate
from tests.edge_client.aggregator import AUTHORITY, Aggregator, publish
from tests.edge_client.devices import ManualClock, enrolled, work_on, write_points
from tests.edge_client.loopback import Answer, Request, serve
from tests.shared.refusals import refused

MEMBERS = 3
WAY = [state for state in State if state not in {State.NOT_COUNTED, State.ABANDONED, State.REFUSED}]


def ignore(_line: str) -> None:
    """Drop a log line."""


def run_devices(paths: list[Path], states: dict[Path, list[str]]) -> None:
    def work(path: Path) -> None:
        def on_state(state: str, _round: int) -> None:
            states.setdefault(path, []).append(state)

        with open_agent(StateFolder(path / "state"), log=ignore, on_state=on_state) as agent:
            work_on(agent)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_two_rounds_are_the_textbook_gradient_steps(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, MEMBERS, rounds=2)
    paths = [tmp_path / str(number) for number in range(MEMBERS)]
    states: dict[Path, list[str]] = {}
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        run_devices(paths, states)
    points = np.concatenate([write_points(tmp_path / "again", number) for number in range(MEMBERS)]).astype(float)
    theta = np.zeros(points.shape[1])
    for _ in range(2):
        theta -= 0.01 * 2 * (theta - points).sum(axis=0)
    np.testing.assert_allclose(aggregator.master, theta, atol=1e-5)
    assert all(seen == [str(state) for state in WAY] * 2 for seen in states.values())
    assert aggregator.cohorts[0].aggregate is not None
    assert aggregator.cohorts[0].aggregate.evaluation.count == 2 * MEMBERS


def test_ledger_and_status_say_what_left_the_device(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    paths = [tmp_path / "0", tmp_path / "1"]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        run_devices(paths, {})
    folder = StateFolder(paths[0] / "state")
    ledger = report.ledger(folder)
    vector = next(iter(aggregator.cohorts[0].steps["vector"].values()))
    assert [row["state"] for row in ledger["contributions"]] == ["counted"]
    assert ledger["contributions"][0]["traffic"]["vector_up"] == len(vector) == ledger["totals"]["vector_up"]
    first, second = (version.files["weights_int8.safetensors"] for version in aggregator.versions)
    assert ledger["totals"]["weights_down"] == len(first) + len(make_difference(first, second) or second)
    assert json.dumps(ledger)
    status = report.status(folder)
    assert (status["version"], status["name"], status["last"]["round"]) == (1, "kitchen", 1)
    assert "the task is done" in report.status_text(status)
    assert "counted" in report.ledger_text(ledger)


@pytest.mark.parametrize("cause", ["too few shares", "garbled shares"])
def test_an_update_that_never_left_joins_the_next_cohort(tmp_path: Path, certificates: Path, cause: str) -> None:
    aggregator = Aggregator(certificates, 2)
    aggregator.over = {"inbox": "too-few-shares"} if cause == "too few shares" else {}
    aggregator.garbled = cause == "garbled shares"
    paths = [tmp_path / "0", tmp_path / "1"]
    states: dict[Path, list[str]] = {}
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        run_devices(paths, states)
    for path in paths:
        assert states[path].count("training") == 1
        assert states[path].count("joined") == 2
        assert states[path].count("vector-sent") == 1
        row = report.ledger(StateFolder(path / "state"))["contributions"][0]
        assert (row["state"], row["cohort"]) == ("counted", "cohort-1")


def test_a_gradient_leaves_once_per_version(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    aggregator.over = {"vector": "too-few-survivors"}
    paths = [tmp_path / "0", tmp_path / "1"]
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        with open_agent(StateFolder(paths[0] / "state"), log=ignore) as agent:
            other = threading.Thread(target=_once, args=(paths[1],))
            other.start()
            with refused("too-few-survivors", TryLater):
                agent.once()
            other.join(30)
        for _ in range(2):
            with (
                open_agent(StateFolder(paths[0] / "state"), log=ignore) as agent,
                refused("already-contributed", Refused),
            ):
                agent.once()
    rows = report.ledger(StateFolder(paths[0] / "state"))["contributions"]
    assert [(row["state"], row["reason"]) for row in rows] == [("abandoned", "too-few-survivors")]
    assert aggregator.cohorts[1].steps == {}


def test_an_averaged_update_that_left_is_spent(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    aggregator.plan = replace(aggregator.plan, training=Training(method="fedavg"))
    aggregator.versions = [publish(0, aggregator.master, aggregator.plan, aggregator.now_s)]
    aggregator.over = {"vector": "too-few-survivors"}
    paths = [tmp_path / "0", tmp_path / "1"]
    states: dict[Path, list[str]] = {}
    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        run_devices(paths, states)
    for path in paths:
        assert states[path].count("training") == 2
        rows = report.ledger(StateFolder(path / "state"))["contributions"]
        assert [(row["state"], row["reason"]) for row in rows] == [("abandoned", "too-few-survivors"), ("counted", "")]


def _why_not_training(path: Path) -> str:
    """Return what ``status`` says while an agent is at work."""
    folder = StateFolder(path / "state")
    with folder.lock():
        return str(report.status(folder)["why_not_training"])


class LateClock(ManualClock):
    """Ends the agent when it has waited often enough."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.slept_s) > 14:
            raise Killed


def test_a_device_that_gave_up_asks_less_and_less(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    clock = LateClock()
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        np.savez(tmp_path / "examples" / "examples.npz", x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int32))
        with (
            pytest.raises(Killed),
            open_agent(StateFolder(tmp_path / "state"), log=ignore, clock=clock, jitter=lambda: 1.0) as agent,
        ):
            work_on(agent, clock, exit_when_done=False)
    assert clock.slept_s[:4] == [0.5, 1.0, 2.0, 4.0]
    assert clock.slept_s[-1] == LONGEST_WAIT_S
    assert "[examples-shape]" in _why_not_training(tmp_path)


def test_a_clock_that_is_ahead_is_named(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)

    def expired(request: Request) -> Answer:
        if "rendezvous" in request.path:
            return Answer(body=Meeting("cohort-0", 1_700_000_000).to_bytes())
        return aggregator(request)

    clock = LateClock()
    with serve(certificates, expired) as url:
        enrolled(tmp_path, aggregator, url)
        with (
            pytest.raises(Killed),
            open_agent(StateFolder(tmp_path / "state"), log=ignore, clock=clock) as agent,
        ):
            work_on(agent, clock, exit_when_done=False)
    why = _why_not_training(tmp_path)
    assert "[clock-wrong]" in why
    assert "2023-11-14" in why
    assert not any("cohorts" in request.path for request in aggregator.requests)


def test_a_full_disk_stops_nothing(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregator = Aggregator(certificates, 2, rounds=0)
    lines: list[str] = []

    def fail(*_arguments: object, **_options: object) -> None:
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "No space left on device")

    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        with open_agent(StateFolder(tmp_path / "state"), log=lines.append) as agent:
            monkeypatch.setattr("pathlib.Path.symlink_to", fail)
            work_on(agent)
    assert "[disk-write-failed]" in lines[0]
    assert "installed" in lines[1]


class Killed(BaseException):
    """The power is cut."""


@pytest.mark.parametrize("state", [State.TRAINED, State.SHARES_SENT, State.UPLOADING, State.ANSWERED])
def test_killed_in_a_state_closes_the_contribution(tmp_path: Path, certificates: Path, state: State) -> None:
    aggregator = Aggregator(certificates, 2)
    paths = [tmp_path / "0", tmp_path / "1"]

    def kill(now: str, _round: int) -> None:
        if now == state:
            raise Killed

    with serve(certificates, aggregator) as url:
        for number, path in enumerate(paths):
            enrolled(path, aggregator, url, number)
        other = threading.Thread(target=_once, args=(paths[1],), daemon=True)
        other.start()
        with pytest.raises(Killed), open_agent(StateFolder(paths[0] / "state"), log=ignore, on_state=kill) as agent:
            agent.once()
        aggregator.over = dict.fromkeys(("roster", "shares", "inbox", "vector", "survivors", "outcome"), "late")
        aggregator.rounds = 0
        other.join(30)
        lines: list[str] = []
        with open_agent(StateFolder(paths[0] / "state"), log=lines.append) as agent:
            assert agent.once() is None
    row = report.ledger(StateFolder(paths[0] / "state"))["contributions"][0]
    waited = state in {State.TRAINED, State.SHARES_SENT}  # until the task was done
    assert (row["state"], row["reason"]) == ("abandoned", "task-done" if waited else "process-ended")
    assert f"in state {state}" in lines[0]
    sent = state in {State.UPLOADING, State.ANSWERED}
    folder = StateFolder(paths[0] / "state")
    journal = Journal(folder.journal_file, load_identity(folder).enrolment.journal_id)
    assert journal.contributions()[0].vector_sent == sent
    journal.close()


def _once(path: Path) -> None:
    with open_agent(StateFolder(path / "state"), log=ignore) as agent:
        try:
            agent.once()
        except TryLater:
            return


def test_floors_refuse_small_cohorts(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url, min_survivors=10)
        with (
            open_agent(StateFolder(tmp_path / "state"), log=ignore) as agent,
            refused("floor-cohort-size", ProtocolAbort),
        ):
            agent.once()
    assert not any("rendezvous" in request.path for request in aggregator.requests)


def test_a_device_takes_no_part_beside_a_certificate_that_went_back(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    paths = [tmp_path / "0", tmp_path / "1"]
    with serve(certificates, aggregator) as url:
        names = [enrolled(path, aggregator, url, number).device for number, path in enumerate(paths)]
        folder = StateFolder(paths[0] / "state")
        journal = Journal(folder.journal_file, load_identity(folder).enrolment.journal_id)
        newer = Certificate.issue(
            AUTHORITY, task="point", device=names[1], identity_key=bytes(32), expires_at_s=2**32, serial=1
        )
        journal.see_certificates([newer])  # in a cohort of before
        journal.close()
        other = threading.Thread(target=_once_in_vain, args=(paths[1],))
        other.start()
        with open_agent(folder, log=ignore) as agent, refused("old-certificate", ProtocolAbort):
            agent.once()
        aggregator.over["inbox"] = "too-few-shares"  # ends the other one's waiting
        aggregator.over["join"] = "round-abandoned"
        aggregator.rounds = 0
        other.join(60)
        assert not other.is_alive()
    assert [set(cohort.steps) for cohort in aggregator.cohorts][:1] == [{"join", "shares"}]
    assert names[0] not in aggregator.cohorts[0].steps["shares"]  # it revealed nothing


def _once_in_vain(path: Path) -> None:
    with open_agent(StateFolder(path / "state"), log=ignore) as agent, suppress(FedloomError):
        agent.once()


def test_once_says_when_there_is_no_work(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolment = enrolled(tmp_path, aggregator, url)
        aggregator.cohorts[0].steps["join"] = {enrolment.device: b""}
        with open_agent(StateFolder(tmp_path / "state"), log=ignore) as agent, refused("no-round-open", TryLater):
            agent.once()


def test_bad_examples_upload_nothing_and_are_journaled(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        np.savez(tmp_path / "examples" / "examples.npz", x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int32))
        with open_agent(StateFolder(tmp_path / "state"), log=ignore) as agent, refused("examples-shape"):
            agent.once()
    assert not any("cohorts" in request.path for request in aggregator.requests)
    row = report.ledger(StateFolder(tmp_path / "state"))["contributions"][0]
    assert (row["state"], row["reason"]) == ("abandoned", "examples-shape")


def test_training_further_that_fails_is_named_and_stops_nothing(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, MEMBERS, rounds=0)
    aggregator.plan = replace(aggregator.plan, personalisation=Personalisation(epochs=1, learning_rate=0.1))
    aggregator.versions = [publish(0, aggregator.master, aggregator.plan, aggregator.now_s)]
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        examples = tmp_path / "examples" / "examples.npz"
        kept = examples.read_bytes()
        examples.write_bytes(b"nonsense")
        run_devices([tmp_path], {})  # and ends
        found = report.status(StateFolder(tmp_path / "state"))
        assert (found["personal"]["kept"], found["personal"]["count"]) == (False, 0)
        assert f"[{found['personal']['reason']}]" in report.status_text(found)
        examples.write_bytes(kept)
        run_devices([tmp_path], {})
        mended = report.status(StateFolder(tmp_path / "state"))["personal"]
    assert "reason" not in mended
    assert mended["count"] == 2
    # In which order the examples are trained on is random, and so whether two held-out ones gain by it.
    assert mended["kept"] == (mended["loss"] < mended["loss_before"])


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
    folder = StateFolder(tmp_path / "state")
    with open_agent(folder, log=ignore), refused("agent-running", TryLater), open_agent(folder, log=ignore):
        pass


@pytest.mark.parametrize("loss", ["deleted", "emptied", "another one"])
def test_without_its_journal_a_device_takes_part_in_nothing(tmp_path: Path, certificates: Path, loss: str) -> None:
    aggregator = Aggregator(certificates, 2)
    folder = StateFolder(tmp_path / "0" / "state")
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path / "0", aggregator, url)
        enrolled(tmp_path / "1", aggregator, url, 1)
        sent = len(aggregator.requests)
        if loss == "deleted":
            folder.journal_file.unlink()
        elif loss == "emptied":
            folder.journal_file.write_bytes(b"")
        else:
            shutil.copy(StateFolder(tmp_path / "1" / "state").journal_file, folder.journal_file)
        with refused("journal-damaged", BrokenState) as caught, open_agent(folder, log=ignore):
            pass
        assert "enrol with a new code" in caught.value.remedy
        with refused("journal-damaged", BrokenState):
            report.status(folder)
    assert len(aggregator.requests) == sent


def test_a_device_that_enrolled_before_journals_had_ids_goes_on_and_gets_one(
    tmp_path: Path, certificates: Path
) -> None:
    aggregator = Aggregator(certificates, 2)
    folder = StateFolder(tmp_path / "state")
    with serve(certificates, aggregator) as url:
        enrolment = enrolled(tmp_path, aggregator, url)
        with closing(sqlite3.connect(folder.journal_file, isolation_level=None)) as database:
            database.execute("DELETE FROM meta WHERE name = 'id'")
            database.execute("DROP TABLE failed_training")
        save_enrolment(folder, replace(enrolment, journal_id=None))
        assert report.status(folder)["last"] is None
        with open_agent(folder, log=ignore):
            pass
        adopted = load_identity(folder).enrolment
        assert adopted.journal_id is not None
        assert replace(adopted, journal_id=enrolment.journal_id) == enrolment
        with open_agent(folder, log=ignore):
            pass
        assert load_identity(folder).enrolment == adopted
        folder.journal_file.unlink()
        with refused("journal-damaged", BrokenState), open_agent(folder, log=ignore):
            pass

"""The command line: exit codes, the shape of errors, and what is on which stream."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from edge_client.cli import main
from edge_client.identity import load_enrolment
from edge_client.state_folder import StateFolder
from shared.privacy.floors import PrivacyFloors
from shared.secagg.floors import DeviceFloors
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import enrolled, write_points
from tests.edge_client.loopback import refusal, serve

Captured = pytest.CaptureFixture[str]


def error_of(captured: Captured) -> dict[str, str]:
    out = captured.readouterr().out
    document: dict[str, dict[str, str]] = json.loads(out)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "try"}
    return document["error"]


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["enroll", "nonsense", "--state", "S", "--examples", "E"], "bad-code", 2),
        (["enroll", "--state", "S"], "usage", 2),
        (["enroll", "c", "--state", "S", "--examples", "E", "--allow-cohorts-of", "1"], "usage", 2),
        (["enroll", "c", "--state", "S", "--examples", "E", "--min-noise", "-1"], "usage", 2),
        (["enroll", "c", "--state", "S", "--examples", "E", "--max-epsilon", "nan"], "usage", 2),
        (["enroll", "c", "--state", "S", "--examples", "E", "--max-participations", "1.5"], "usage", 2),
        (["dance"], "usage", 2),
        ([], "usage", 2),
        (["status", "--state", "S"], "identity-missing", 3),
        (["ledger", "--state", "S"], "identity-missing", 3),
        (["once", "--state", "S"], "identity-missing", 3),
        (["run", "--state", "S"], "identity-missing", 3),
        (["leave", "--state", "S", "--yes"], "identity-missing", 3),
    ],
)
def test_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, words: list[str], code: str, exit_code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) == exit_code
    assert error_of(capsys)["code"] == code
    assert main(words) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"[{code}]" in captured.err


def test_a_device_from_enrolment_to_leaving(tmp_path: Path, certificates: Path, capsys: Captured) -> None:
    aggregator = Aggregator(certificates, 2, rounds=0)
    write_points(tmp_path / "examples", 0)
    state = ["--state", str(tmp_path / "state")]
    with serve(certificates, aggregator) as url:
        words = ["enroll", aggregator.code(url), *state, "--examples", str(tmp_path / "examples")]
        owners = ["--allow-cohorts-of", "2", "--allow-semi-honest", "--min-corrupt-share", "0"]
        assert main([*words, *owners]) == 0
        assert "Sums of 2 devices" in capsys.readouterr().err
        floors = load_enrolment(StateFolder(tmp_path / "state")).floors
        assert floors == DeviceFloors(min_survivors=2, semi_honest=True, min_corrupt_share=0.0)
        assert main([*words, "--json"]) == 3
        assert error_of(capsys)["code"] == "already-enrolled"
        assert main(["status", *state]) == 0
        assert "no agent is running" in capsys.readouterr().out
        assert main(["once", *state, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"contribution": None}
        assert main(["run", *state, "--exit-when-done", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["version"] == 0
    assert main(["status", *state]) == 0
    assert "the task is done" in capsys.readouterr().out
    assert main(["ledger", *state, "--json"]) == 0
    ledger = json.loads(capsys.readouterr().out)
    assert set(ledger) == {"device", "task", "contributions", "totals", "privacy", "int8", "waiting"}
    assert main(["leave", *state]) == 2
    capsys.readouterr()
    assert main(["leave", *state, "--yes", "--json"]) == 0  # without a server
    said = capsys.readouterr()
    assert json.loads(said.out) == {"told": False}
    assert "ask the operator to revoke device-" in said.err
    assert not (tmp_path / "state").exists()


def test_what_the_owner_demands_when_enrolling_holds_in_every_later_process(
    tmp_path: Path, certificates: Path, capsys: Captured
) -> None:
    aggregator = Aggregator(certificates, 2)
    write_points(tmp_path / "examples", 0)
    state = ["--state", str(tmp_path / "state")]
    with serve(certificates, aggregator) as url:
        words = ["enroll", aggregator.code(url), *state, "--examples", str(tmp_path / "examples")]
        demands = ["--min-noise", "1.5", "--max-participations", "20", "--max-epsilon", "8", "--delta", "1e-7"]
        assert main([*words, "--allow-cohorts-of", "2", "--min-corrupt-share", "0", *demands]) == 0
        floors = load_enrolment(StateFolder(tmp_path / "state")).privacy_floors
        assert floors == PrivacyFloors(1.5, 20, 8.0, 1e-7)
        capsys.readouterr()
        assert main(["once", *state, "--json"]) == 3
        assert error_of(capsys)["code"] == "floor-noise"


def test_codes_of_the_server_reach_the_person(tmp_path: Path, certificates: Path, capsys: Captured) -> None:
    aggregator = Aggregator(certificates, 2)
    write_points(tmp_path / "examples", 0)
    with serve(certificates, lambda r: refusal(403, "code-used") if "enrol" in r.path else aggregator(r)) as url:
        words = [
            "enroll",
            aggregator.code(url),
            "--state",
            str(tmp_path / "s"),
            "--examples",
            str(tmp_path / "examples"),
        ]
        assert main([*words, "--json"]) == 3
    assert error_of(capsys) == {"code": "code-used", "message": "why", "try": "that"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, signal.SIGTERM])
@pytest.mark.parametrize(("command", "exit_code"), [("enroll", 4), ("once", 4), ("run", 0)])
def test_being_stopped(
    tmp_path: Path,
    certificates: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[KeyboardInterrupt] | signal.Signals,
    command: str,
    exit_code: int,
) -> None:
    def stopped(*_arguments: object, **_options: object) -> NoReturn:
        if isinstance(stop, signal.Signals):
            signal.raise_signal(stop)
        raise KeyboardInterrupt

    aggregator = Aggregator(certificates, 2)
    before = signal.getsignal(signal.SIGTERM)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
    monkeypatch.setattr(f"edge_client.{'enrolment.enrol' if command == 'enroll' else 'agent.open_agent'}", stopped)
    words = [command, "--state", str(tmp_path / "state"), "--json"]
    try:
        assert main([*words, "code", "--examples", "E"] if command == "enroll" else words) == exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    if exit_code:
        assert error_of(capsys)["code"] == "stopped"
    else:
        assert capsys.readouterr().out == ""


def test_json_is_not_abbreviated(capsys: Captured) -> None:
    assert main(["status", "--state", "S", "--js"]) == 2
    assert "[usage]" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "kept"), [("0", 0.0), ("0.1", 0.1), (None, 0.05)])
def test_a_demand_on_the_share_of_colluding_members_is_kept(
    tmp_path: Path, certificates: Path, text: str | None, kept: float
) -> None:
    aggregator = Aggregator(certificates, 2, rounds=0)
    write_points(tmp_path / "examples", 0)
    with serve(certificates, aggregator) as url:
        words = ["enroll", aggregator.code(url), "--state", str(tmp_path / "state")]
        demand = [] if text is None else ["--min-corrupt-share", text]
        assert main([*words, "--examples", str(tmp_path / "examples"), *demand]) == 0
    assert load_enrolment(StateFolder(tmp_path / "state")).floors.min_corrupt_share == kept


@pytest.mark.parametrize("text", ["-0.1", "0.5", "nan", "much"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    assert main(["enroll", "CODE", "--state", "s", "--examples", "e", "--min-corrupt-share", text]) == 2


def test_a_demand_on_the_clip_norm_is_kept(tmp_path: Path, certificates: Path, capsys: Captured) -> None:
    aggregator = Aggregator(certificates, 2)
    write_points(tmp_path / "examples", 0)
    state = ["--state", str(tmp_path / "state")]
    with serve(certificates, aggregator) as url:
        words = ["enroll", aggregator.code(url), *state, "--examples", str(tmp_path / "examples")]
        assert main([*words, "--allow-cohorts-of", "2", "--min-corrupt-share", "0", "--max-clip-norm", "499"]) == 0
        capsys.readouterr()
        assert main(["once", *state, "--json"]) == 3  # the plan clips to 500
        assert error_of(capsys)["code"] == "floor-clip-norm"

"""``fedloom load``: a small one, whole, and what it makes of what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shared.limits import MIB
from tools import cli
from tools.load.command import to_results
from tools.load.run import Load, Outcome
from tools.load.work import Report, Window, Work

SMALL = ("--devices", "4", "--parameters", "1000", "--window-s", "2")


def test_a_load_reports_what_was_accepted_and_that_the_sum_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "load.json"
    assert cli.main(["load", *SMALL, "--slow-clients", "2", "--json", str(written)]) == 0
    results = {row["name"].partition(", 4 devices")[0]: row for row in json.loads(written.read_text())["results"]}
    for name in ("errors", "devices that are not in the sum", "wrong weights"):
        assert results[f"load/{name}"]["value"] == 0
    for kind in ("upload", "small"):
        assert 0 < results[f"load/{kind} accepted, p50"]["value"] <= results[f"load/{kind} accepted, p99"]["value"]
        assert results[f"load/{kind} accepted, p99, beside 2 slow clients"]["value"] > 0
    assert results["load/web processes' peak memory"]["value"] > 10  # MiB; it was found
    assert results["load/driver's peak memory"]["value"] > 10
    assert "aim 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("--devices", "2"),
        ("--devices", "4097"),
        ("--devices", "9", "--window-s", "0"),
        ("--devices", "9", "--processes", "0"),
    ],
)
def test_what_is_no_load_is_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", *words]) == 2
    assert "bad-load" in capsys.readouterr().err


def test_devices_are_spread_over_the_parts_of_a_window() -> None:
    window = Window([(100.0, 10.0), (150.0, 10.0)])
    times = [(0, 100.0), (0, 105.0), (1, 150.0), (1, 155.0), (1, 160.0)]
    assert [window.time_of(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == times
    assert Window.from_json(window.to_json()) == window


def test_a_process_is_told_and_reports_in_lines() -> None:
    work = Work(["code"], "root", "plan", "00", 5, "folder", 1, 2)
    assert Work.from_json(work.to_json()) == work
    assert "\n" not in work.to_json()


def test_what_went_wrong_is_in_the_figures() -> None:
    timed = {"upload/0": [0.25], "upload/1": [3.0], "small/0": [0.5], "small/1": [0.5], "small": [9.0]}
    report = Report(timed, {"no-connection": 2}, answered=9, counted=3, latest_s=0.5, peak_bytes=MIB, sid="00")
    outcome = Outcome([report], 600 * MIB, MIB, ended=7, wrong_weights=1)
    load = Load(5, 10, 20.0, slow_clients=64, processes=1, web_processes=1)
    found = {
        re.sub(r", 5 devices.*", "", result.name): (result.value, result.ratio) for result in to_results(load, outcome)
    }
    assert found["load/upload accepted, p99"] == (0.25, 0.25)
    assert found["load/upload accepted, p99, beside 64 slow clients"] == (3.0, 12.0)
    assert found["load/errors"] == (2.0, 0.0)
    assert found["load/devices that are not in the sum"] == (2.0, 0.0)
    assert found["load/wrong weights"] == (1.0, 0.0)
    assert found["load/web processes' peak memory"][0] == 600

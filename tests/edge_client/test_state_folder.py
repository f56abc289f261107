"""The state folder: files of somebody else survive whatever an agent does there."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_client.agent import open_agent
from edge_client.cli import main
from edge_client.enrolment import enrol
from edge_client.state_folder import StateFolder
from shared.clock import SystemClock
from shared.errors import BrokenState, UsageError
from shared.secagg.floors import DeviceFloors
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import enrolled, write_points
from tests.edge_client.loopback import serve
from tests.shared.refusals import refused


@pytest.mark.parametrize("foreign", ["photo.jpg", "store", "releases"])
def test_a_folder_of_somebody_else_is_refused_and_untouched(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).mkdir()
    tmp_path.chmod(0o755)
    with refused("state-folder-not-empty", UsageError):
        StateFolder(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


@pytest.mark.parametrize("names", [[], ["lock"], ["lock", "identity.key"], ["lock", ".identity.key.7.new"]])
def test_an_enrolment_that_was_cut_off_goes_on(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    StateFolder(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize("below", [".", "data"])
def test_examples_inside_the_state_are_refused(tmp_path: Path, certificates: Path, below: str) -> None:
    aggregator = Aggregator(certificates, 2)
    examples = tmp_path / "state" / below
    write_points(examples, 0)
    with refused("examples-in-state-folder", UsageError):
        enrol(
            aggregator.code("https://127.0.0.1:1"),
            StateFolder(tmp_path / "state"),
            examples,
            floors=DeviceFloors(),
            name="",
            clock=SystemClock(),
            random_bytes=bytes,
            jitter=lambda: 0.5,
        )
    assert (examples / "examples.npz").exists()


def test_leaving_deletes_what_the_agent_made_and_nothing_else(tmp_path: Path, certificates: Path) -> None:
    aggregator = Aggregator(certificates, 2, rounds=0)
    folder = StateFolder(tmp_path / "state")
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        with open_agent(folder, log=lambda _line: None) as agent:
            agent.once()
    assert folder.current.exists()
    (folder.path / "photo.jpg").touch()
    (folder.path / "album").mkdir()
    assert main(["leave", "--state", str(folder.path), "--yes"]) == 0
    assert sorted(path.name for path in folder.path.iterdir()) == ["album", "photo.jpg"]
    assert main(["leave", "--state", str(folder.path), "--yes"]) == 3


def test_a_damaged_device_can_leave(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.path.mkdir()
    folder.enrolment_file.write_bytes(b"half")
    assert main(["leave", "--state", str(folder.path), "--yes"]) == 0
    assert not folder.path.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused("state-not-writable", BrokenState):
        StateFolder(tmp_path / "file").create()
    with refused("state-not-writable", BrokenState), StateFolder(tmp_path / "nowhere").lock():
        pass

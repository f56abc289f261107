"""The first request to an aggregator whose authority is elsewhere, and the last one of a device, over any network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_server.settings import DataFolder
from edge_client.cli import main
from edge_client.identity import load_enrolment
from shared.root import EnrolmentCode
from tests.e2e.lives import HastyClock, enrol_device, patiently, resolve_through
from tests.e2e.meddling import WRONGS, Wrong, meddling
from tests.e2e.pair import Pair
from tests.e2e.test_lives import impatient

__all__ = ["impatient"]
pytestmark = [
    pytest.mark.xdist_group("pair"),
    pytest.mark.timeout(900),
    # Agents are threads here, and what ignores this warning for one of them is of the whole process.
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]
SHORT = {"lost-response", "portal-redirect", "bit-flipped", "twice"}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what in SHORT else pytest.mark.long) for what in WRONGS]
)
def test_a_device_is_admitted_once(pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str) -> None:
    code, errors = EnrolmentCode.from_text(pair.codes(1)[0]), list[str]()
    with meddling(pair.aggregator.port, DataFolder(pair.aggregator.data).keys, {"admit": Wrong(what)}) as proxy:
        resolve_through(proxy, monkeypatch)
        through = replace(code, url=proxy.url)
        state = patiently(lambda: enrol_device(through, tmp_path, HastyClock(), 0), errors)
    assert state is not None, errors
    assert proxy.done == {"admit": 1}
    kinds = [request.kind for request in proxy.seen]
    assert kinds.count("admit") <= 3
    assert errors == []
    assert len({request.body for request in proxy.seen if request.kind == "admit"}) == 1, "one certificate"
    assert "enrol" not in kinds, "the code's secret goes to the authority alone"


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what in SHORT else pytest.mark.long) for what in WRONGS]
)
def test_a_device_leaves_whether_its_server_hears_of_it_or_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    code, errors = EnrolmentCode.from_text(pair.codes(1)[0]), list[str]()
    with meddling(pair.aggregator.port, DataFolder(pair.aggregator.data).keys, {"leave": Wrong(what)}) as proxy:
        resolve_through(proxy, monkeypatch)
        state = patiently(lambda: enrol_device(replace(code, url=proxy.url), tmp_path, HastyClock(), 0), errors)
        assert state is not None, errors
        device = load_enrolment(state).device
        assert main(["leave", "--yes", "--state", str(state.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["told"]
    assert not state.key_file.exists()
    assert proxy.done == {"leave": 1}
    standing = {one["device"]: one["state"] for one in pair.aggregator.run("device", "list")["devices"]}
    assert standing[device] == "revoked" or not told

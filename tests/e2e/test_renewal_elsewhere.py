"""Keys are renewed at an authority that is another deployment, by agents that are killed for real."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edge_client.cli import main
from edge_client.identity import load_identity
from edge_client.renewal import Step
from edge_client.state_folder import StateFolder
from shared.root import EnrolmentCode
from tests.e2e.pair import Pair
from tests.e2e.test_separate_authority import enrolled

pytestmark = pytest.mark.xdist_group("renewal-elsewhere")
DYING_AGENT = """
import os, signal, sys
from pathlib import Path
from edge_client.agent import open_agent
from edge_client.state_folder import StateFolder

def die(state, _round):
    if state == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

with open_agent(StateFolder(Path(sys.argv[1])), log=print, on_state=die) as agent:
    agent.renew_key()
"""


def logged(pair: Pair, device: str) -> list[int]:
    """Return the serials in the authority's log."""
    with closing(sqlite3.connect(pair.authority.data / "authority.db")) as database:
        rows = database.execute("SELECT serial FROM certificate_log WHERE device = ? ORDER BY serial", (device,))
        return [row[0] for row in rows]


def serial_of(pair: Pair, device: str) -> int:
    """Return what the aggregator takes for the device's key."""
    with closing(sqlite3.connect(pair.aggregator.data / "server.db")) as database:
        found: int = database.execute("SELECT serial FROM device WHERE device = ?", (device,)).fetchone()[0]
    return found


def test_a_device_killed_at_any_step_ends_with_the_key_that_both_deployments_know(pair: Pair, tmp_path: Path) -> None:
    for code, step in zip(pair.codes(len(Step)), Step, strict=True):
        enrolled(code, tmp_path / step)
        state = tmp_path / step / "state"
        died = subprocess.run(
            [sys.executable, "-c", DYING_AGENT, str(state), step], capture_output=True, check=False, timeout=120
        )
        assert died.returncode == -signal.SIGKILL, (step, died.stderr)
        if step not in {Step.IN_USE, Step.RENEWED}:  # it has the key in use otherwise
            assert main(["renew", "--state", str(state)]) == 0
        identity = load_identity(StateFolder(state))
        name, certificate = identity.enrolment.device, identity.enrolment.certificate
        assert (certificate.serial, serial_of(pair, name), logged(pair, name)) == (1, 1, [0, 1]), step
        assert identity.key.public == certificate.identity_key


def test_who_is_revoked_gets_a_certificate_that_nobody_takes(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The authority does not know; revocation sticks to the pseudonym, whatever key it has."""
    code = pair.codes(1)[0]
    device = enrolled(code, tmp_path).device
    state = str(tmp_path / "state")
    program = DYING_AGENT, state, Step.CERTIFICATE_KEPT
    subprocess.run([sys.executable, "-c", *program], capture_output=True, check=False, timeout=120)
    assert logged(pair, device) == [0, 1]
    pair.aggregator.run("device", "revoke", device)
    capsys.readouterr()
    assert main(["renew", "--state", state, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "device-revoked"
    assert serial_of(pair, device) == 0
    assert EnrolmentCode.from_text(code).url == pair.url  # asked there; the authority is elsewhere

"""A revoked device stays out, a copied identity is found and both copies are stopped, a late request harms nobody."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cloud_server.cli import main
from cloud_server.devices import FORGET_BEHIND_AFTER, MAX_BEHIND
from edge_client.transport import Signer, Transport
from shared.errors import Conflict, FedloomError, Refused, Unauthenticated
from shared.wire.messages import CheckIn
from shared.wire.requests import ADMIT, CHECK_IN, LEAVE
from tests.cloud_server.local import Local, LocalPool, small_plan
from tests.cloud_server.members import Member
from tests.shared.refusals import refused

BODY = CheckIn(0, 0).to_bytes()


class Agent:
    """An agent with a member's identity and a counter of its own."""

    def __init__(self, local: Local, member: Member, counter: int) -> None:
        self.counter = counter

        def next_counter() -> int:
            self.counter += 1
            return self.counter

        signer = Signer(local.parts.root.fingerprint, member.device, member.key, next_counter)
        self.transport = Transport(
            "https://aggregator.test", LocalPool(local.app), signer=signer, clock=local.clock, jitter=lambda: 0.0
        )

    def look(self) -> None:
        self.transport.send("GET", "/v1/releases/0")


@pytest.fixture
def member(local: Local) -> Member:
    local.create(small_plan("point"))
    made = local.enrol(small_plan("point"), 1)[0]
    made.release(0)
    return made


def state(local: Local) -> str:
    return str(local.rows("SELECT state FROM device")[0][0])


def test_a_revoked_device_stays_out(local: Local, member: Member, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(local.parts.folder.path)
    words = ["device", "revoke", member.device, "--reason", "stolen", "--data", data]
    assert main(words) == 0
    with refused("device-revoked", Unauthenticated):
        member.release(0)
    transport = Transport(
        "https://aggregator.test", LocalPool(local.app), signer=None, clock=local.clock, jitter=lambda: 0.0
    )
    transport.send("POST", ADMIT, b'{"certificate":' + _json(member.certificate.signed.to_json()) + b"}")
    with refused("device-revoked", Unauthenticated):
        member.release(0)  # its old certificate does not let it in again
    assert main(["device", "reinstate", member.device, "--data", data]) == 3
    capsys.readouterr()
    assert main(["audit", "list", "--data", data, "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["entries"][-1]
    assert (entry["action"], entry["subject"], entry["detail"]["reason"]) == (
        "device-revoked",
        member.device,
        "stolen",
    )


def test_a_device_that_leaves_stays_out_and_no_other_does(local: Local, member: Member) -> None:
    other = local.enrol(small_plan("point"), 1)[0]
    for named in (other.device, "", f"{member.device}x"):
        with refused("bad-field", FedloomError):
            member.transport.send("POST", LEAVE, _json({"device": named}))
    member.release(0)
    member.transport.send("POST", LEAVE, _json({"device": member.device}))
    for _ in range(2):
        with refused("device-revoked", Unauthenticated):
            member.transport.send("POST", LEAVE, _json({"device": member.device}))
    other.release(0)
    rows = local.rows("SELECT device, state, state_reason FROM device")
    assert set(map(tuple, rows)) == {(member.device, "revoked", "the device left"), (other.device, "active", "")}
    assert local.rows("SELECT actor, action FROM audit ORDER BY rowid DESC LIMIT 1") == [("device", "device-revoked")]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def test_two_agents_with_one_counter_are_both_stopped(local: Local, member: Member) -> None:
    """A copied card begins with the same number and something else to say."""
    base = local.rows("SELECT counter FROM device")[0][0]
    first, copy = Agent(local, member, base), Agent(local, member, base)
    first.look()
    copy.transport.signed("GET", "/v1/releases/0")
    copy.counter = base
    with refused("replayed-request", Conflict):
        copy.transport.send("POST", CHECK_IN, BODY)
    assert state(local) == "quarantined"
    for agent in (first, copy):
        with refused("identity-quarantined", Refused):
            agent.look()
    assert main(["device", "reinstate", member.device, "--data", str(local.parts.folder.path)]) == 0
    first.look()


def test_a_copy_that_runs_behind_is_found(local: Local, member: Member) -> None:
    base = local.rows("SELECT counter FROM device")[0][0]
    first, copy = Agent(local, member, base + 500), Agent(local, member, base)
    first.look()
    for _ in range(MAX_BEHIND):
        with refused("replayed-request", Conflict):
            copy.look()
        first.look()
    assert state(local) == "active"
    with refused("replayed-request", Conflict):
        copy.look()
    assert state(local) == "quarantined"


def test_late_requests_of_years_do_not_add_up(local: Local, member: Member) -> None:
    agent = Agent(local, member, local.rows("SELECT counter FROM device")[0][0])
    for _ in range(3 * MAX_BEHIND):
        agent.look()
        late = agent.counter
        agent.counter += FORGET_BEHIND_AFTER + 1
        agent.look()
        now, agent.counter = agent.counter, late - 1
        with refused("replayed-request", Conflict):
            agent.transport.send("POST", CHECK_IN, BODY)
        agent.counter = now
    assert state(local) == "active"
    agent.look()


def test_a_strangers_signature_quarantines_nobody(local: Local, member: Member) -> None:
    stranger = local.enrol(small_plan("point"), 1)[0]
    forged = Agent(local, replace(stranger, certificate=member.certificate), 0)
    for _ in range(MAX_BEHIND + 2):
        with refused("bad-signature", FedloomError):
            forged.look()
    assert {row[0] for row in local.rows("SELECT state FROM device")} == {"active"}
    member.release(0)

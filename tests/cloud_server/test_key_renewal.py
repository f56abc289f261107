"""Devices renew their keys: a real agent, over TLS, with a real aggregator whose answers may be lost.

The agent is killed after every step, and loses every answer, and must end with one identity that works. Whoever has
an old key, or renews somebody else's first, is refused and found.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud_server import audit
from cloud_server.app import create_app, make_context
from cloud_server.authority.registry import Authority
from cloud_server.cli import main as server
from edge_client.agent import RENEWAL_PAUSE_S, Agent, open_agent
from edge_client.cli import main
from edge_client.enrolment import enrol
from edge_client.identity import RENEW_KEY_DAYS, load_enrolment, load_identity, save_enrolment
from edge_client.renewal import DAY_S, Step
from edge_client.report import status, status_text
from edge_client.state_folder import StateFolder
from edge_client.transport import pinned_pool
from shared.errors import BrokenState, FedloomError, Missing, Refused, TryLater, Unauthenticated
from shared.plan import Eligibility
from shared.root import EnrolmentCode
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import Json
from shared.wire.messages import read_signed
from shared.wire.requests import CERTIFICATE, CHECK_IN, RENEW
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import new_transport
from tests.edge_client.devices import write_points
from tests.edge_client.loopback import Answer, Request, refusal, serve
from tests.shared.refusals import refused

HANG_UP = Answer(hang_up=True)


class Killed(BaseException):
    """The agent's process ended."""


@dataclass
class Line:
    """The way to the aggregator's application.

    Attributes:
        local: the aggregator.
        url: where it listens.
        lost: paths of which the answer is lost once the request was processed; of certificates, only of next ones.
        blocked: paths of which not even the request arrives.
        unknown: paths that an older server does not have.
        asked: paths of every request.
    """

    local: Local
    url: str = ""
    lost: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Answer:
        """Answer one request, or not."""
        self.asked.append(request.path)
        shows_next = request.path != CERTIFICATE or b'"serial"' in read_signed(request.body, "certificate").body
        if request.path in self.blocked and shows_next:
            return HANG_UP
        if request.path in self.unknown:
            return refusal(404, "not-found")
        with self._turn:
            client = self.local.app.test_client()
            headers = {name: value for name, value in request.headers.items() if name != "Content-Length"}
            with client.open(request.path, method=request.method, data=request.body, headers=headers) as answer:
                given = Answer(answer.status_code, answer.get_data(), answer.content_type or "")
        return HANG_UP if request.path in self.lost and shows_next else given


@dataclass
class Device:
    """An enrolled device's state, and what its agent does.

    Attributes:
        line: the way to the aggregator.
        path: of its folder.
        lines: that its agent said.
    """

    line: Line
    path: Path
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> StateFolder:
        """Its state."""
        return StateFolder(self.path / "state")

    @property
    def serial(self) -> int:
        """Of the certificate that it uses."""
        return load_enrolment(self.folder).certificate.serial

    @contextmanager
    def agent(self, on_state: Callable[[str, int], None] = lambda _state, _round: None) -> Iterator[Agent]:
        """Open its agent, whose waiting takes no time."""
        with open_agent(
            self.folder, log=self.lines.append, on_state=on_state, clock=self.line.local.clock, jitter=lambda: 0.5
        ) as agent:
            yield agent

    def renew(self) -> None:
        """Renew its key now."""
        with self.agent() as agent:
            agent.renew_key()

    def turn(self) -> None:
        """Let its agent ask what to do, and do what it does by itself."""
        with self.agent() as agent:
            agent.turn()

    def copy(self, path: Path) -> Device:
        """Return what somebody has who copied its card."""
        shutil.copytree(self.path, path)
        (path / "state" / "lock").unlink(missing_ok=True)
        return Device(self.line, path)


@pytest.fixture
def line(local: Local) -> Iterator[Line]:
    local.create(replace(small_plan("point"), eligibility=Eligibility(groups=("others",))), dimension=6)
    local.settle()  # devices are asked to come back, and no request is held
    made = Line(local)
    with serve(local.parts.folder.keys, made) as url:
        made.url = url
        yield made


@pytest.fixture
def device(line: Line, tmp_path: Path) -> Device:
    return enrolled(line, tmp_path / "device")


def enrolled(line: Line, path: Path, number: int = 0) -> Device:
    secret = line.local.authority.mint("point", count=1, valid_s=HOUR_S)[0]
    write_points(path / "examples", number)
    enrol(
        EnrolmentCode(line.url, line.local.parts.root.fingerprint, secret).to_text(),
        StateFolder(path / "state"),
        path / "examples",
        floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
        name="",
        clock=line.local.clock,
        random_bytes=os.urandom,
        jitter=lambda: 0.5,
    )
    return Device(line, path)


def entries(local: Local, action: str) -> list[dict[str, Json]]:
    with local.parts.database.read() as connection:
        return [entry for entry in audit.entries(connection) if entry["action"] == action]


def keys_on_disk(device: Device) -> set[str]:
    return {path.name for path in device.folder.path.iterdir() if path.name.endswith(".key")}


def assert_one_identity(device: Device, serial: int) -> None:
    """See that the device, the authority and the aggregator agree on the key, and no other one is left."""
    identity = load_identity(device.folder)
    assert (identity.enrolment.certificate.serial, identity.next_key) == (serial, None)
    assert identity.enrolment.next_certificate is None
    assert keys_on_disk(device) == {"identity.key"}
    assert stat.S_IMODE(device.folder.key_file.stat().st_mode) == 0o600
    name = identity.enrolment.device
    stored = device.line.local.rows(f"SELECT identity_key, serial FROM device WHERE device = '{name}'")  # noqa: S608
    assert [(bytes(key), number) for key, number in stored] == [(identity.key.public, serial)]
    with device.line.local.authority.database.read() as connection:
        query = "SELECT serial FROM certificate_log WHERE device = ? ORDER BY serial"
        log = connection.exec_driver_sql(query, (name,)).scalars().all()
    assert log == list(range(serial + 1))  # not one certificate more than there are keys
    device.turn()


def test_a_key_is_renewed_by_itself_when_it_is_old_enough(device: Device) -> None:
    clock = device.line.local.clock
    clock.time_s += RENEW_KEY_DAYS * DAY_S - 60
    device.turn()
    assert device.serial == 0
    clock.time_s += 120
    before = load_identity(device.folder)
    with device.agent() as agent:
        agent.turn()
        agent.turn()
    after = load_identity(device.folder)
    assert after.key != before.key
    assert after.enrolment.certificate.expires_at_s > before.enrolment.certificate.expires_at_s
    assert_one_identity(device, 1)
    renewed = entries(device.line.local, "device-key-renewed")
    assert [(entry["subject"], entry["detail"]) for entry in renewed] == [
        (before.enrolment.device, {"task": "point", "serial": 1, "serial_before": 0})
    ]
    clock.time_s += RENEW_KEY_DAYS * DAY_S
    device.turn()
    assert_one_identity(device, 2)


def test_an_owner_who_wants_no_renewals_gets_none(device: Device) -> None:
    save_enrolment(device.folder, replace(load_enrolment(device.folder), renew_key_days=0))
    device.line.local.clock.time_s += 1000 * DAY_S
    device.turn()
    assert device.serial == 0


def test_a_device_of_before_counts_its_keys_age_from_when_it_was_updated(device: Device) -> None:
    save_enrolment(device.folder, replace(load_enrolment(device.folder), key_since_s=None))
    clock = device.line.local.clock
    clock.time_s += 1000 * DAY_S
    device.turn()
    assert device.serial == 0
    assert load_enrolment(device.folder).key_since_s == clock.time_s
    clock.time_s += RENEW_KEY_DAYS * DAY_S
    device.turn()
    assert device.serial == 1


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("forced", [True, False])
def test_an_agent_killed_after_any_step_ends_with_one_identity(device: Device, step: Step, *, forced: bool) -> None:
    def kill(state: str, _round: int) -> None:
        if state == step:
            raise Killed

    with suppress(Killed), device.agent(kill) as agent:
        agent.renew_key()
        pytest.fail("it was not killed")
    if forced and step not in {Step.IN_USE, Step.RENEWED}:  # after which another one would follow
        device.renew()
    else:
        device.turn()
    assert_one_identity(device, 1)


@pytest.mark.parametrize("path", [RENEW, CERTIFICATE])
@pytest.mark.parametrize("arrives", [True, False])
def test_an_answer_that_is_lost_is_asked_for_again(device: Device, path: str, *, arrives: bool) -> None:
    line = device.line
    (line.lost if arrives else line.blocked).add(path)
    with refused("no-connection", TryLater):
        device.renew()
    line.lost.clear()
    line.blocked.clear()
    line.asked.clear()
    device.turn()
    # What the aggregator may have taken is shown before anything is signed with the key of before.
    assert line.asked[0] == (CERTIFICATE if path == CERTIFICATE else CHECK_IN)
    assert_one_identity(device, 1)


def test_a_disk_that_fails_at_any_moment_of_a_renewal_costs_nothing_but_time(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = os.fsync, 0  # of the device's own files
    for number in itertools.count(1):
        device, calls = enrolled(line, tmp_path / str(number)), itertools.count(1)

        def fsync(descriptor: int, *, last: int = number, calls: Iterator[int] = calls) -> None:
            if next(calls) == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr("edge_client.durable.os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
            with suppress(TryLater):
                device.renew()
                break
        failures += 1
        if device.serial == 0:
            device.renew()
        else:
            device.turn()
        assert_one_identity(device, 1)
    assert failures >= 4  # next key, its certificate, the certificate in use, the key in use


def test_an_authority_that_does_not_answer_keeps_nobody_from_working(device: Device) -> None:
    line, clock = device.line, device.line.local.clock
    line.blocked.add(RENEW)
    clock.time_s += RENEW_KEY_DAYS * DAY_S
    with device.agent() as agent:
        agent.turn()
        assert RENEW in line.asked
        line.asked.clear()
        agent.turn()
        assert CHECK_IN in line.asked
        assert RENEW not in line.asked
        assert any("was not renewed" in text for text in device.lines)
        line.blocked.clear()
        clock.time_s += RENEWAL_PAUSE_S
        agent.turn()
    assert_one_identity(device, 1)


@pytest.mark.parametrize("path", [RENEW, CERTIFICATE])
def test_a_server_that_is_older_than_the_agent_still_takes_its_requests(device: Device, path: str) -> None:
    device.line.unknown.add(path)
    with refused("old-server", Missing):
        device.renew()
    device.line.local.clock.time_s += RENEW_KEY_DAYS * DAY_S
    with device.agent() as agent:
        agent.turn()
        agent.turn()
    assert device.line.asked.count(CHECK_IN) == 2
    assert device.serial == 0
    device.line.unknown.clear()
    device.turn()  # once the server is updated
    assert_one_identity(device, 1)


def test_who_copied_the_card_before_a_renewal_can_do_nothing_and_is_seen(device: Device, tmp_path: Path) -> None:
    copy = device.copy(tmp_path / "copy")
    device.renew()
    for _ in range(3):
        with refused("key-superseded", Unauthenticated):
            copy.turn()
        with refused("key-superseded", Unauthenticated):
            copy.renew()
    device.turn()
    assert [row[0] for row in device.line.local.rows("SELECT state FROM device")] == ["active"]
    found = entries(device.line.local, "identity-cloned")
    assert [(entry["subject"], entry["actor"]) for entry in found] == [
        (load_enrolment(device.folder).device, "server")
    ]  # once, however often it comes


def test_who_steals_the_key_and_renews_first_locks_the_device_out_which_says_so(device: Device, tmp_path: Path) -> None:
    thief = device.copy(tmp_path / "thief")
    thief.renew()
    with refused("key-superseded", Unauthenticated) as caught:
        device.turn()
    assert "tell the operator" in caught.value.remedy
    assert len(entries(device.line.local, "identity-cloned")) == 1
    name = load_enrolment(device.folder).device
    assert main(["renew", "--state", str(device.folder.path)]) == 3
    data = str(device.line.local.parts.folder.path)
    assert server(["device", "revoke", name, "--data", data]) == 0
    for stopped in (thief, device):
        with pytest.raises(Unauthenticated):
            stopped.turn()


def test_of_two_who_ask_for_a_next_key_one_gets_it(device: Device, tmp_path: Path) -> None:
    """The authority certifies one key in the place of each, even if nobody has shown it to the aggregator yet."""
    thief = device.copy(tmp_path / "thief")
    device.line.blocked.add(CERTIFICATE)
    with refused("no-connection", TryLater):
        thief.renew()
    device.line.blocked.clear()
    with refused("key-superseded", Unauthenticated):
        device.renew()
    assert device.serial == 0


@pytest.mark.parametrize(("verb", "code"), [("revoke", "device-revoked"), ("quarantine", "identity-quarantined")])
@pytest.mark.parametrize("certified", [True, False])
def test_who_is_stopped_gets_no_new_key(device: Device, verb: str, code: str, *, certified: bool) -> None:
    line = device.line
    if certified:  # as by an authority elsewhere, which cannot know
        line.blocked.add(CERTIFICATE)
        with suppress(TryLater):
            device.renew()
        line.blocked.clear()
    name = load_enrolment(device.folder).device
    assert server(["device", verb, name, "--data", str(line.local.parts.folder.path)]) == 0
    with refused(code, Refused):
        device.renew()
    assert line.local.rows("SELECT serial FROM device") == [(0,)]
    if verb == "quarantine":
        assert server(["device", "reinstate", name, "--data", str(line.local.parts.folder.path)]) == 0
        device.renew()
        assert_one_identity(device, 1)


def test_an_aggregator_that_forgot_the_key_is_shown_it_again(device: Device) -> None:
    """As one does that was restored from a backup of before."""
    local, name = device.line.local, load_enrolment(device.folder).device
    local.change("CREATE TABLE backup AS SELECT * FROM device")
    device.renew()
    local.change("DELETE FROM former_key")
    local.change("UPDATE device SET serial = 0, identity_key = (SELECT identity_key FROM backup)")
    local.parts.identity_keys.forget(name)
    device.turn()
    assert local.rows("SELECT serial FROM device") == [(1,)]


def test_a_lost_next_key_ends_the_identity_only_where_the_aggregator_may_have_taken_it(device: Device) -> None:
    device.line.blocked.add(RENEW)
    with suppress(FedloomError):
        device.renew()
    device.folder.next_key_file.write_bytes(b"half")
    device.line.blocked = {CERTIFICATE}
    with suppress(FedloomError):
        device.renew()  # half a key was shown to nobody, so another one is made
    device.folder.next_key_file.write_bytes(b"half")
    with refused("identity-damaged", BrokenState):
        device.turn()


def test_the_owner_renews_by_hand_and_sees_the_keys_age(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["renew", "--state", str(device.folder.path), "--renew-key-days", "30", "--json"]
    assert main(words) == 0
    name = load_enrolment(device.folder).device
    assert capsys.readouterr().out == f'{{"device": "{name}", "serial": 1}}\n'
    report = status(device.folder)
    assert (report["key"]["serial"], report["renew_key_days"]) == (1, 30)
    assert "number 2, since " in status_text(report)
    assert "renewed every 30 days" in status_text(report)
    assert main(["renew", "--state", str(device.folder.path), "--renew-key-days", "-1"]) == 2


def test_the_operator_sees_keys_and_their_age(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, name = device.copy(tmp_path / "copy"), load_enrolment(device.folder).device
    old = load_identity(device.folder).key.public.hex()
    device.renew()
    with suppress(FedloomError):
        copy.turn()
    device.line.local.change(f"UPDATE device SET key_since_s = {time.time() - 3 * DAY_S}")  # noqa: S608  # a number
    data = str(device.line.local.parts.folder.path)
    capsys.readouterr()
    assert server(["device", "list", "--data", data, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert (row["device"], row["key_serial"], row["key_age_days"]) == (name, 1, 3.0)
    assert server(["device", "show", name, "--data", data, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["identity_key"] == load_identity(device.folder).key.public.hex()
    (former,) = shown["former_keys"]
    assert (former["serial"], former["identity_key"]) == (0, old)
    assert former["used_after_s"] >= former["until_s"] > 0
    assert server(["device", "show", "device-nobody", "--data", data]) == 3


def test_a_device_that_leaves_takes_its_next_key_along(device: Device) -> None:
    device.line.blocked.add(RENEW)
    with suppress(FedloomError):
        device.renew()
    assert device.folder.next_key_file.exists()
    assert main(["leave", "--state", str(device.folder.path), "--yes"]) == 0
    assert not device.folder.path.exists()


def test_two_web_processes_agree_on_the_key_at_once(device: Device, line: Line) -> None:
    """Each remembers keys; a key that another one has replaced must not count for a single request."""
    local, before = line.local, load_identity(device.folder)
    parts = make_context(local.parts.folder.path, local.clock)
    other = create_app(parts)
    first, line.local.app = line.local.app, other
    device.turn()  # the second process knows the first key now
    line.local.app = first
    device.renew()
    line.local.app = other
    pool, certificate = pinned_pool(local.parts.root.tls_root_pem), before.enrolment.certificate
    old = new_transport(line.url, pool, local.parts.root, certificate, before.key, local.clock)
    with refused("key-superseded", Unauthenticated):
        old.send("GET", "/v1/releases/0")
    pool.clear()
    device.turn()
    line.local.app = first
    assert_one_identity(device, 1)
    parts.database.close()
    assert isinstance(parts.authority, Authority)
    parts.authority.database.close()

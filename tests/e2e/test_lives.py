"""A device behind a network that does every wrong at every kind of request; see ``lives`` for what must hold."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cloud_server.releases import actions
from edge_client import answers, transport
from edge_client.journal import State
from shared.wire import requests
from shared.wire.requests import COUNTER_HEADER
from tests.e2e.lives import ROUNDS, TASK, Life, World, assert_well_behaved, new_world
from tests.e2e.meddling import KINDS, WRONGS, Wrong, replay
from tests.e2e.scene import state
from tests.e2e.servers import Deployment, deployment
from tools.fleet import REPOSITORY

pytestmark = [
    pytest.mark.xdist_group("lives"),
    pytest.mark.timeout(900),
    # Agents are threads here, and what ignores this warning for one of them is of the whole process.
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a server whose release key was replaced and whose task is held, so that devices ask for both."""
    folder = tmp_path_factory.mktemp("lives")
    with deployment(folder) as running:

        def prepare() -> None:
            with running._database.write() as connection:
                actions.hold(connection, "operator", None, TASK, now_s=time.time())
            running.server.stop()
            running.server.run("model", "rotate-key")
            running.server.start()

        with new_world(running, folder, prepare) as made:
            yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices notice a silent network soon, but not while the server only holds a poll."""
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 13.0)
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 13.0)
    monkeypatch.setattr(answers, "GRACE_S", 1.0)


def test_an_undisturbed_life(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life = world.live({}, monkeypatch)
    assert life.errors == []
    assert [row.state for row in life.rows] == [State.COUNTED] * ROUNDS
    assert life.serial == 1
    assert {one.kind for one in life.proxy.seen} == set(HERE) - set(AFTER)


# Kinds that only follow on something else that went wrong, and what that is.
AFTER: Final = {
    "vector-received": ("vector", "reset-request"),
    "vector-rest": ("vector", "reset-request"),
    "blob-rest": ("blob", "reset-response"),
    "difference-rest": ("difference", "reset-response"),
}
RESTS: Final = {"vector-rest", "blob-rest", "difference-rest"}
ELSEWHERE: Final = {"admit", "leave"}  # before and after such a life, see ``test_lives_elsewhere``
HERE: Final = tuple(kind for kind in KINDS if kind not in ELSEWHERE)

# Where the agent sends requests from, and which kinds those are. A line that is missing here has no test yet.
CALLS: Final = {
    ("agent", "_check_in", "send"): {"check-in"},
    ("authority", "ask_authority", "post"): {"enrol", "renew"},
    ("authority", "post", "send"): {"enrol", "renew", "admit"},
    ("cohort_client", "_ask", "poll"): {"roster", "inbox", "survivors", "agreements", "outcome"},
    ("cohort_client", "_tell", "send"): {"join", "shares", "agreement", "answer"},
    ("cohort_client", "_tell", "send_vector"): {"vector", "vector-rest", "vector-received"},
    ("cohort_client", "find_cohort", "poll"): {"rendezvous"},
    ("departure", "tell_server", "send_once"): {"leave"},
    ("difference", "_go_on", "open"): {"difference", "difference-rest"},
    ("doctor_server", "ask_server", "open"): {"root"},
    ("download", "_go_on", "open"): {"blob", "blob-rest"},
    ("enrolment", "_redeem", "ask_authority"): {"enrol"},
    ("enrolment", "_redeem", "post"): {"admit"},
    ("enrolment", "_root_document", "send"): {"root"},
    ("following", "_fetch", "send"): {"decision"},
    ("following", "trust", "send"): {"release-key"},
    ("model_store", "_fetch", "send"): {"release"},
    ("renewal", "_ask", "ask_authority"): {"renew"},
    ("renewal", "show", "send"): {"certificate"},
    ("transport", "_attempt", "open"): set(),
    ("transport", "poll", "send"): set(),
    ("upload", "send_vector", "send"): {"vector-received"},
    ("upload", "send_vector", "send_once"): {"vector", "vector-rest"},
}
_SENDING: Final = {"send", "send_once", "poll", "open", "post", "ask_authority", "send_vector"}
_STEPS: Final = {"join", "roster", "shares", "inbox", "vector", "survivors", "agreement", "agreements", "answer"}


def calls_of(module: Path) -> set[tuple[str, str, str]]:
    """Return every call in a module that sends a request: module, function, what is called."""
    found = set()
    for function in ast.walk(ast.parse(module.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call):
                continue
            called = ast.unparse(call.func)
            name = called.rpartition(".")[2]
            over_a_transport = "transport" in called or called in _SENDING - {"open"}
            if module.stem == "transport":
                over_a_transport = called.startswith("self.")
            if name in _SENDING and over_a_transport:
                found.add((module.stem, function.name, name))
    return found


def test_every_request_of_the_agent_is_of_a_kind_that_is_tested() -> None:
    modules = sorted((REPOSITORY / "edge_client").rglob("*.py"))
    assert set().union(*map(calls_of, modules)) == CALLS.keys(), "a request is sent from elsewhere"
    assert set().union(*CALLS.values()) == set(KINDS)
    text = "\n".join(module.read_text() for module in modules)
    routes = {name for name, value in vars(requests).items() if isinstance(value, str) and value.startswith("/v1/")}
    used = {name for name in routes if f" {name}" in text or f"({name}" in text or f"{{{name}}}" in text}
    known = {"ROOT", "ENROL", "ADMIT", "RENEW", "CERTIFICATE", "CHECK_IN", "RENDEZVOUS", "RELEASES", "DECISION"}
    assert used == known | {"RELEASE_KEY", "BLOBS", "COHORTS", "LEAVE"}, "a route that no life asks for"
    told = ast.parse((REPOSITORY / "edge_client" / "cohort_client.py").read_text())
    steps = {
        ast.unparse(call.args[0]).strip("'").replace("VECTOR", "vector")
        for call in ast.walk(told)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {"self._tell", "self._ask"}
    }
    assert steps == _STEPS | {"outcome"}, "a step that no life takes"


# What an error of a device behind such a network may be called.
NAMES: Final = {
    "no-connection",
    "captive-portal",
    "not-the-server",
    "answer-damaged",
    "too-slow",
    "replayed-request",
    "wrong-root",
}
DAMAGED: Final = {"truncated", "bit-flipped"}  # what arrives is another thing; a signature or a hash says so
HARMLESS: Final = tuple(what for what in WRONGS if what not in DAMAGED)  # a repeat mends it


def check(world: World, life: Life, wrongs: dict[str, Wrong], *, renewed: bool = True) -> None:
    """Assert what must hold after a life, and that every wrong was done."""
    assert not world.failed, world.failed
    assert_well_behaved(life)
    world.assert_exact(life)
    # Whether there is a rest to ask for depends on how much came before a reset.
    undone = set(wrongs) - set(life.proxy.done)
    assert undone <= RESTS, "a wrong that never came to be done"
    damaged = any(wrong.what in DAMAGED for wrong in wrongs.values())
    if not damaged:
        assert set(life.errors) <= NAMES, life.errors
        assert [row.state for row in life.rows] == [State.COUNTED] * ROUNDS, [
            (row.state, row.reason) for row in life.rows
        ]
        assert life.serial == renewed
    assert all(code and code != "internal-error" for code in life.errors)
    for answer in life.proxy.late_answers:
        assert answer.status < 500
    device = world.running.rows("SELECT state FROM device WHERE device = ?", life.device)
    assert device == [("active",)]


def one_wrong(kind: str, what: str) -> dict[str, Wrong]:
    """Return what makes a network do one wrong at the first request of a kind, and have that request sent at all."""
    before = {AFTER[kind][0]: Wrong(AFTER[kind][1])} if kind in AFTER else {}
    return before | {kind: Wrong(what)}


def latin(shift: int) -> dict[str, Wrong]:
    """Return a network that does another wrong at each kind; all shifts together do each wrong at each kind."""
    wrongs = {kind: Wrong(HARMLESS[(place + shift) % len(HARMLESS)]) for place, kind in enumerate(HERE)}
    return wrongs | {first: Wrong(what) for first, what in AFTER.values()}


@pytest.mark.parametrize(
    "shift", [pytest.param(shift, marks=[] if shift in {0, 4} else pytest.mark.long) for shift in range(len(HARMLESS))]
)
def test_a_life_in_which_every_kind_of_request_meets_a_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    wrongs = latin(shift)
    check(world, world.live(wrongs, monkeypatch), wrongs)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("root", "bit-flipped"),
        ("check-in", "truncated"),
        ("release", "bit-flipped"),
        ("blob", "bit-flipped"),
        ("roster", "bit-flipped"),
        ("inbox", "truncated"),
        ("survivors", "bit-flipped"),
    ],
)
def test_a_damaged_answer_is_never_used(world: World, monkeypatch: pytest.MonkeyPatch, kind: str, what: str) -> None:
    wrongs = one_wrong(kind, what)
    check(world, world.live(wrongs, monkeypatch), wrongs)


# What a recorded request is answered without a signature that counts once: public, or the same answer again.
UNSIGNED: Final = {"root", "enrol", "renew"}
LATER: Final = {False: {"replayed-request"}, True: {"replayed-request", "key-superseded"}}


@pytest.mark.parametrize("renews", [False, True])
def test_recorded_requests_are_worth_nothing_later_and_elsewhere(
    world: World, running: Deployment, monkeypatch: pytest.MonkeyPatch, *, renews: bool
) -> None:
    wrongs = {"vector": Wrong("reset-request")}
    life = world.live(wrongs, monkeypatch, renews=renews)
    check(world, life, wrongs, renewed=renews)
    world.wait_until_idle()
    seen, first = life.proxy.seen, {one.kind: one for one in reversed(life.proxy.seen)}
    before, elsewhere = state(world.running), state(running)
    last = max(int(one.headers[COUNTER_HEADER]) for one in seen if COUNTER_HEADER in one.headers)
    for request in first.values():
        again = replay(request, world.running.server.port)
        other = replay(request, running.server.port)
        if request.kind in UNSIGNED:
            assert again.status == 200 or again.code == "key-superseded", (request.kind, again)
            assert other.code in {"", "code-unknown", "bad-signature"}, (request.kind, other)
        else:
            is_last = int(request.headers[COUNTER_HEADER]) == last
            assert again.status == 200 if is_last else again.code in LATER[renews], (request.kind, again)
            assert other.code in {"unknown-device", "bad-signature"}, (request.kind, other)
        world.running.change("UPDATE device SET behind = 0, state = 'active' WHERE device = ?", life.device)
    assert state(world.running) == before
    assert state(running) == elsewhere


@pytest.mark.long
@pytest.mark.parametrize("what", WRONGS)
@pytest.mark.parametrize("kind", HERE)
def test_a_life_with_one_wrong(world: World, monkeypatch: pytest.MonkeyPatch, kind: str, what: str) -> None:
    wrongs = one_wrong(kind, what)
    check(world, world.live(wrongs, monkeypatch), wrongs)

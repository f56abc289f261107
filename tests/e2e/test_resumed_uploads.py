"""Vectors that arrive in spite of the network: nothing acknowledged is sent again, and the sum is exact."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from edge_client import transport as transport_module
from edge_client import upload as upload_module
from edge_client.transport import Transport
from shared.errors import TryLater
from shared.secagg.signed_inbox import sign_inbox
from shared.wire.canonical import decode, octets_to_text, sha256
from shared.wire.messages import read_received
from shared.wire.requests import INBOX_HEADER, OCTETS, vector_target
from tests.cloud_server.members import Member, one_hot
from tests.e2e.proxy import Fault, Proxy, misbehaving
from tests.e2e.scene import Answer, Scene, assert_refused, small_plan, state
from tests.e2e.servers import Deployment, deployment, run_steps, wait_for

pytestmark = pytest.mark.xdist_group("resumed-uploads")
DIMENSION: Final = 500_000  # 2 MB on the way
PIECE: Final = 700_000  # bytes that a connection lives for; the vector needs three


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices notice a silent network within seconds."""
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(transport_module, "READ_TIMEOUT_S", 2.0)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return where the server said that its part ended, in order."""
    heard: list[int] = []

    def listen(body: bytes, size_bytes: int) -> int:
        heard.append(read_received(body, size_bytes))
        return heard[-1]

    monkeypatch.setattr(upload_module, "read_received", listen)
    return heard


def collecting(running: Deployment, name: str, dimension: int = DIMENSION) -> list[Member]:
    """Return two members whose cohort waits for the vector of the first."""
    plan = small_plan(name)
    plan = replace(plan, cohort=replace(plan.cohort, largest=2))
    running.create_task(plan, dimension)
    members = running.enrol(plan, 2)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, dimension)
        member.meet(model)
    run_steps(members, ["join", "share"])
    members[1].do("upload")
    return members


def finish(members: list[Member]) -> None:
    run_steps(members, ["agree", "answer"])
    assert all(member.counted() for member in members)
    theta = load(members[0].weights(1))["theta"]
    np.testing.assert_allclose(theta, sum(member.values for member in members), atol=1e-6)


def through(member: Member, proxy: Proxy) -> None:
    """Send the member's next requests through the proxy."""
    old = member.transport
    pool = transport_module.pinned_pool(member.root.tls_root_pem)
    new = Transport(proxy.url, pool, signer=old._signer, clock=member.clock, jitter=lambda: 0.5)
    member.transport = new
    if hasattr(member, "_steps"):
        member._steps._transport = new


@contextmanager
def badly_connected(running: Deployment, member: Member, *faults: Fault) -> Iterator[Proxy]:
    direct = member.transport
    with misbehaving(running.server.port, faults) as proxy:
        through(member, proxy)
        try:
            yield proxy
        finally:
            member.transport.close()
            member.transport = member._steps._transport = direct


def held(running: Deployment, member: Member) -> list[Path]:
    return [path for path in running.data.glob(f"uploads/{member.cohort}.*/*") if path.is_file()]


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
def test_a_vector_longer_than_any_connection_arrives(running: Deployment, answers: list[int], *, reset: bool) -> None:
    members = collecting(running, "longer-reset" if reset else "longer-cut")
    # The inbox is fetched on the first connection, and every break is followed by a question on the next one.
    with badly_connected(running, members[0], Fault(cut_after=PIECE, reset=reset)) as proxy:
        members[0].do("upload")
    assert answers == sorted(answers)
    assert len(proxy.forwarded) >= 3
    if not reset:  # a reset throws away what is on its way
        assert sum(proxy.forwarded) < 4 * DIMENSION + len(proxy.forwarded) * 50_000
    assert not held(running, members[0])
    finish(members)


def test_a_silent_connection_is_in_nobodys_way(running: Deployment, answers: list[int]) -> None:
    members = collecting(running, "silent")
    with badly_connected(running, members[0], Fault(cut_after=PIECE, silent=True), Fault()) as proxy:
        members[0].do("upload")
        assert proxy.forwarded[0] == PIECE
    assert answers[-1] > PIECE // 2
    finish(members)


def test_doubled_bytes_are_no_second_vector(running: Deployment) -> None:
    members = collecting(running, "doubled")
    with badly_connected(running, members[0], Fault(doubled=True)):
        members[0].do("upload")
    finish(members)


def test_a_crawling_vector_arrives_whole(running: Deployment) -> None:
    members = collecting(running, "crawling", dimension=8)
    with badly_connected(running, members[0], Fault(bytes_per_s=2000.0)):
        members[0].do("upload")
    finish(members)


def web_workers(running: Deployment) -> list[int]:
    """Return the process ids of the web processes that answer requests."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
    assert running.server.process is not None
    supervisor = running.server.process.pid
    return [pid for pid, parent in parents.items() if parents.get(parent) == supervisor]


def test_what_is_on_disk_outlives_a_killed_web_process(running: Deployment, answers: list[int]) -> None:
    members = collecting(running, "killed")
    stall, victim = Fault(cut_after=1_600_000, silent=True), web_workers(running)
    with (
        badly_connected(running, members[0], stall, Fault()) as proxy,
        ThreadPoolExecutor(1) as thread,
    ):
        sent = thread.submit(members[0].do, "upload")
        wait_for(lambda: any(path.stat().st_size > 1_000_000 for path in held(running, members[0])), "half a vector")
        for pid in victim:
            os.kill(pid, signal.SIGKILL)
        sent.result()
        assert sum(proxy.forwarded[1:]) < 4 * DIMENSION - 1_000_000 + 50_000
    assert answers[0] > 1_000_000
    finish(members)


def test_an_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    with deployment(tmp_path) as running:
        members = collecting(running, "restarted")
        route, body = members[0].prepare("upload")
        target, whole = members[0].target(route), sha256(body).hex()
        with badly_connected(running, members[0], Fault(cut_after=PIECE)), pytest.raises(TryLater):
            members[0].transport.send_once(
                "PUT", target, body, content_type=OCTETS, counts_as="vector_up", headers=members[0].inbox_header
            )
        wait_for(lambda: bool(held(running, members[0])), "half a vector")
        for member in members:
            member.transport.close()
        running.server.stop()
        running.server.start()
        asked = members[0].transport.send("GET", vector_target(target, whole)).body
        offset = decode(asked)["received_bytes"]
        assert isinstance(offset, int)
        assert PIECE // 2 < offset < PIECE
        rest = vector_target(target, whole, offset)
        members[0].transport.send_once(
            "PUT", rest, body[offset:], content_type=OCTETS, counts_as="vector_up", headers=members[0].inbox_header
        )
        finish(members)


def half_sent(running: Deployment, name: str) -> tuple[Scene, bytes, int]:
    """Return a scene whose attacker's connection broke, its vector, and where the server's part of it ends."""
    members = collecting(running, name)
    route, body = members[0].prepare("upload")
    with badly_connected(running, members[0], Fault(cut_after=PIECE)), pytest.raises(TryLater):
        members[0].transport.send_once(
            "PUT",
            members[0].target(route),
            body,
            content_type=OCTETS,
            counts_as="vector_up",
            headers=members[0].inbox_header,
        )
    scene = Scene(running, members, members[1], {route: body})
    wait_for(lambda: ask(scene, body) > PIECE // 2, "the part that arrived")
    return scene, body, ask(scene, body)


def ask(scene: Scene, body: bytes) -> int:
    answer = scene.signed("GET", vector_target(scene.attacker.target("vector"), sha256(body).hex()))
    assert answer.status == 200, answer
    size = decode(answer.body)["received_bytes"]
    assert isinstance(size, int)
    return size


def put(scene: Scene, whole: bytes, offset: int, body: bytes) -> Answer:
    return scene.signed("PUT", vector_target(scene.attacker.target("vector"), sha256(whole).hex(), offset), body)


def test_a_half_takes_nothing_but_its_own_other_half(running: Deployment) -> None:
    scene, body, offset = half_sent(running, "half")
    target, other = scene.attacker.target("vector"), bytes([body[0] ^ 1]) + body[1:]
    wrong = body[:-1] + bytes([body[-1] ^ 1])
    before = state(running)
    assert running.phase(scene.attacker.cohort) == "collecting"  # half a vector is none
    attacks = [
        (scene.put("vector", other), 409, "different-repeat"),
        (put(scene, other, offset, other[offset:]), 409, "different-repeat"),
        (put(scene, body, 0, other), 409, "different-repeat"),
        (put(scene, body, offset + 1, body[offset + 1 :]), 409, "wrong-offset"),
        (put(scene, body, offset, body[offset:-1]), 400, "wrong-vector-length"),
        (put(scene, body, len(body), b""), 400, "wrong-vector-length"),
        (scene.signed("GET", vector_target(target, sha256(other).hex())), 409, "different-repeat"),
        (scene.signed("GET", target), 400, "bad-query"),
        (scene.signed("PUT", f"{target}?offset=-1&sha256={'0' * 64}", b"x"), 400, "bad-query"),
        (scene.signed("PUT", f"{target}?offset={10**30}&sha256={'0' * 64}", b"x"), 400, "bad-query"),
        (scene.signed("PUT", f"{target}?offset=1", b"x"), 400, "bad-query"),
        (scene.signed("PUT", f"{target}?sha256=..%2F..%2Fkey&offset=0", b"x"), 400, "bad-query"),
    ]
    for answer, status, code in attacks:
        assert_refused(answer, status, code)
    headers = scene.attacker.transport.signed("PUT", rest := vector_target(target, sha256(body).hex(), offset), b"")
    assert_refused(scene.raw("PUT", rest, headers, body[offset:]), 400, "body-hash")
    assert state(running) == before
    assert put(scene, body, 3, body[3:]).status == 200  # bytes that are there already are compared
    assert scene.put("vector", body).status == 200  # a repeat
    assert ask(scene, body) == len(body)
    assert_refused(scene.put("vector", wrong), 409, "different-repeat")
    finish(scene.members)


def test_whose_boxes_a_member_used_is_its_own_word_and_all_of_them(running: Deployment) -> None:
    scene, body, offset = half_sent(running, "boxes")
    attacker, session = scene.attacker, scene.attacker.session
    index, sid, neighbours = session._index, session.sid, session._graph.neighbours_of(session._index)
    fewer = sign_inbox(attacker.key, sid, index, neighbours, neighbours[1:])
    by_another = sign_inbox(scene.members[1].key, sid, index, neighbours, neighbours)

    def sent(header: str | None, start: int = offset) -> Answer:
        target = vector_target(attacker.target("vector"), sha256(body).hex(), start)
        headers = attacker.transport.signed("PUT", target, body[start:])
        return scene.raw("PUT", target, {**headers, INBOX_HEADER: header}, body[start:])

    before = state(running)
    for header, status, code in (
        (None, 400, "no-signed-inbox"),
        ("?", 400, "bad-octets"),
        ("", 400, "bad-signed-inbox"),
        (octets_to_text(b"\x03" + session.signed_inbox), 400, "bad-signed-inbox"),
        (octets_to_text(fewer), 400, "wrong-inbox"),
        (octets_to_text(by_another), 401, "bad-signature"),
        (octets_to_text(scene.members[1].session.signed_inbox), 401, "bad-signature"),
    ):
        assert_refused(sent(header), status, code)
        assert state(running) == before
    assert sent(octets_to_text(session.signed_inbox)).status == 200
    assert sent(octets_to_text(session.signed_inbox), 0).status == 200  # a repeat
    assert_refused(sent(octets_to_text(fewer), 0), 409, "different-repeat")
    finish(scene.members)


def test_a_whole_that_is_not_what_was_declared_is_thrown_away(running: Deployment) -> None:
    scene, body, offset = half_sent(running, "damaged")
    garbled = bytes(len(body) - offset)
    assert_refused(put(scene, body, offset, garbled), 409, "upload-damaged")
    assert ask(scene, body) == 0
    assert not held(running, scene.attacker)
    assert scene.put("vector", body).status == 200
    finish(scene.members)


def test_halves_are_gone_with_their_cohort(running: Deployment) -> None:
    scene, body, _ = half_sent(running, "gone")
    running.let_deadline_pass(scene.attacker.cohort, "collecting")
    running.wait_for_phase(scene.attacker.cohort, "failed")
    wait_for(lambda: not list(running.data.glob(f"uploads/{scene.attacker.cohort}*")), "the folder to be empty")
    assert_refused(scene.put("vector", body), 410, "too-few-survivors")
    running.retire("gone")

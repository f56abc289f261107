"""Requests that come at once are taken together, each as if it had come alone, and a failure leaves nobody waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event

from cloud_server.device_keys import IdentityKeys
from cloud_server.devices import Acceptor, Request
from shared.errors import Conflict, FedloomError, Unauthenticated
from tests.cloud_server.local import Local, small_plan

DEVICES = 8
DIGEST = "ab" * 32


@pytest.fixture
def names(local: Local) -> list[str]:
    local.create(small_plan("point"))
    return [member.device for member in local.enrol(small_plan("point"), DEVICES)]


def request(acceptor: Acceptor, name: str, counter: int, digest: str = DIGEST) -> Request:
    """Return a request that the device's key was seen to have signed."""
    return Request(name, counter, digest, 1000.0, IdentityKeys(acceptor._database).of(name))


def outcome(acceptor: Acceptor, name: str, counter: int, digest: str = DIGEST) -> str:
    try:
        return str(acceptor.accept(request(acceptor, name, counter, digest)).device)
    except FedloomError as error:
        return error.code


def at_once(calls: list[Callable[[], str]]) -> list[str]:
    """Run calls in threads of their own that begin together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], str]) -> str:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls, timeout=120))


@contextmanager
def slow_commits(local: Local) -> Iterator[list[int]]:
    """Let transactions take long, so that requests gather, and count them."""
    engine, commits = local.parts.database._writer, [0]

    def wait(_connection: Connection) -> None:
        commits[0] += 1
        time.sleep(0.2)

    event.listen(engine, "commit", wait)
    try:
        yield commits
    finally:
        event.remove(engine, "commit", wait)


def test_requests_that_come_at_once_share_transactions(local: Local, names: list[str]) -> None:
    acceptor = Acceptor(local.parts.database)
    with slow_commits(local) as commits:
        answers = at_once([lambda name=name: outcome(acceptor, name, 1) for name in names])  # type: ignore[misc]
    assert answers == names
    assert commits[0] < DEVICES
    assert {row[0] for row in local.rows("SELECT counter FROM device")} == {1}


def test_each_of_a_batch_has_its_own_outcome(local: Local, names: list[str]) -> None:
    acceptor = Acceptor(local.parts.database)
    for name in names[:4]:
        acceptor.accept(request(acceptor, name, 5))
    with slow_commits(local):
        answers = at_once(
            [
                lambda: outcome(acceptor, names[0], 6),
                lambda: outcome(acceptor, names[1], 5),
                lambda: outcome(acceptor, names[2], 4),
                lambda: outcome(acceptor, names[3], 5, "cd" * 32),
                lambda: outcome(acceptor, "device-" + 32 * "0", 1),
                lambda: outcome(acceptor, names[5], 1),
            ]
        )
    assert answers == [names[0], names[1], "replayed-request", "replayed-request", "unknown-device", names[5]]
    states = dict(local.rows("SELECT device, state FROM device"))
    assert [states[name] for name in names[:4]] == ["active", "active", "active", "quarantined"]


def test_requests_of_one_device_are_taken_one_after_another(local: Local, names: list[str]) -> None:
    acceptor = Acceptor(local.parts.database)
    with slow_commits(local):
        answers = at_once([lambda n=n: outcome(acceptor, names[0], n) for n in range(1, 7)])  # type: ignore[misc]
    assert set(answers) <= {names[0], "replayed-request"}
    assert local.rows("SELECT max(counter) FROM device") == [(6,)]


def test_nobody_who_is_answered_waits_for_the_next_batch(local: Local, names: list[str]) -> None:
    acceptor = Acceptor(local.parts.database)
    gates, commits = [threading.Event() for _ in range(3)], [0]

    def wait(_connection: Connection) -> None:
        gate = gates[commits[0]]
        commits[0] += 1
        assert gate.wait(60)

    def until(commit: int) -> None:
        while commits[0] < commit:
            time.sleep(0.01)

    event.listen(local.parts.database._writer, "commit", wait)
    try:
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(outcome, acceptor, names[0], 1)
            until(1)
            batch = [pool.submit(outcome, acceptor, name, 1) for name in names[1:3]]
            while len(acceptor._waiting) < 2:
                time.sleep(0.01)
            gates[0].set()
            until(2)
            last = pool.submit(outcome, acceptor, names[3], 1)
            while not acceptor._waiting:
                time.sleep(0.01)
            gates[1].set()
            until(3)
            try:
                assert [answered.result(30) for answered in (first, *batch)] == names[:3]
                assert not last.done()
            finally:
                gates[2].set()
            assert last.result(30) == names[3]
    finally:
        event.remove(local.parts.database._writer, "commit", wait)


def test_a_failed_transaction_fails_its_requests_and_no_later_ones(local: Local, names: list[str]) -> None:
    acceptor = Acceptor(local.parts.database)
    broken = threading.Event()
    broken.set()

    def fail(_connection: Connection) -> None:
        if broken.is_set():
            raise Conflict("disk-full", "There is no room.")

    event.listen(local.parts.database._writer, "commit", fail)
    try:
        answers = at_once([lambda name=name: outcome(acceptor, name, 1) for name in names])  # type: ignore[misc]
        assert set(answers) == {"disk-full"}
        broken.clear()
        assert at_once([lambda name=name: outcome(acceptor, name, 1) for name in names]) == names  # type: ignore[misc]
    finally:
        event.remove(local.parts.database._writer, "commit", fail)


def test_whoever_is_ended_while_it_leads_leaves_the_others_a_leader(
    local: Local, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor = Acceptor(local.parts.database)
    entered, ended = threading.Event(), threading.Event()

    def end(_wait: Callable[[], None]) -> None:
        monkeypatch.undo()
        entered.set()
        assert ended.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr("cloud_server.devices.beside_other_requests", end)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(outcome, acceptor, names[0], 1)
        assert entered.wait(30)
        others = [pool.submit(outcome, acceptor, name, 1) for name in names[1:3]]
        ended.set()
        assert [other.result(30) for other in others] == names[1:3]
        with pytest.raises(KeyboardInterrupt):
            first.result(30)


def test_an_unknown_device_is_refused(local: Local) -> None:
    with pytest.raises(Unauthenticated):
        Acceptor(local.parts.database).accept(Request("device-" + 32 * "1", 1, DIGEST, 0.0, bytes(32)))

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
from cloud_server.devices import Acceptor, Request, _Waiting
from cloud_server.storage.opening import open_database
from shared.errors import Conflict, FedloomError, Unauthenticated
from tests.cloud_server.local import Local, small_plan

DEVICES = 8
DIGEST = "ab" * 32


@pytest.fixture
def names(local: Local) -> list[str]:
    local.create(small_plan("point"))
    return [member.device for member in local.enrol(small_plan("point"), DEVICES)]


class Alone:
    """An acceptor with a database of its own, as in a web process, whose commits are nobody else's."""

    def __init__(self, local: Local) -> None:
        self.database = open_database(local.parts.folder)
        self.acceptor = Acceptor(self.database)
        self._keys = IdentityKeys(local.parts.database)

    def accept(self, name: str, counter: int, digest: str = DIGEST) -> str:
        """Take a request that the device's key was seen to have signed."""
        return str(self.acceptor.accept(Request(name, counter, digest, 1000.0, self._keys.of(name))).device)

    def outcome(self, name: str, counter: int, digest: str = DIGEST) -> str:
        try:
            return self.accept(name, counter, digest)
        except FedloomError as error:
            return error.code

    @contextmanager
    def at_commits(self, call: Callable[[Connection], None]) -> Iterator[None]:
        """Call before each commit."""
        event.listen(self.database._writer, "commit", call)
        try:
            yield
        finally:
            event.remove(self.database._writer, "commit", call)

    @contextmanager
    def slow_commits(self) -> Iterator[list[int]]:
        """Let transactions take long, so that requests gather, and count them."""
        commits = [0]

        def wait(_connection: Connection) -> None:
            commits[0] += 1
            time.sleep(0.2)

        with self.at_commits(wait):
            yield commits


@pytest.fixture
def alone(local: Local) -> Iterator[Alone]:
    made = Alone(local)
    yield made
    made.database.close()


def at_once(calls: list[Callable[[], str]]) -> list[str]:
    """Run calls in threads of their own that begin together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], str]) -> str:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls, timeout=120))


def test_requests_that_come_at_once_share_transactions(alone: Alone, local: Local, names: list[str]) -> None:
    with alone.slow_commits() as commits:
        answers = at_once([lambda name=name: alone.outcome(name, 1) for name in names])  # type: ignore[misc]
    assert answers == names
    assert commits[0] < DEVICES
    assert {row[0] for row in local.rows("SELECT counter FROM device")} == {1}


def test_each_of_a_batch_has_its_own_outcome(alone: Alone, local: Local, names: list[str]) -> None:
    for name in names[:4]:
        alone.accept(name, 5)
    with alone.slow_commits():
        answers = at_once(
            [
                lambda: alone.outcome(names[0], 6),
                lambda: alone.outcome(names[1], 5),
                lambda: alone.outcome(names[2], 4),
                lambda: alone.outcome(names[3], 5, "cd" * 32),
                lambda: alone.outcome("device-" + 32 * "0", 1),
                lambda: alone.outcome(names[5], 1),
            ]
        )
    assert answers == [names[0], names[1], "replayed-request", "replayed-request", "unknown-device", names[5]]
    states = dict(local.rows("SELECT device, state FROM device"))
    assert [states[name] for name in names[:4]] == ["active", "active", "active", "quarantined"]


def test_requests_of_one_device_are_taken_one_after_another(alone: Alone, local: Local, names: list[str]) -> None:
    with alone.slow_commits():
        answers = at_once([lambda n=n: alone.outcome(names[0], n) for n in range(1, 7)])  # type: ignore[misc]
    assert set(answers) <= {names[0], "replayed-request"}
    assert local.rows("SELECT max(counter) FROM device") == [(6,)]


def test_nobody_who_is_answered_waits_for_the_next_batch(alone: Alone, names: list[str]) -> None:
    gates, commits = [threading.Event() for _ in range(3)], [0]

    def wait(_connection: Connection) -> None:
        gate = gates[commits[0]]
        commits[0] += 1
        assert gate.wait(60)

    def until(commit: int) -> None:
        while commits[0] < commit:
            time.sleep(0.01)

    with alone.at_commits(wait), ThreadPoolExecutor(4) as pool:
        first = pool.submit(alone.outcome, names[0], 1)
        until(1)
        batch = [pool.submit(alone.outcome, name, 1) for name in names[1:3]]
        while len(alone.acceptor._waiting) < 2:
            time.sleep(0.01)
        gates[0].set()
        until(2)
        last = pool.submit(alone.outcome, names[3], 1)
        while not alone.acceptor._waiting:
            time.sleep(0.01)
        gates[1].set()
        until(3)
        try:
            assert [answered.result(30) for answered in (first, *batch)] == names[:3]
            assert not last.done()
        finally:
            gates[2].set()
        assert last.result(30) == names[3]


def test_a_failed_transaction_fails_its_requests_and_no_later_ones(alone: Alone, names: list[str]) -> None:
    broken = threading.Event()
    broken.set()

    def fail(_connection: Connection) -> None:
        if broken.is_set():
            raise Conflict("disk-full", "There is no room.")

    with alone.at_commits(fail):
        answers = at_once([lambda name=name: alone.outcome(name, 1) for name in names])  # type: ignore[misc]
        assert set(answers) == {"disk-full"}
        broken.clear()
        assert at_once([lambda name=name: alone.outcome(name, 1) for name in names]) == names  # type: ignore[misc]


@pytest.mark.parametrize("moment", ["let_others_come", "beside_other_requests"])
def test_whoever_is_ended_while_it_leads_leaves_the_others_a_leader(
    alone: Alone, names: list[str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    entered, ended = threading.Event(), threading.Event()

    def end(*_values: object) -> None:
        monkeypatch.undo()
        entered.set()
        assert ended.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"cloud_server.devices.{moment}", end)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(alone.outcome, names[0], 1)
        assert entered.wait(30)
        others = [pool.submit(alone.outcome, name, 1) for name in names[1:3]]
        while not {*names[1:3]} <= {one.request.device for one in alone.acceptor._waiting}:
            time.sleep(0.01)
        ended.set()
        assert [other.result(30) for other in others] == names[1:3]
        with pytest.raises(KeyboardInterrupt):
            first.result(30)
    assert alone.outcome(names[3], 1) == names[3]


@pytest.mark.parametrize("when", ["while it waits", "when it is to lead"])
def test_nobody_waits_for_whoever_is_ended_while_it_waits(
    alone: Alone, names: list[str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    gate, waiting, taken = threading.Event(), threading.Event(), threading.Event()

    class Ended(threading.Event):
        """The turn of a request whose thread is ended meanwhile."""

        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            if when == "when it is to lead":
                assert super().wait(timeout)
            raise KeyboardInterrupt

    def wait(_connection: Connection) -> None:
        taken.set()
        assert gate.wait(30)

    with ThreadPoolExecutor(3) as pool:
        with alone.at_commits(wait):
            first = pool.submit(alone.outcome, names[0], 1)
            assert taken.wait(30)
            with monkeypatch.context() as patch:
                patch.setattr("cloud_server.devices._Waiting", lambda request: _Waiting(request, turn=Ended()))
                second = pool.submit(alone.outcome, names[1], 1)
                assert waiting.wait(30)
            last = pool.submit(alone.outcome, names[2], 1)
            while not any(one.request.device == names[2] for one in alone.acceptor._waiting):
                time.sleep(0.01)
            gate.set()
            assert [first.result(30), last.result(30)] == [names[0], names[2]]
        with pytest.raises(KeyboardInterrupt):
            second.result(30)


def test_an_unknown_device_is_refused(local: Local) -> None:
    with pytest.raises(Unauthenticated):
        Acceptor(local.parts.database).accept(Request("device-" + 32 * "1", 1, DIGEST, 0.0, bytes(32)))

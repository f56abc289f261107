"""Two who act at the same moment, on a real PostgreSQL, where writers do not take turns by themselves.

Nothing here depends on who is faster: one stops in the middle of a transaction until the other is done or waits for it.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cloud_server import audit
from cloud_server.audit import Anchor, Head
from cloud_server.operators import accounts
from cloud_server.operators.accounts import AT_THE_MACHINE, By
from cloud_server.releases import actions
from cloud_server.releases.gate import Rule
from cloud_server.releases.importing import import_weights
from cloud_server.rounds import driver as driver_module
from cloud_server.storage.database import Database
from shared.errors import FedloomError
from shared.plan import Stop
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS
from tests.cloud_server.signed_in import SignedIn
from tests.cloud_server.test_releases import TASK, Scene
from tools.own_postgres import Cluster

PATIENCE_S: Final = 60.0  # before a test gives up; nothing waits this long
_WAITING: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
def local(tmp_path: Path, postgres: Cluster) -> Iterator[Local]:
    made = Local(tmp_path / "data", postgres.new_database())
    yield made
    made.close()


class Other:
    """Somebody who acts in a thread of their own."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.code = ""
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self._thread.start()

    def _run(self, act: Callable[[], object]) -> None:
        try:
            act()
        except FedloomError as error:
            self.code = error.code
        except DBAPIError as error:
            self.failed = error

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> str:
        """Wait until it is over, and return the code with which it was refused."""
        self._thread.join(PATIENCE_S)
        assert self.is_done()
        assert self.failed is None, self.failed
        return self.code


def wait_for(database: Database, other: Other) -> None:
    """Wait until the other one is done, or waits for a lock that somebody has."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not other.is_done():
        with database.read() as connection:
            if connection.execute(_WAITING).scalar_one():
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@contextmanager
def in_the_middle_of(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], None]) -> Iterator[None]:
    """Let something happen when the driver, inside its transaction, is about to call one of its functions."""
    real = getattr(driver_module, name)

    def stopped(*values: object, **more: object) -> object:
        monkeypatch.setattr(driver_module, name, real)
        do()
        return real(*values, **more)

    monkeypatch.setattr(driver_module, name, stopped)
    yield
    assert getattr(driver_module, name) is real


@pytest.mark.parametrize("how", ["demote", "remove"])
def test_two_admins_who_end_each_other_leave_one(local: Local, how: str) -> None:
    database = local.parts.database
    for name in ("ada", "ben"):
        SignedIn(local).account(name, "admin", None)

    def end(name: str, by: str) -> None:
        with database.write() as connection:
            who = By(f"operator:{by}", local.clock.now_s())
            if how == "remove":
                accounts.remove_operator(connection, name, who)
            else:
                accounts.set_role(connection, name, "viewer", who)

    with database.write() as connection:
        accounts.set_role(connection, "ben", "viewer", By(AT_THE_MACHINE, local.clock.now_s()))
        other = Other(lambda: end("ada", "ben"))
        wait_for(database, other)
    assert other.end() == "last-admin"
    assert local.rows("SELECT name FROM operator WHERE role = 'admin'") == [("ada",)]


def import_ones(local: Local, task: str) -> Callable[[], object]:
    weights = save({"theta": np.ones(8, np.float32)})
    parts, key, now_s = local.parts, local.release_key, local.clock.now_s()
    return lambda: import_weights(parts.database, parts.blobs, "operator", None, task, weights, key=key, now_s=now_s)


@pytest.mark.parametrize("where", ["insert_version", "save_state", "close_round"])
def test_an_import_and_a_round_that_publishes_take_turns(
    local: Local, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    members = local.cohort(small_plan("point", stop=Stop(rounds=1)), 4)
    for step in STEPS[:-1]:
        local.do(members, step)
    for member in members:
        member.do(STEPS[-1])
    others: list[Other] = []

    def begin() -> None:
        others.append(Other(import_ones(local, "point")))
        wait_for(local.parts.database, others[0])

    with in_the_middle_of(monkeypatch, where, begin):
        local.settle()
    assert others[0].end() in {"version-published", ""}
    found = local.rows("SELECT phase FROM cohort"), local.rows("SELECT number FROM version ORDER BY number")
    assert found[0] == [("summed",)]
    assert [number for (number,) in found[1]] in ([0, 1], [0, 1, 2])
    assert local.rows("SELECT state FROM task") == [("done",)]


def test_an_import_and_a_round_that_is_given_up_take_turns(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan("point", stop=Stop(rounds=5))
    local.create(plan)
    local.settle()
    local.clock.time_s += plan.deadlines.round_s + 1
    others: list[Other] = []

    def begin() -> None:
        others.append(Other(import_ones(local, "point")))
        wait_for(local.parts.database, others[0])

    with in_the_middle_of(monkeypatch, "save_state", begin):
        local.settle()
    assert others[0].end() == ""
    assert local.rows("SELECT number FROM version ORDER BY number") == [(0,), (1,)]


def test_operators_and_drivers_of_several_tasks_never_wait_in_a_circle(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writes into the audit log and then wakes devices, another does it the other way round."""
    for name in ("point", "second"):
        local.create(small_plan(name, stop=Stop(rounds=5)))
    local.settle()
    now_s = local.clock.now_s()
    others: list[Other] = []

    def hold() -> None:
        with local.parts.database.write() as connection:
            actions.hold(connection, "operator", None, "second", now_s=now_s)

    real = audit.record

    def record(*values: Any) -> None:  # noqa: ANN401  # as the real one has them
        if not others:
            others.append(Other(hold))
            wait_for(local.parts.database, others[0])
        real(*values)

    monkeypatch.setattr("cloud_server.releases.importing.audit.record", record)
    assert import_ones(local, "point")() is not None
    assert others[0].end() == ""


def test_of_two_operators_who_promote_at_once_one_is_refused(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    scene, signed_in = Scene(local), SignedIn(local)
    ben = signed_in.browser("ben", "operator")
    revision = scene.state.revision
    sent = {"revision": str(revision), "version": "1", "stages": "100%"}
    token = ben.form_token()

    def promote() -> None:
        status = ben.post(f"/console/models/{TASK}/promote", token, **sent).status_code
        answers.append(status)

    answers: list[int] = []
    with local.parts.database.write() as connection:
        key, now_s = local.release_key.public, local.clock.now_s()
        actions.promote(connection, "operator:ada", revision, TASK, 1, Rule(), release_key=key, now_s=now_s)
        other = Other(promote)
        wait_for(local.parts.database, other)
    other.end()
    assert answers == [409]
    assert local.rows("SELECT promoted_by FROM promotion") == [("operator:ada",)]


def test_nobody_waits_for_the_database_with_the_lock_of_the_anchor(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two requests of one process take turns while they wait, the second would stop both for ever."""
    local.create(small_plan("point"))
    anchor, following, asked = local.parts.anchor, Anchor._following, list[int]()

    def look(self: Anchor, connection: Connection, last: Head) -> list[Head]:
        if self.path.exists():
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody has it
        asked.append(last.number)
        return following(self, connection, last)

    monkeypatch.setattr(Anchor, "_following", look)
    with local.parts.database.read() as connection:
        anchor.path.unlink(missing_ok=True)
        anchor.extend(connection)
        assert anchor.head() == audit.head(connection)
    assert asked[0] == 0
    assert asked[-1] == anchor.head().number > 0

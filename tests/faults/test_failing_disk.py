"""The n-th change on the server's disk fails, for n = 1, 2, 3 ... until a clean pass, in every request and driver look.

Whatever fails: every answer is the same named problem, the same members finish the same cohort with the exact sum once
the disk is back, no vector that was acknowledged is sent again, and nothing is damaged or left behind. The
application, the driver, the files and SQLite are the real ones, in this process; see ``failing_disk``.
"""

from __future__ import annotations

import errno
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pytest
import urllib3
from safetensors.numpy import load
from sqlalchemy.exc import DBAPIError
from urllib3.exceptions import ProtocolError

from cloud_server.api import waiting
from cloud_server.rounds import sums
from cloud_server.storage.check import find_damage
from shared.errors import Refused
from shared.root import EnrolmentCode
from shared.wire.messages import CheckIn
from shared.wire.requests import BLOBS, CHECK_IN, COHORTS, DEVICE_HEADER, OCTETS, RELEASES
from tests.cloud_server.local import HOUR_S, URL, Local, LocalPool, small_plan
from tests.cloud_server.members import STEPS, Member, enrol, one_hot
from tests.e2e.servers import quadratic_bundle
from tests.faults.failing_disk import Disk, failing_disk

MEMBERS: Final = 3
MOST_CALLS: Final = 400
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """How the disk fails.

    Attributes:
        error: of ``errno``.
        times: how many calls in a row, if the first of them does not end what is done.
        reads: whether reads fail, too.
    """

    error: int
    times: int
    reads: bool = False


FAULTS: Final = {
    "full": Fault(errno.ENOSPC, 1 << 30),  # until somebody notices
    "one-error": Fault(errno.EIO, 1),
    "unreadable": Fault(errno.EIO, 1, reads=True),
}


class Trial:
    """A disk that fails at the n-th call of whatever is done, once each."""

    def __init__(self, disk: Disk, fault: Fault, number: int) -> None:
        self._disk = disk
        self._fault = fault
        self._number = number
        self.failed: Counter[str] = Counter()

    @contextmanager
    def of(self, name: str, *, fails: bool = True) -> Iterator[None]:
        """Let the n-th call inside the block fail, and those after it."""
        if fails:
            self._disk.fail(self._number, self._fault.error, times=self._fault.times, reads=self._fault.reads)
        try:
            yield
        finally:
            self._disk.mend()
            self.failed[name] += bool(fails and self._disk.failed)


class FailingPool(LocalPool):
    """Connections whose every request meets a failing disk, and its repeat a good one."""

    def __init__(self, local: Local, trial: Trial) -> None:
        super().__init__(local.app)
        self._trial = trial
        self._refused: set[tuple[str, str, str]] = set()
        self._kept: set[tuple[str, str, str]] = set()
        self.problems: set[tuple[int, str]] = set()

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> urllib3.HTTPResponse:
        """Answer a request."""
        request = (str((headers or {}).get(DEVICE_HEADER)), method, url.partition("?")[0])
        route = route_of(url)
        try:
            with self._trial.of(f"{method} {route}", fails=request not in self._refused):
                response = super().urlopen(method, url, body, headers)
                data = response.read()
        except OSError as error:  # in the middle of the answer's body: its length is missed
            self._refused.add(request)
            raise ProtocolError from error
        assert response.status != 202, "the driver did not do what was due"
        self._refused.discard(request)
        if response.status >= 400:
            self._refused.add(request)
            self.problems.add((response.status, json.loads(data)["code"]))
        if (method, route) == ("PUT", "vector"):
            assert request not in self._kept, "an acknowledged vector was sent again"
            if response.status == 200:
                self._kept.add(request)
        return urllib3.HTTPResponse(
            io.BytesIO(data), headers=response.headers, status=response.status, preload_content=False
        )


def route_of(url: str) -> str:
    path = url.removeprefix(URL).partition("?")[0]
    for prefix in (RELEASES, BLOBS):
        if path.startswith(f"{prefix}/"):
            return prefix
    return path.rpartition("/")[2] if path.startswith(COHORTS) else path


@dataclass
class Round:
    """A task's only round, of which everything meets a failing disk."""

    local: Local
    trial: Trial
    name: str

    def __post_init__(self) -> None:
        self.plan = small_plan(self.name, MEMBERS)
        self.pool = FailingPool(self.local, self.trial)

    def run(self) -> None:
        """Do all of it."""
        with self.trial.of("create"):
            fails = not self.succeeds(self.create)
        if fails:
            self.create()
        self.settle("open")
        members = self.enrol()
        for member in members:
            member.transport.send("POST", CHECK_IN, CheckIn(-1, 0).to_bytes())
        model = members[0].release(0).model_sha256
        for member in members:
            member.values = one_hot(member.number, MEMBERS)
            member.meet(model)
        for step in STEPS:
            for member in members:
                if step == "upload" and member.number == 0:
                    self.upload_in_pieces(member)
                else:
                    member.do(step)
                if step == "upload":
                    self.settle("add")
            self.settle(step)
        assert all(member.counted() for member in members)
        self.check(members)

    def create(self) -> None:
        """Make the task."""
        self.local.create(self.plan, MEMBERS)

    def succeeds(self, act: Callable[[], object]) -> bool:
        """Say whether something was done, or the disk failed."""
        try:
            act()
        except (OSError, DBAPIError):
            return False
        return True

    def settle(self, name: str) -> None:
        """Let the driver do whatever is due, waiting as its process does while the disk fails."""
        fails, moved = True, True
        while moved:
            with self.trial.of(f"driver {name}", fails=fails):
                try:
                    moved, fails = self.local.driver.tick(), True
                except (OSError, DBAPIError):
                    self.local.driver.forget()
                    moved, fails = True, False

    def enrol(self) -> list[Member]:
        """Enrol the members."""
        root = self.local.parts.root
        secrets = self.local.authority.mint(self.plan.task, count=MEMBERS, valid_s=HOUR_S)
        codes = [EnrolmentCode(URL, root.fingerprint, secret) for secret in secrets]
        return [enrol(self.pool, root, code, number, self.plan, self.local.clock) for number, code in enumerate(codes)]

    def upload_in_pieces(self, member: Member) -> None:
        """Lose the connection twice on the way."""
        vector = member.prepare("upload")[1]
        target, client = member.target("vector"), self.local.app.test_client()
        for size in (len(vector) // 3, len(vector) // 2):
            signed = member.transport.signed("PUT", target, vector)
            headers = {**signed, **member.inbox_header, "Content-Type": OCTETS}
            announced = {"CONTENT_LENGTH": str(len(vector))}
            with (
                self.trial.of("piece"),
                client.put(target, data=vector[:size], headers=headers, environ_overrides=announced) as answer,
            ):
                problem = (answer.status_code, answer.get_json()["code"])
            assert problem in {(503, "storage-unavailable"), (503, "upload-broke-off")}
        member.send_prepared("vector", vector)

    def download(self, member: Member) -> bytes:
        """Return the new weights as the device gets them, at the second try if need be."""
        try:
            return member.weights(1)
        except (Refused, ProtocolError):  # what came was a problem document, or not all
            return member.weights(1)

    def check(self, members: list[Member]) -> None:
        """See that the sum is exact, and that nothing was lost, counted twice or left behind."""
        theta = load(self.download(members[0]))["theta"]
        np.testing.assert_allclose(theta, np.ones(MEMBERS), rtol=0, atol=MEMBERS * self.plan.grid(MEMBERS).step)
        assert self.local.rows(f"SELECT phase FROM cohort WHERE task = '{self.name}'") == [("summed",)]  # noqa: S608
        query = f"SELECT number FROM version WHERE task = '{self.name}' ORDER BY number"  # noqa: S608
        assert self.local.rows(query) == [(0,), (1,)]
        assert self.pool.problems <= {(503, "storage-unavailable")}
        parts = self.local.parts
        assert find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor)["problems"] == []
        assert list(parts.uploads.folder.iterdir()) == []
        assert self.local.rows("SELECT count(*) FROM commitment") == [(0,)]
        assert [(parts.anchor.head().number,)] == self.local.rows("SELECT max(number) FROM audit")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """Return an aggregator in this process, with a file as its database, that makes every task quickly."""
    bundle = quadratic_bundle(MEMBERS)
    monkeypatch.setattr("tests.cloud_server.local.quadratic_bundle", lambda _dimension: bundle)
    monkeypatch.setattr(sums, "CHECKPOINT_VECTORS", 2)  # the second vector makes a checkpoint
    monkeypatch.setattr(waiting, "MAX_POLL_HOLD_S", 0.0)
    made = Local(tmp_path / "data")
    yield made
    made.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kind", ["full", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("one-error", "unreadable"))]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Flask's client closes no broken body
def test_whichever_call_fails_the_same_members_finish_the_round(local: Local, kind: str) -> None:
    deepest: dict[str, int] = {}
    with failing_disk(local.parts.folder.path) as disk:
        for number in count(1):
            assert number < MOST_CALLS
            trial = Trial(disk, FAULTS[kind], number)
            Round(local, trial, f"round-{number}").run()
            deepest |= {name: number for name, times in trial.failed.items() if times}
            if not trial.failed.total():
                break
    shallow = {name for name, depth in deepest.items() if depth < 3}
    assert not shallow
    assert deepest["driver answer"] > 30

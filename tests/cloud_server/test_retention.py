"""What goes of the past, what stays, and that nothing is lost whenever tidying is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.audit import ANCHOR_FILE
from cloud_server.cli import main
from cloud_server.rounds import driver as driver_module
from cloud_server.rounds.driver import TIDYING_S
from cloud_server.rounds.retention import DAY_S, Retention, kept_from, needed
from cloud_server.storage.blobs import FolderBlobs
from cloud_server.storage.check import find_damage
from edge_client.problems import VersionClosed
from shared.errors import UsageError
from shared.plan import Stop
from shared.release import WEIGHTS_FILE
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.s3 import S3
from tests.shared.refusals import refused

ROUNDS = 5
DIMENSION = 2000  # so that a difference is shorter than the weights


@pytest.fixture(params=["folder", "objects"])
def local(request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str | None]) -> Iterator[Local]:
    """Return an aggregator that keeps two versions, with files of each kind."""
    objects = None
    if request.param == "objects":
        s3: S3 = request.getfixturevalue("s3")
        objects = s3.address(s3.new_bucket())
    made = Local(tmp_path / "data", new_database(), objects)
    made.retention = Retention(versions=2)
    made.driver = made.new_driver()
    yield made
    made.close()


def run_rounds(local: Local, rounds: int = ROUNDS) -> list[Member]:
    members = local.cohort(small_plan("point", stop=Stop(rounds=rounds)), 4, DIMENSION)
    for version in range(rounds):
        if version:
            local.meet(members, version, DIMENSION)
        for step in STEPS:
            local.do(members, step)
        assert all(member.counted() for member in members)
    return members


def tidy(local: Local) -> None:
    local.clock.time_s += TIDYING_S + 1
    local.settle()


def check(local: Local) -> None:
    """See that exactly what is needed is there, and whole."""
    parts = local.parts
    assert find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor)["problems"] == []
    with parts.database.read() as connection:
        wanted = needed(connection)
    assert {stored.digest for stored in parts.blobs.stored()} == wanted


def test_old_versions_go_with_their_files_and_the_newest_stay_whole(local: Local) -> None:
    members = run_rounds(local)
    before = len(list(local.parts.blobs.stored()))
    tidy(local)
    assert len(list(local.parts.blobs.stored())) < before
    check(local)
    for version in (ROUNDS - 1, ROUNDS):
        theta = load(members[0].weights(version))["theta"]
        np.testing.assert_allclose(theta[:5], [version] * 4 + [0.0], atol=0.05)
    for version in range(ROUNDS - 1):
        with refused("version-removed", VersionClosed):  # which sends an agent back to check in
            members[0].release(version)
    with refused("version-unknown"):
        members[0].release(ROUNDS + 1)
    new, old = (members[0].release(ROUNDS - back).files[WEIGHTS_FILE].sha256 for back in (0, 1))
    with local.parts.blobs.open_difference(old, new).file as file:
        assert file.read()
    assert len([stored for stored in local.parts.blobs.stored() if stored.is_difference]) == 2


def test_what_an_unfinished_round_trains_from_is_kept(local: Local) -> None:
    members = run_rounds(local, 3)
    local.change("UPDATE round SET phase = 'open' WHERE number = 1")  # as one that takes long beside others
    tidy(local)
    with local.parts.database.read() as connection:
        assert kept_from(connection, "point") == 0
    assert members[0].weights(0)
    check(local)


def test_only_messages_of_old_cohorts_go_and_never_a_privacy_event(local: Local) -> None:
    run_rounds(local, 2)
    local.change("INSERT INTO privacy_event SELECT id, task, 4, 4, '{}', 0 FROM cohort WHERE round = 1")
    audit = local.rows("SELECT * FROM audit")
    rounds = local.rows("SELECT * FROM round")
    local.clock.time_s += local.retention.cohort_days * DAY_S - 2 * TIDYING_S
    local.settle()
    assert len(local.rows("SELECT * FROM cohort")) == 2
    assert len(local.rows("SELECT * FROM step")) == 2 * 4 * (len(STEPS) + 1)  # inboxes come with vectors
    local.clock.time_s += 3 * TIDYING_S
    local.settle()
    assert local.rows("SELECT * FROM step") == []
    assert local.rows("SELECT round, roster FROM cohort") == [(1, None)]
    assert len(local.rows("SELECT * FROM privacy_event")) == 1
    assert local.rows("SELECT number FROM version ORDER BY number") == [(0,), (1,), (2,)][-3:]
    assert local.rows("SELECT * FROM audit") == audit
    assert local.rows("SELECT * FROM round") == rounds
    check(local)


def test_rows_of_versions_go_with_the_cohorts_that_trained_from_them(local: Local) -> None:
    run_rounds(local)
    tidy(local)
    assert len(local.rows("SELECT * FROM version")) == ROUNDS + 1
    local.clock.time_s += (local.retention.cohort_days + 1) * DAY_S
    local.settle()
    assert local.rows("SELECT number FROM version ORDER BY number") == [(ROUNDS - 1,), (ROUNDS,)]
    check(local)


def test_a_file_that_is_just_being_published_is_left_alone(tmp_path: Path) -> None:
    local = Local(tmp_path / "data")
    local.create(small_plan("point"))
    blobs = local.parts.blobs
    assert isinstance(blobs, FolderBlobs)
    young, old = (blobs.put(text) for text in (b"young", b"old"))
    left = blobs.path(old).with_name(f"{old}.abc.new")  # of a writer that was killed
    left.write_bytes(b"o")
    os.utime(blobs.path(young), (local.clock.time_s, local.clock.time_s))
    for path in (blobs.path(old), left):
        os.utime(path, (local.clock.time_s - DAY_S - 1, local.clock.time_s - DAY_S - 1))
    tidy(local)
    assert blobs.get(young) == b"young"
    assert not left.exists()
    assert old not in {stored.digest for stored in blobs.stored()}
    again = blobs.put(b"again")
    assert not blobs.remove(f"{again[:2]}/{again}", 0.0)  # put since it was looked at
    assert blobs.get(again) == b"again"
    local.close()


class Killed(BaseException):
    """The process is gone."""


def test_killed_anywhere_the_next_driver_tidies_up(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    members = run_rounds(local)
    store = type(local.parts.blobs)
    remove, left = store.remove, 0

    def dying(self: object, name: str, put_before_s: float) -> bool:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return bool(remove(self, name, put_before_s))  # type: ignore[arg-type]  # of the same class

    for number in count():
        left = number
        with monkeypatch.context() as patch:
            patch.setattr(store, "remove", dying)
            try:
                tidy(local)
            except Killed:
                local.kill_driver()
                continue
        break
    assert number > 2
    check(local)
    assert members[0].weights(ROUNDS)


@pytest.mark.parametrize("moment", ["forget_cohorts", "forget_versions", "remove_unneeded"])
def test_killed_between_rows_and_files_nothing_is_missed(
    local: Local, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    members = run_rounds(local)
    with monkeypatch.context() as patch:
        patch.setattr(driver_module, moment, die)
        with pytest.raises(Killed):
            tidy(local)
    parts = local.parts
    assert find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor)["problems"] == []
    local.kill_driver()
    tidy(local)
    check(local)
    assert members[0].weights(ROUNDS)


def test_a_backup_holds_what_is_kept(local: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_rounds(local)
    tidy(local)
    data, backup, new = local.parts.folder.path, tmp_path / "backup.tar", tmp_path / "new"
    for words in (
        ["backup", "--data", data, "--out", backup],
        ["restore", backup, "--data", new, "--anchor", data / ANCHOR_FILE],
        ["check", "--data", new],
    ):
        assert main(["db", *map(str, words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["problems"] == []
    restored = Local(new)
    check(restored)
    restored.close()


@pytest.mark.parametrize(("versions", "days"), [(1, 30.0), (-1, 30.0), (50, 7.9), (50, float("nan"))])
def test_too_little_is_refused(versions: int, days: float) -> None:
    with refused("bad-retention", UsageError):
        Retention(versions, days)

"""The release key is replaced: everything is signed anew, nothing by halves, and not beside a driver that runs."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import Connection

from cloud_server.authority.registry import Authority
from cloud_server.cli import main
from cloud_server.releases import actions, keys
from cloud_server.releases.importing import import_weights
from cloud_server.releases.keys import KeyReplaced, newest_key, rotate, signing_key, succession
from cloud_server.rounds.releasing import sign_due
from cloud_server.settings import AUTHORITY_KEY_FILE, load_or_create_key
from cloud_server.storage.leases import LEASE_S
from cloud_server.tasks import load_task, release_of, renew_release
from shared.decision import verify_decision
from shared.errors import BrokenState, Conflict, TryLater, Unauthenticated
from shared.release import verify_release
from shared.release_key import ReleaseKey, verify_release_key
from shared.wire.messages import read_signed
from shared.wire.requests import DECISION, RELEASE_KEY
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS
from tests.shared.refusals import refused

PLAN = small_plan("point")


def turn(local: Local) -> ReleaseKey:
    parts = local.parts
    authority = load_or_create_key(parts.folder.authority / AUTHORITY_KEY_FILE)
    return rotate(parts.database, parts.folder, authority, "operator", local.clock.now_s())


def restart(local: Local) -> None:
    """Start the driver again with the key of now."""
    with local.parts.database.read() as connection:
        local.release_key = signing_key(local.parts.folder, connection, local.authority.public_key)
    local.kill_driver()
    local.settle()


def prepared(local: Local) -> None:
    local.create(PLAN)
    with local.parts.database.write() as connection:
        actions.hold(connection, "operator", None, "point", now_s=local.clock.now_s())
    local.settle()


def test_versions_and_decisions_are_signed_anew_and_devices_can_tell(local: Local) -> None:
    prepared(local)
    old = local.release_key.public
    with refused("server-running", Conflict):
        turn(local)
    local.clock.time_s += LEASE_S + 1
    key = turn(local)
    restart(local)
    member = local.enrol(PLAN, 1)[0]
    assert member.root.release_key == old  # the root document is what codes of before pinned, too
    word = read_signed(member.transport.send("GET", RELEASE_KEY).body, "release_key")
    assert verify_release_key(word, member.root.authority_key) == key == ReleaseKey(1, local.release_key.public)
    signed = read_signed(member.transport.send("GET", DECISION).body, "decision")
    with local.parts.database.read() as connection:
        body, signature = release_of(connection, "point", 0)
    now_s = local.clock.now_s()
    assert verify_decision(signed, public_key=key.public_key, task="point", min_sequence=1, now_s=now_s).released == 0
    verify_release(body, signature, public_key=key.public_key, task="point", min_version=0, now_s=now_s)
    with refused("bad-signature", Unauthenticated):
        verify_release(body, signature, public_key=old, task="point", min_version=0, now_s=now_s)
    local.clock.time_s += LEASE_S + 1
    assert turn(local).number == 2


def test_a_rotation_that_breaks_off_leaves_the_old_key_and_can_be_repeated(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(local)
    local.clock.time_s += LEASE_S + 1

    def fail(_connection: Connection) -> None:
        raise TryLater("disk-full", "The disk is full.")

    monkeypatch.setattr(keys, "bump", fail)
    with refused("disk-full", TryLater):
        turn(local)
    assert isinstance(local.authority, Authority)
    with local.parts.database.read() as connection:
        assert succession(connection) is None
        body, signature = release_of(connection, "point", 0)
        made = signing_key(local.parts.folder, connection, local.authority.public_key)
    assert made == local.release_key
    verify_release(body, signature, public_key=made.public, task="point", min_version=0, now_s=0.0)
    monkeypatch.undo()
    pending = load_or_create_key(local.parts.folder.keys / "release_1.key")
    assert turn(local) == ReleaseKey(1, pending.public)


def test_a_key_that_is_lost_is_not_made_anew_and_can_be_replaced(
    local: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(local)
    local.clock.time_s += LEASE_S + 1
    turn(local)
    keys_folder = local.parts.folder.keys
    lost = (keys_folder / "release_1.key").rename(keys_folder.parent / "elsewhere")
    data = str(local.parts.folder.path)
    for words in (["model", "promote", "point", "0"], ["model", "pin", "point", "0"]):
        assert main([*words, "--data", data]) == 1
        said = capsys.readouterr().err
        assert "code: missing-key-file" in said
        assert "fedloom-server model rotate-key" in said
    assert not (keys_folder / "release_1.key").exists()
    with local.parts.database.read() as connection, refused("missing-key-file", BrokenState):
        newest_key(local.parts.folder, connection)
    (keys_folder / "release_1.key").write_bytes(b"x" * 32)  # another one in its place
    with local.parts.database.read() as connection, refused("other-key-file", BrokenState):
        signing_key(local.parts.folder, connection, local.authority.public_key)
    lost.rename(keys_folder / "release_1.key")
    with local.parts.database.read() as connection:
        signing_key(local.parts.folder, connection, local.authority.public_key)
    (keys_folder / "release_1.key").unlink()
    assert turn(local).number == 2  # what is lost for good is replaced
    restart(local)
    member = local.enrol(PLAN, 1)[0]
    word = read_signed(member.transport.send("GET", RELEASE_KEY).body, "release_key")
    assert verify_release_key(word, member.root.authority_key).public_key == local.release_key.public


@pytest.mark.parametrize("signs", ["version", "decision", "renewal", "import"])
def test_a_driver_that_slept_through_a_rotation_signs_nothing_with_its_old_key(local: Local, signs: str) -> None:
    """It may have been stopped in the middle of anything; its leases are over, so the rotation was possible."""
    members = local.cohort(PLAN, 4)
    with local.parts.database.write() as connection:
        actions.hold(connection, "operator", None, "point", now_s=local.clock.now_s())
    local.settle()
    for step in STEPS[:-1]:
        local.do(members, step)
    for member in members:
        member.do(STEPS[-1])  # the driver has not looked yet
    old = local.release_key
    local.clock.time_s += LEASE_S + 1
    if signs == "renewal":
        local.clock.time_s += PLAN.release.valid_s / 2
    key = turn(local)
    before = local.rows("SELECT number, signature FROM version ORDER BY number")
    told = local.rows("SELECT decision FROM task_release")
    with refused("release-key-replaced", KeyReplaced):
        if signs == "import":
            weights = save({"theta": np.ones(8, np.float32)})
            parts, now_s = local.parts, local.clock.now_s()
            import_weights(parts.database, parts.blobs, "operator", None, "point", weights, key=old, now_s=now_s)
        elif signs == "decision":
            local.change("UPDATE task_release SET revision = revision + 1")
            with local.parts.database.read() as connection:
                task = load_task(connection, "point")
            sign_due(local.parts.database, task, old, local.clock.now_s())
        elif signs == "renewal":
            with local.parts.database.write() as connection:
                renew_release(connection, load_task(connection, "point"), old, local.clock.now_s())
        else:
            local.driver._advance_task("point")
    assert local.rows("SELECT number, signature FROM version ORDER BY number") == before
    assert local.rows("SELECT decision FROM task_release") == told
    with pytest.raises(KeyReplaced):  # and its process ends, to be started again with the new key
        local.settle()
    restart(local)
    with local.parts.database.read() as connection:
        for number, _ in local.rows("SELECT number, signature FROM version"):
            body, signature = release_of(connection, "point", number)
            verify_release(body, signature, public_key=key.public_key, task="point", min_version=number, now_s=0.0)

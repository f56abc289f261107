"""The release key is replaced: everything is signed anew, nothing by halves, and not beside a driver that runs."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from cloud_server.authority.registry import Authority
from cloud_server.releases import actions, keys
from cloud_server.releases.keys import rotate, signing_key, succession
from cloud_server.settings import AUTHORITY_KEY_FILE, load_or_create_key
from cloud_server.storage.leases import LEASE_S
from cloud_server.tasks import release_of
from shared.decision import verify_decision
from shared.errors import Conflict, TryLater, Unauthenticated
from shared.release import verify_release
from shared.release_key import ReleaseKey, verify_release_key
from shared.wire.messages import read_signed
from shared.wire.requests import DECISION, RELEASE_KEY
from tests.cloud_server.local import Local, small_plan
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

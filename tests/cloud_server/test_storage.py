"""Codes are good once, files are what they were, every route has a policy."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest

from cloud_server.settings import load_or_create_key
from shared.errors import BrokenState, Conflict, Missing, Refused, UsageError
from shared.root import EnrolmentCode
from shared.wire.messages import EnrolRequest
from shared.wire.signed import SigningKey
from tests.cloud_server.local import URL, Local
from tests.cloud_server.members import redeem_body
from tests.shared.refusals import refused


def request_for(local: Local, secret: bytes, key: SigningKey) -> EnrolRequest:
    code = EnrolmentCode(URL, local.parts.root.fingerprint, secret)
    return EnrolRequest.from_bytes(redeem_body(code, key))


def test_a_code_is_good_for_one_key_and_gives_it_the_same_certificate_again(local: Local) -> None:
    authority, fingerprint = local.authority, local.parts.root.fingerprint
    key, other = (SigningKey.generate(os.urandom) for _ in range(2))
    secret = authority.mint("point", count=1, valid_s=60)[0]
    first = authority.redeem(request_for(local, secret, key), fingerprint)
    assert (first.task, first.identity_key) == ("point", key.public)
    with refused("code-used", Conflict):
        authority.redeem(request_for(local, secret, other), fingerprint)
    local.clock.time_s += 3600  # the answer was lost, and the code has expired since
    assert authority.redeem(request_for(local, secret, key), fingerprint) == first


def test_unknown_and_expired_codes_and_unproved_keys_are_refused(local: Local) -> None:
    authority, fingerprint = local.authority, local.parts.root.fingerprint
    key = SigningKey.generate(os.urandom)
    secret = authority.mint("point", count=1, valid_s=60)[0]
    request = request_for(local, secret, key)
    with refused("code-unknown", Refused):
        authority.redeem(request_for(local, bytes(20), key), fingerprint)
    with refused("bad-signature"):
        authority.redeem(replace(request, identity_key=SigningKey.generate(os.urandom).public), fingerprint)
    with refused("bad-signature"):
        authority.redeem(request, bytes(32))
    local.clock.time_s += 61
    with refused("code-expired", Refused):
        authority.redeem(request, fingerprint)


@pytest.mark.parametrize(("count", "task", "code"), [(0, "point", "bad-count"), (1, "Not a name", "bad-name")])
def test_codes_are_minted_for_tasks_and_in_numbers_that_can_be(local: Local, count: int, task: str, code: str) -> None:
    with refused(code, UsageError):
        local.authority.mint(task, count=count, valid_s=60)


def test_only_hashes_of_codes_are_kept(local: Local) -> None:
    secrets = local.authority.mint("point", count=3, valid_s=60)
    for path in local.parts.folder.authority.iterdir():
        data = path.read_bytes()
        assert not any(secret in data for secret in secrets)


def test_a_damaged_file_is_named(local: Local) -> None:
    digest = local.parts.blobs.put(b"content")
    assert local.parts.blobs.get(digest) == b"content"
    local.blob_path(digest).write_bytes(b"c0ntent")
    with pytest.raises(BrokenState, match=digest) as caught:
        local.parts.blobs.get(digest)
    assert caught.value.code == "blob-damaged"


@pytest.mark.parametrize("digest", ["", "..", "../../server.db", "A" * 64, "0" * 63, "0" * 64, "/etc/passwd"])
def test_no_name_leads_out_of_the_blobs(local: Local, digest: str) -> None:
    with refused("blob-unknown", Missing):
        local.blob_path(digest)


def test_a_damaged_key_is_never_replaced(local: Local) -> None:
    path = local.parts.folder.keys / "release.key"
    path.write_bytes(b"short")
    with refused("bad-key-file", BrokenState):
        load_or_create_key(path)
    assert path.read_bytes() == b"short"


def test_keys_are_readable_by_their_owner_only(local: Local) -> None:
    folder = local.parts.folder
    for path in (folder.keys / "release.key", folder.authority / "authority.key", folder.keys / "tls_server.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700

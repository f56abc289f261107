"""The key that signs versions and decisions, and its replacement by the next one.

The first key is in the root document that devices pin, and stays in its file: a root document with another one would be
another deployment. A later one has a file of its own, and the authority's word in the database, in the transaction that
signs every version anew. So whatever is interrupted, either all of it is signed by the old key, or by the new one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from cloud_server import audit
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.storage.database import Database, bump, lock_last
from cloud_server.storage.schema import lease, setting, version
from shared.errors import BrokenState, Conflict
from shared.release import key_id, parse_release, sign_release
from shared.release_key import ReleaseKey, certify_release_key, verify_release_key
from shared.wire.canonical import decode, octets_from_text, octets_to_text
from shared.wire.signed import Signed, SigningKey, verify

FIRST_KEY_FILE: Final = "release.key"
_SETTING: Final = "release-key"
_LOST: Final = (
    "restore it from a backup; where there is none, stop every process and run `fedloom-server model rotate-key`"
)


def succession(connection: Connection) -> Signed | None:
    """Return the authority's word on the key that signs now, None for the one in the root document."""
    text = connection.execute(select(setting.c.value).where(setting.c.name == _SETTING)).scalar_one_or_none()
    return None if text is None else Signed.from_bytes(octets_from_text(text))


def key_number(connection: Connection, authority_key: bytes) -> int:
    """Return the number of the key that signs now, 0 for the one in the root document."""
    word = succession(connection)
    return 0 if word is None else verify_release_key(word, authority_key).number


def shown_key_number(connection: Connection) -> int:
    """Return what devices are told of the number; they verify the authority's word themselves."""
    key = _successor(connection)
    return 0 if key is None else key.number


def _successor(connection: Connection) -> ReleaseKey | None:
    """Return the key that signs now as stored here, None for the one in the root document."""
    word = succession(connection)
    if word is None:
        return None
    body = decode(word.body)
    return ReleaseKey(int(str(body["number"])), octets_from_text(str(body["release_key"])))


def signing_key(folder: DataFolder, connection: Connection, authority_key: bytes) -> SigningKey:
    """Return the key that signs versions and decisions now.

    Raises:
        BrokenState: ``bad-key-file``, ``missing-key-file`` or ``other-key-file``.
    """
    word = succession(connection)
    return _load(folder, None if word is None else verify_release_key(word, authority_key))


def newest_key(folder: DataFolder, connection: Connection) -> SigningKey:
    """Return the same where the authority's key is not at hand; its own word is trusted."""
    return _load(folder, _successor(connection))


def _load(folder: DataFolder, key: ReleaseKey | None) -> SigningKey:
    """Return a key that versions are signed by; one that is not there is never made anew in its place."""
    if key is None:
        return load_or_create_key(folder.keys / FIRST_KEY_FILE)
    path = _path(folder, key.number)
    if not path.exists():
        raise BrokenState("missing-key-file", f"The release key that signs now, {path.name}, is not in keys/.", _LOST)
    found = load_or_create_key(path)
    if found.public != key.public_key:
        raise BrokenState("other-key-file", f"{path.name} is not the release key that was certified.", _LOST)
    return found


def _path(folder: DataFolder, number: int) -> Path:
    return folder.keys / f"release_{number}.key"


class KeyReplaced(BrokenState):
    """Whoever signs has a key that was replaced meanwhile; nothing of it was stored."""


def require_current_key(connection: Connection, signed_by: str) -> None:
    """Refuse to store what another key signed than the one that signs now, which no rotation changes before the end.

    Args:
        connection: inside the transaction that stores it; nothing else is locked after this.
        signed_by: the key's id.

    Raises:
        KeyReplaced: ``release-key-replaced``.
    """
    lock_last(connection)
    current = _successor(connection)
    if current is not None and key_id(current.public_key) != signed_by:
        raise KeyReplaced(
            "release-key-replaced",
            f"The release key was replaced by number {current.number} while this process had an older one.",
            "start the process again; `serve` does so by itself",
        )


def next_key(database: Database, folder: DataFolder, authority_key: bytes) -> tuple[int, SigningKey]:
    """Return number and key of what may sign next; one that an interrupted rotation made is used."""
    with database.read() as connection:
        number = key_number(connection, authority_key) + 1
    return number, load_or_create_key(_path(folder, number))


def rotate(database: Database, folder: DataFolder, authority: SigningKey, who: str, now_s: float) -> ReleaseKey:
    """Make a new release key, let the authority certify it, and sign every version with it; return it.

    Args:
        database: of the aggregator, of which no process may run: it would go on signing with the old key.
        folder: of the aggregator.
        authority: the authority's key.
        who: for the audit log.
        now_s: the time.

    Raises:
        Conflict: ``server-running``.
    """
    number, new = next_key(database, folder, authority.public)
    word = certify_release_key(authority, ReleaseKey(number, new.public), now_s)
    return adopt(database, folder, word, authority.public, who, now_s)


def adopt(
    database: Database, folder: DataFolder, word: Signed, authority_key: bytes, who: str, now_s: float
) -> ReleaseKey:
    """Sign every version with the key that the authority's word is about, and return it; see ``rotate``.

    Raises:
        Unauthenticated: ``bad-signature`` of another authority's word.
        Refused: ``release-key-replayed`` for the word on a key that was replaced.
        Conflict: ``server-running``.
        BrokenState: ``missing-key-file`` or ``other-key-file`` where the key was not made here.
    """
    with database.read() as connection:
        key = verify_release_key(word, authority_key, min_number=key_number(connection, authority_key) + 1)
        before = _successor(connection)
    # Of the key so far only the public half is needed: it may be lost.
    old = load_or_create_key(folder.keys / FIRST_KEY_FILE).public if before is None else before.public_key
    new = _load(folder, key)
    with database.write() as connection:
        lock_last(connection)  # a version that is being stored is there before, or refused after
        if connection.execute(select(lease.c.name).where(lease.c.expires_s > now_s).limit(1)).one_or_none():
            raise Conflict("server-running", "A driver runs on this folder.", "stop `serve`, and do it again in 10 s")
        for row in connection.execute(select(version.c.task, version.c.number, version.c.release, version.c.signature)):
            verify(old, row.release, row.signature, f"version {row.number} of {row.task}")
            body, signature = sign_release(replace(parse_release(row.release), key_id=key_id(new.public)), new)
            one = (version.c.task == row.task, version.c.number == row.number)
            connection.execute(update(version).where(*one).values(release=body, signature=signature))
        connection.execute(delete(setting).where(setting.c.name == _SETTING))
        connection.execute(insert(setting).values(name=_SETTING, value=octets_to_text(word.to_bytes())))
        audit.record(connection, now_s, who, "release-key-rotated", key_id(new.public), {"number": key.number})
        bump(connection)
    return key

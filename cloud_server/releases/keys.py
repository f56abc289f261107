"""The key that signs versions and decisions, and its replacement by the next one.

The first key is in the root document that devices pin, and stays in its file: a root document with another one would be
another deployment. A later one has a file of its own, and the authority's word in the database, in the transaction that
signs every version anew. So whatever is interrupted, either all of it is signed by the old key, or by the new one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from cloud_server import audit
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.storage.database import Database, bump
from cloud_server.storage.schema import lease, setting, version
from shared.errors import Conflict
from shared.release import key_id, parse_release, sign_release
from shared.release_key import ReleaseKey, certify_release_key, verify_release_key
from shared.wire.canonical import decode, octets_from_text, octets_to_text
from shared.wire.signed import Signed, SigningKey, verify

FIRST_KEY_FILE: Final = "release.key"
_SETTING: Final = "release-key"


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
    word = succession(connection)
    return 0 if word is None else int(str(decode(word.body)["number"]))


def signing_key(folder: DataFolder, connection: Connection, authority_key: bytes) -> SigningKey:
    """Return the key that signs versions and decisions now.

    Raises:
        BrokenState: ``bad-key-file``.
    """
    return _load(folder, key_number(connection, authority_key))


def newest_key(folder: DataFolder, connection: Connection) -> SigningKey:
    """Return the same where the authority's key is not at hand; its own word is trusted."""
    return _load(folder, shown_key_number(connection))


def _load(folder: DataFolder, number: int) -> SigningKey:
    return load_or_create_key(folder.keys / (f"release_{number}.key" if number else FIRST_KEY_FILE))


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
    with database.read() as connection:
        number = key_number(connection, authority.public) + 1
    old, new = _load(folder, number - 1), _load(folder, number)  # one that an interrupted rotation made is used
    key = ReleaseKey(number, new.public)
    with database.write() as connection:
        if connection.execute(select(lease.c.name).where(lease.c.expires_s > now_s).limit(1)).one_or_none():
            raise Conflict("server-running", "A driver runs on this folder.", "stop `serve`, and do it again in 10 s")
        for row in connection.execute(select(version.c.task, version.c.number, version.c.release, version.c.signature)):
            verify(old.public, row.release, row.signature, f"version {row.number} of {row.task}")
            body, signature = sign_release(replace(parse_release(row.release), key_id=key_id(new.public)), new)
            one = (version.c.task == row.task, version.c.number == row.number)
            connection.execute(update(version).where(*one).values(release=body, signature=signature))
        word = octets_to_text(certify_release_key(authority, key, now_s).to_bytes())
        connection.execute(delete(setting).where(setting.c.name == _SETTING))
        connection.execute(insert(setting).values(name=_SETTING, value=word))
        audit.record(connection, now_s, who, "release-key-rotated", key_id(new.public), {"number": number})
        bump(connection)
    return key

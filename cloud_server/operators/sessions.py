"""Signing in, and the sessions of browsers: in the database, so that any web process knows them.

Of the cookie's secret only the hash is kept. A session ends when it was not used for a while, when it is old, at
signing out, and when the account's password is set or the account removed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from cloud_server import audit
from cloud_server.operators.accounts import By, actor_of
from cloud_server.operators.roles import Role, require_role
from cloud_server.proxies import limit_key
from cloud_server.storage.schema import operator, operator_session, sign_in_attempt
from shared.errors import Refused, TooManyRequests, Unauthenticated, UsageError
from shared.limits import (
    MAX_ACCOUNT_ATTEMPTS,
    MAX_ADDRESS_ATTEMPTS,
    SESSION_IDLE_S,
    SESSION_LASTS_S,
    SIGN_IN_WINDOW_S,
)
from shared.wire.canonical import octets_from_text, octets_to_text, sha256

SECRET_BYTES: Final = 32
_NOTED_EVERY_S: Final = 60.0  # a write for each request would make them wait for the disk


@dataclass(frozen=True)
class Session:
    """A browser that is signed in.

    Attributes:
        key: hash of the cookie's secret.
        operator: whose it is.
        role: that the operator has now.
        form_token: that each form must bring.
    """

    key: bytes
    operator: str
    role: Role
    form_token: str


def count_attempt(connection: Connection, address: str, account: str, now_s: float) -> None:
    """Count a try to sign in before it is looked at, so that many at once are not looked at first.

    Raises:
        TooManyRequests: of this address, or for this account.
    """
    connection.execute(delete(sign_in_attempt).where(sign_in_attempt.c.since_s < now_s - SIGN_IN_WINDOW_S))
    for key, most in ((_address(address), MAX_ADDRESS_ATTEMPTS), (_account(account), MAX_ACCOUNT_ATTEMPTS)):
        query = select(sign_in_attempt).where(sign_in_attempt.c.key == key).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            connection.execute(insert(sign_in_attempt).values(key=key, tries=1, since_s=now_s))
        elif row.tries >= most:
            wait_s = row.since_s + SIGN_IN_WINDOW_S - now_s
            raise TooManyRequests(
                "Signing in failed too often, here or for this account.",
                max(1000, int(1000 * wait_s)),
                f"wait {max(1, round(wait_s / 60))} minutes, or set the password anew at the server's machine",
            )
        else:
            connection.execute(update(sign_in_attempt).where(sign_in_attempt.c.key == key).values(tries=row.tries + 1))


def forget_attempts(connection: Connection, account: str) -> None:
    """Let somebody try again who was locked out by others' tries."""
    connection.execute(delete(sign_in_attempt).where(sign_in_attempt.c.key == _account(account)))


def password_hash_of(connection: Connection, account: str) -> str:
    """Return the hash of an account's password, empty where there is none."""
    query = select(operator.c.password_hash).where(operator.c.name == account)
    return connection.execute(query).scalar_one_or_none() or ""


def wrong_password() -> Unauthenticated:
    """Return the one answer to a wrong name and a wrong password."""
    return Unauthenticated("sign-in-failed", "The name or the password is wrong.", "try again")


def begin_session(
    connection: Connection, account: str, address: str, now_s: float, random_bytes: Callable[[int], bytes]
) -> str:
    """Return the secret of a new session's cookie, for somebody who has proved to be ``account``.

    Raises:
        Refused: ``operator-unknown``, where a proxy names somebody who has no account.
    """
    if connection.execute(select(operator.c.name).where(operator.c.name == account)).first() is None:
        raise Refused(
            "operator-unknown", "The proxy names somebody who has no account here.", "ask an admin to add the operator"
        )
    for key in (_address(address), _account(account)):
        connection.execute(delete(sign_in_attempt).where(sign_in_attempt.c.key == key))
    connection.execute(delete(operator_session).where(operator_session.c.began_s < now_s - SESSION_LASTS_S))
    secret = random_bytes(SECRET_BYTES)
    connection.execute(
        insert(operator_session).values(
            secret_sha256=sha256(secret),
            operator=account,
            form_token=octets_to_text(random_bytes(SECRET_BYTES)),
            began_s=now_s,
            used_s=now_s,
        )
    )
    audit.record(connection, now_s, actor_of(account), "signed-in", account)
    return octets_to_text(secret)


def find_session(connection: Connection, secret: str, now_s: float) -> tuple[Session, bool]:
    """Return the session of a cookie, and whether its use should be noted.

    Raises:
        Unauthenticated: ``not-signed-in`` without one, ``session-expired`` for one that was.
    """
    try:
        key = sha256(octets_from_text(secret)) if secret else b""
    except UsageError:
        key = b""
    query = (
        select(operator_session, operator.c.role)
        .join(operator, operator.c.name == operator_session.c.operator)
        .where(operator_session.c.secret_sha256 == key)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Unauthenticated("not-signed-in", "This is for operators.", "sign in, or send a token")
    if now_s >= row.used_s + SESSION_IDLE_S or now_s >= row.began_s + SESSION_LASTS_S:
        raise Unauthenticated("session-expired", "The session is over.", "sign in again")
    return Session(key, row.operator, require_role(row.role), row.form_token), now_s - row.used_s >= _NOTED_EVERY_S


def note_use(connection: Connection, session: Session, now_s: float) -> None:
    """Note that a session is used."""
    connection.execute(
        update(operator_session).where(operator_session.c.secret_sha256 == session.key).values(used_s=now_s)
    )


def end_session(connection: Connection, session: Session, by: By) -> None:
    """Sign out."""
    connection.execute(delete(operator_session).where(operator_session.c.secret_sha256 == session.key))
    audit.record(connection, by.now_s, by.actor, "signed-out", session.operator)


def forget_session(connection: Connection, secret: str) -> None:
    """Forget the session that a browser had before it signed in anew."""
    try:
        key = sha256(octets_from_text(secret))
    except UsageError:
        return
    connection.execute(delete(operator_session).where(operator_session.c.secret_sha256 == key))


def require_form_token(expected: str, given: str) -> None:
    """Refuse a form that another site, or a page of an earlier session, sent.

    Raises:
        Refused: ``stale-form``.
    """
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise Refused(
            "stale-form",
            "The form belongs to an earlier session or to another page; nothing was done.",
            "load the page again and repeat it",
        )


def _address(address: str) -> str:
    return f"address:{limit_key(address)}"


def _account(account: str) -> str:
    # A hash: what is typed there may be a password, and may be long.
    return f"account:{sha256(account.encode()).hex()}"

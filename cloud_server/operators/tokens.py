"""Tokens with which programs act for an operator: shown once, kept as hashes, good until they expire or are revoked."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, desc, insert, select, update

from cloud_server import audit
from cloud_server.operators.accounts import By, role_of
from cloud_server.operators.roles import Role, lower, require, require_role
from cloud_server.storage.schema import operator, operator_token
from shared.errors import Missing, Unauthenticated, UsageError
from shared.limits import MAX_LABEL_CHARACTERS, MAX_TOKEN_VALID_S
from shared.wire.canonical import Json, octets_from_text, octets_to_text, sha256

SECRET_BYTES: Final = 32
_PREFIX: Final = "fedloom"


def create_token(
    connection: Connection,
    name: str,
    role: str,
    label: str,
    valid_s: float,
    by: By,
    *,
    random_bytes: Callable[[int], bytes],
) -> str:
    """Return a new token's text, which nobody can see again.

    Raises:
        Missing: ``operator-unknown``.
        Refused: ``role-too-low`` for more than the operator may do.
        UsageError: ``bad-role``, ``bad-label`` or ``bad-duration``.
    """
    checked = require_role(role)
    require(role_of(connection, name), checked)
    if len(label) > MAX_LABEL_CHARACTERS or not (label.isprintable() or not label):
        raise UsageError("bad-label", f"A label has at most {MAX_LABEL_CHARACTERS} printable characters.")
    if not 0 < valid_s <= MAX_TOKEN_VALID_S:
        days = MAX_TOKEN_VALID_S // 86400
        raise UsageError("bad-duration", "A token is good for a while only.", f"give at most {days:g}d")
    token_id, secret = f"token-{random_bytes(6).hex()}", random_bytes(SECRET_BYTES)
    connection.execute(
        insert(operator_token).values(
            id=token_id,
            secret_sha256=sha256(secret),
            operator=name,
            role=checked,
            label=label,
            created_s=by.now_s,
            expires_s=by.now_s + valid_s,
        )
    )
    detail: dict[str, Json] = {"operator": name, "role": checked, "label": label, "valid_s": valid_s}
    audit.record(connection, by.now_s, by.actor, "token-created", token_id, detail)
    return f"{_PREFIX}.{token_id}.{octets_to_text(secret)}"


def list_tokens(connection: Connection) -> list[dict[str, Json]]:
    """Return what is known of every token, newest first."""
    names = ("id", "operator", "role", "label", "created_s", "expires_s", "revoked_s")
    rows = connection.execute(select(operator_token).order_by(desc(operator_token.c.created_s), operator_token.c.id))
    return [{name: getattr(row, name) for name in names} for row in rows]


def revoke_token(connection: Connection, token_id: str, by: By) -> None:
    """Let a token be good for nothing any more; raises Missing ``token-unknown``."""
    row = connection.execute(select(operator_token).where(operator_token.c.id == token_id)).one_or_none()
    if row is None:
        raise Missing("token-unknown", f"There is no token {token_id!r}.", "see fedloom-server operator token list")
    if row.revoked_s is None:
        connection.execute(update(operator_token).where(operator_token.c.id == token_id).values(revoked_s=by.now_s))
        audit.record(connection, by.now_s, by.actor, "token-revoked", token_id, {"operator": row.operator})


def owner_of(connection: Connection, text: str, now_s: float) -> tuple[str, Role, str]:
    """Return the operator's name, the role and the id of a token.

    Raises:
        Unauthenticated: ``bad-token`` for one that is unknown, expired or revoked.
    """
    prefix, _, rest = text.partition(".")
    token_id, _, secret = rest.partition(".")
    query = (
        select(operator_token, operator.c.role.label("owner_role"))
        .join(operator, operator.c.name == operator_token.c.operator)
        .where(operator_token.c.id == token_id)
    )
    row = connection.execute(query).one_or_none()
    if prefix != _PREFIX or row is None or row.revoked_s is not None or row.expires_s <= now_s:
        raise _bad()
    try:
        given = sha256(octets_from_text(secret))
    except UsageError:
        raise _bad() from None
    if not hmac.compare_digest(given, row.secret_sha256):
        raise _bad()
    return row.operator, lower(require_role(row.role), require_role(row.owner_role)), token_id


def _bad() -> Unauthenticated:
    return Unauthenticated(
        "bad-token", "The token is unknown, expired or revoked.", "make one with fedloom-server operator token create"
    )

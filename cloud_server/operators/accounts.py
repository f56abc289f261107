"""Operators' accounts, as the command line and the page change them; each change is in the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from cloud_server import audit
from cloud_server.operators.passwords import hash_password
from cloud_server.operators.roles import Role, require_role
from cloud_server.storage.schema import operator, operator_session, operator_token
from shared.errors import Conflict, Missing
from shared.ids import require_name
from shared.wire.canonical import Json


@dataclass(frozen=True)
class By:
    """Who does something, and when.

    Attributes:
        actor: as the audit log names them, see ``actor_of``.
        now_s: the time.
    """

    actor: str
    now_s: float


AT_THE_MACHINE = "operator"  # who runs commands there, whose name the program cannot know


def actor_of(name: str, token: str = "") -> str:
    """Return how the audit log names an operator, or the program that has one of their tokens."""
    return f"operator:{name}:{token}" if token else f"operator:{name}"


def any_operator(connection: Connection) -> bool:
    """Say whether there is an account."""
    return connection.execute(select(operator.c.name).limit(1)).first() is not None


def list_operators(connection: Connection) -> list[dict[str, Json]]:
    """Return every account, without its password's hash."""
    counts = (
        select(operator_token.c.operator, func.count())
        .where(operator_token.c.revoked_s.is_(None))
        .group_by(operator_token.c.operator)
    )
    tokens: dict[str, int] = {row[0]: row[1] for row in connection.execute(counts)}
    return [
        {
            "name": row.name,
            "role": row.role,
            "password": bool(row.password_hash),
            "created_s": row.created_s,
            "tokens": tokens.get(row.name, 0),
        }
        for row in connection.execute(select(operator).order_by(operator.c.name))
    ]


def add_operator(connection: Connection, name: str, role: str, password: str | None, by: By) -> None:
    """Make an account; without a password, only a proxy or a token can say that somebody is its owner.

    Raises:
        UsageError: ``bad-name``, ``bad-role`` or ``bad-password``.
        Conflict: ``operator-exists``.
    """
    require_name(name, "the operator")
    checked = require_role(role)
    if connection.execute(select(operator.c.name).where(operator.c.name == name)).first():
        raise Conflict("operator-exists", f"There is an operator {name} already.", "choose another name")
    hashed = "" if password is None else hash_password(password)
    connection.execute(insert(operator).values(name=name, role=checked, password_hash=hashed, created_s=by.now_s))
    audit.record(connection, by.now_s, by.actor, "operator-added", name, {"role": checked})


def remove_operator(connection: Connection, name: str, by: By) -> None:
    """Remove an account with its sessions and tokens; raises Missing, or Conflict ``last-admin``."""
    admins, role = _lock_admins(connection), role_of(connection, name)
    _require_another_admin(admins, name, role, "viewer")
    for table in (operator_session, operator_token):
        connection.execute(delete(table).where(table.c.operator == name))
    connection.execute(delete(operator).where(operator.c.name == name))
    audit.record(connection, by.now_s, by.actor, "operator-removed", name, {"role": role})


def set_role(connection: Connection, name: str, role: str, by: By) -> None:
    """Change what an operator may do, from the next request on; raises Missing, or Conflict ``last-admin``."""
    checked, admins = require_role(role), _lock_admins(connection)
    before = role_of(connection, name)
    if before == checked:
        return
    _require_another_admin(admins, name, before, checked)
    connection.execute(update(operator).where(operator.c.name == name).values(role=checked))
    audit.record(connection, by.now_s, by.actor, "operator-role-set", name, {"from": before, "to": checked})


def set_password(connection: Connection, name: str, password: str, by: By) -> None:
    """Change a password, and end the operator's sessions; raises Missing, or UsageError ``bad-password``."""
    role_of(connection, name)
    connection.execute(update(operator).where(operator.c.name == name).values(password_hash=hash_password(password)))
    connection.execute(delete(operator_session).where(operator_session.c.operator == name))
    audit.record(connection, by.now_s, by.actor, "operator-password-set", name)


def role_of(connection: Connection, name: str) -> Role:
    """Return an operator's role; raises Missing ``operator-unknown``."""
    found = connection.execute(select(operator.c.role).where(operator.c.name == name)).scalar_one_or_none()
    if found is None:
        raise Missing("operator-unknown", f"There is no operator {name!r}.", "see fedloom-server operator list")
    return require_role(found)


def _lock_admins(connection: Connection) -> frozenset[str]:
    """Return who is an admin, which stays so until the transaction ends: two who remove each other take turns."""
    admins = select(operator.c.name).where(operator.c.role == "admin").order_by(operator.c.name).with_for_update()
    return frozenset(connection.execute(admins).scalars())


def _require_another_admin(admins: frozenset[str], name: str, before: Role, after: Role) -> None:
    if before == "admin" and after != "admin" and not admins - {name}:
        raise Conflict("last-admin", f"{name} is the only admin.", "make another operator an admin first")

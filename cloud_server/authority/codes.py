"""The codes that were made: how each stands, and taking one back; the codes themselves are known by hashes only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Row, case, desc, func, select, tuple_, update

from cloud_server.storage.schema import code
from shared.errors import Conflict, Missing, UsageError
from shared.root import EnrolmentCode
from shared.wire.canonical import Json, sha256

CodeState = Literal["open", "used", "expired", "revoked"]
CODE_STATES: Final[tuple[CodeState, ...]] = ("open", "used", "expired", "revoked")
_PREFIX: Final = "code-"
_ID_BYTES: Final = 8  # of the hash of 160 random bits: it tells nothing of them


def id_of(secret_sha256: bytes) -> str:
    """Return how a code is called without showing it."""
    return _PREFIX + secret_sha256[:_ID_BYTES].hex()


def id_of_code(made: EnrolmentCode) -> str:
    """Return how a code is called in lists."""
    return id_of(sha256(made.secret))


def _row_of(name: str) -> ColumnElement[bool]:
    """Return the condition for the code of an id; raises Missing ``code-unknown`` for what is none."""
    try:
        first = bytes.fromhex(name.removeprefix(_PREFIX))
    except ValueError:
        first = b""
    if len(first) != _ID_BYTES or not name.startswith(_PREFIX):
        raise _unknown(name)
    rest = 32 - _ID_BYTES
    return code.c.secret_sha256.between(first + bytes(rest), first + b"\xff" * rest)


def _unknown(name: str) -> Missing:
    return Missing("code-unknown", f"There is no code {name!r}.", "see fedloom-server code list")


def _in_state(state: str, now_s: float) -> ColumnElement[bool]:
    used, revoked = code.c.identity_key.is_not(None), code.c.revoked_s.is_not(None)
    conditions: Mapping[str, ColumnElement[bool]] = {
        "used": used,
        "revoked": ~used & revoked,
        "expired": ~used & ~revoked & (code.c.expires_s < now_s),
        "open": ~used & ~revoked & (code.c.expires_s >= now_s),
    }
    if state not in conditions:
        raise UsageError("bad-state", f"Codes are never {state!r}.", f"choose one of {', '.join(CODE_STATES)}")
    return conditions[state]


def list_codes(
    connection: Connection, now_s: float, *, task: str = "", state: str = "", after: str = "", limit: int | None = None
) -> list[dict[str, Json]]:
    """Return codes, newest first, as plain values.

    Args:
        connection: reads the authority's database.
        now_s: the time.
        task: only this task's, all if empty.
        state: only these, all if empty.
        after: the id of a code; only those that come after it in the list.
        limit: how many.

    Raises:
        UsageError: ``bad-state``.
        Missing: ``code-unknown`` for ``after``.
    """
    place = tuple_(code.c.created_s, code.c.secret_sha256)
    query = select(code).order_by(desc(code.c.created_s), desc(code.c.secret_sha256)).limit(limit)
    if task:
        query = query.where(code.c.task == task)
    if state:
        query = query.where(_in_state(state, now_s))
    if after:
        last = connection.execute(select(code.c.created_s, code.c.secret_sha256).where(_row_of(after))).one_or_none()
        if last is None:
            raise _unknown(after)
        query = query.where(place < tuple_(last.created_s, last.secret_sha256))
    return [_described(row, now_s) for row in connection.execute(query)]


def count_codes(connection: Connection, now_s: float, task: str = "") -> dict[str, Json]:
    """Return how many codes are in each state."""
    sums = [func.coalesce(func.sum(case((_in_state(state, now_s), 1), else_=0)), 0) for state in CODE_STATES]
    query = select(*sums)
    if task:
        query = query.where(code.c.task == task)
    return dict(zip(CODE_STATES, map(int, connection.execute(query).one()), strict=True))


def _described(row: Row[Any], now_s: float) -> dict[str, Json]:
    return {
        "id": id_of(row.secret_sha256),
        "task": row.task,
        "group": row.code_group,
        "state": _state(row, now_s),
        "created_s": row.created_s,
        "expires_s": row.expires_s,
        "revoked_s": row.revoked_s,
        "device": row.device,
    }


def _state(row: Row[Any], now_s: float) -> CodeState:
    if row.identity_key is not None:
        return "used"
    if row.revoked_s is not None:
        return "revoked"
    return "expired" if row.expires_s < now_s else "open"


def revoke_code(connection: Connection, name: str, now_s: float) -> tuple[str, bool]:
    """Let a code be good for nothing any more; return its task, and whether that was not so already.

    Args:
        connection: inside a writing transaction of the authority's database.
        name: the code's id.
        now_s: the time.

    Raises:
        Missing: ``code-unknown``.
        Conflict: ``code-used``: what it led to is a device.
    """
    where = _row_of(name)
    row = connection.execute(select(code).where(where)).one_or_none()
    if row is None:
        raise _unknown(name)
    if row.identity_key is not None:
        raise Conflict(
            "code-used", f"The code was used by {row.device}.", f"fedloom-server device revoke {row.device}, if need be"
        )
    if row.revoked_s is not None:
        return str(row.task), False
    connection.execute(update(code).where(where).values(revoked_s=now_s))
    return str(row.task), True

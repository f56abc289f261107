"""Enrolment codes where the authority runs in the aggregator's folder: made, listed, and taken back."""

from __future__ import annotations

from sqlalchemy import select

from cloud_server import audit
from cloud_server.api.context import Context
from cloud_server.authority import codes
from cloud_server.authority.registry import Authority
from cloud_server.operators.accounts import By
from cloud_server.storage.schema import setting
from cloud_server.tasks import load_task
from shared.errors import Refused, UsageError
from shared.root import EnrolmentCode
from shared.wire.canonical import Json


def make_codes(
    parts: Context, task: str, by: By, *, count: int, valid_s: float, group: str = "", url: str | None = None
) -> list[str]:
    """Return new one-time codes, which nobody can see again.

    Args:
        parts: of the aggregator.
        task: that the devices will be enrolled in.
        by: who makes them.
        count: how many.
        valid_s: for how long, in seconds.
        group: that the devices will belong to, empty for none.
        url: the aggregator's address for devices; as ``serve`` stored it if None.

    Raises:
        Missing: ``task-unknown``.
        UsageError: ``no-url``, ``bad-count``, ``bad-name``, or ``authority-elsewhere``.
    """
    with parts.database.read() as connection:
        load_task(connection, task)
        stored = connection.execute(select(setting.c.value).where(setting.c.name == "url")).scalar_one_or_none()
    address = url or stored
    if address is None:
        raise UsageError(
            "no-url",
            "Codes carry the server's address, and this server has never run.",
            "start `fedloom-server serve` once, or give --url https://HOST:PORT",
        )
    secrets = parts.authority.mint(task, count=count, valid_s=valid_s, group=group)
    with parts.recorded() as connection:
        detail: dict[str, Json] = {"count": count, "valid_s": valid_s, "group": group}
        audit.record(connection, by.now_s, by.actor, "codes-created", task, detail)
    return [EnrolmentCode(address, parts.root.fingerprint, secret).to_text() for secret in secrets]


def list_codes(
    parts: Context, *, task: str = "", state: str = "", after: str = "", limit: int | None = None
) -> list[dict[str, Json]]:
    """Return codes with how each stands, newest first; see ``authority.codes.list_codes``.

    Raises:
        Refused: ``codes-elsewhere``.
        UsageError: ``bad-state``.
        Missing: ``code-unknown``.
    """
    with _authority(parts).database.read() as connection:
        now_s = parts.clock.now_s()
        return codes.list_codes(connection, now_s, task=task, state=state, after=after, limit=limit)


def count_codes(parts: Context, task: str) -> dict[str, Json]:
    """Return how many of a task's codes are in each state; raises Refused ``codes-elsewhere``."""
    with _authority(parts).database.read() as connection:
        return codes.count_codes(connection, parts.clock.now_s(), task)


def revoke_code(parts: Context, name: str, by: By) -> str:
    """Let a code be good for nothing any more, record it, and return its task.

    Raises:
        Refused: ``codes-elsewhere``.
        Missing: ``code-unknown``.
        Conflict: ``code-used``.
    """
    with _authority(parts).database.write() as connection:
        task, changed = codes.revoke_code(connection, name, by.now_s)
    if changed:
        with parts.recorded() as connection:
            audit.record(connection, by.now_s, by.actor, "code-revoked", name, {"task": task})
    return task


def _authority(parts: Context) -> Authority:
    if not isinstance(parts.authority, Authority):
        raise Refused(
            "codes-elsewhere",
            "The codes of this deployment are at its authority, which is elsewhere.",
            "run `fedloom-server code list` or `code revoke` with the authority's --data",
        )
    return parts.authority

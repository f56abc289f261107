"""Enrolment codes made where the authority runs in the aggregator's folder."""

from __future__ import annotations

from sqlalchemy import select

from cloud_server import audit
from cloud_server.api.context import Context
from cloud_server.operators.accounts import By
from cloud_server.storage.schema import setting
from cloud_server.tasks import load_task
from shared.errors import UsageError
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

"""Devices: a page of the list at a time, found by the beginning of a name, by group or by state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from cloud_server.dashboard.facts.summaries import ONLINE_S
from cloud_server.storage.schema import device
from shared.errors import Missing
from shared.limits import MAX_NAME_CHARACTERS
from shared.wire.canonical import Json

PAGE_ROWS: Final = 50
STATES: Final = ("active", "quarantined", "revoked")
_PREFIX: Final = "device-"
_AFTER: Final = "zz"  # sorts after the hexadecimal digits of names, in whichever collation
_COLUMNS: Final = (
    device.c.device,
    device.c.task,
    device.c.state,
    device.c.state_reason,
    device.c.declined,
    device.c.code_group,
    device.c.version,
    device.c.last_seen_s,
    device.c.enrolled_s,
    device.c.memory_mib,
    device.c.contributions,
    device.c.vectors,
    device.c.last_contribution_s,
)


@dataclass(frozen=True)
class Search:
    """What of the list is asked for.

    Attributes:
        name: how the pseudonym begins.
        group: exactly.
        state: one of ``STATES``, empty for all.
        after: the last device of the page before.
    """

    name: str = ""
    group: str = ""
    state: str = ""
    after: str = ""

    @classmethod
    def of(cls, values: dict[str, str]) -> Search:
        """Return what a query says; what cannot be a name finds nothing."""
        texts = {name: values.get(name, "").strip()[: 2 * MAX_NAME_CHARACTERS] for name in ("name", "group", "after")}
        state = values.get("state", "")
        return cls(state=state if state in STATES else "", **texts)


def list_devices(connection: Connection, task: str, search: Search, now_s: float) -> dict[str, Json]:
    """Return a page of a task's devices, in the order of their names."""
    query = select(*_COLUMNS).where(device.c.task == task, device.c.device > search.after)
    if search.state:
        query = query.where(device.c.state == search.state)
    if search.group:
        query = query.where(device.c.code_group == search.group)
    if search.name:
        begins = search.name if search.name.startswith(_PREFIX[: len(search.name)]) else _PREFIX + search.name
        query = query.where(device.c.device.startswith(begins, autoescape=True))
        # For ranges databases use an index: SQLite for these alone, PostgreSQL where texts are not sorted as in C.
        begins = max(begins, _PREFIX)
        query = query.where(device.c.device >= begins, device.c.device < begins + _AFTER)
    rows = connection.execute(query.order_by(device.c.device).limit(PAGE_ROWS + 1)).all()
    return {
        "task": task,
        "search": {"name": search.name, "group": search.group, "state": search.state, "after": search.after},
        "devices": [_plain(row, now_s) for row in rows[:PAGE_ROWS]],
        "next": rows[PAGE_ROWS - 1].device if len(rows) > PAGE_ROWS else None,
    }


def show_device(connection: Connection, name: str, now_s: float) -> dict[str, Json]:
    """Return one device; raises Missing ``device-unknown``."""
    row = connection.execute(select(*_COLUMNS).where(device.c.device == name)).one_or_none()
    if row is None:
        raise Missing("device-unknown", "There is no such device.", "search for it in the list")
    return {"device": _plain(row, now_s)}


def _plain(row: Row[*tuple[Any, ...]], now_s: float) -> dict[str, Json]:
    return {
        "device": row.device,
        "task": row.task,
        "state": row.state,
        "reason": row.state_reason,
        "declined": row.declined or None,
        "group": row.code_group,
        "version": row.version if row.version >= 0 else None,
        "last_seen_s": row.last_seen_s,
        "online": now_s - row.last_seen_s < ONLINE_S,
        "enrolled_s": row.enrolled_s,
        "memory_mib": row.memory_mib or None,
        "contributions": row.contributions,
        "vectors": row.vectors,
        "last_contribution_s": row.last_contribution_s or None,
    }

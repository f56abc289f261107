"""``fedloom-server device``: who is enrolled, with which key, and who may take part."""

from __future__ import annotations

import argparse
from typing import Any

from sqlalchemy import Row, select

from cloud_server.app import open_existing
from cloud_server.devices import State, set_state
from cloud_server.storage.schema import device, former_key
from shared.errors import Missing
from shared.wire.canonical import Json

_DAY_S = 86400.0


def list_devices(arguments: argparse.Namespace) -> Json:
    """Return every device, in the order of enrolment."""
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        rows = connection.execute(select(device).order_by(device.c.enrolled_s)).all()
    return {"devices": [_described(row, parts.clock.now_s()) for row in rows]}


def show_device(arguments: argparse.Namespace) -> Json:
    """Return one device, and the keys that it had before: until when, and when one was used after that.

    Raises:
        Missing: ``device-unknown``.
    """
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        row = connection.execute(select(device).where(device.c.device == arguments.device)).one_or_none()
        if row is None:
            raise Missing(
                "device-unknown", f"There is no device {arguments.device!r}.", "see fedloom-server device list"
            )
        query = select(former_key).where(former_key.c.device == row.device).order_by(former_key.c.serial)
        former: list[Json] = [
            {
                "serial": key.serial,
                "identity_key": key.identity_key.hex(),
                "until_s": key.until_s,
                "used_after_s": key.used_s or None,
            }
            for key in connection.execute(query)
        ]
    described = _described(row, parts.clock.now_s())
    return {**described, "identity_key": row.identity_key.hex(), "former_keys": former}


def _described(row: Row[Any], now_s: float) -> dict[str, Json]:
    return {
        "device": row.device,
        "task": row.task,
        "enrolled_s": row.enrolled_s,
        "last_seen_s": row.last_seen_s,
        "version": row.version,
        "state": row.state,
        "reason": row.state_reason,
        "group": row.code_group,
        "memory_mib": row.memory_mib,
        "vectors": row.vectors,
        "contributions": row.contributions,
        "key_serial": row.serial,
        "key_age_days": round((now_s - (row.key_since_s or row.enrolled_s)) / _DAY_S, 1),
    }


def change_device(arguments: argparse.Namespace, state: State) -> Json:
    """Let a device take part, or not any more."""
    parts = open_existing(arguments.data)
    with parts.recorded() as connection:
        set_state(connection, arguments.device, state, arguments.reason, parts.clock.now_s())
    return {"device": arguments.device, "state": state}

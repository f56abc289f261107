"""``fedloom-server device``: who is enrolled, with which key, and who may take part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from cloud_server.app import open_existing
from cloud_server.devices import State, set_state
from cloud_server.storage.schema import device, former_key
from cloud_server.tables import facts, nothing, since, table, when, word
from shared.errors import Missing
from shared.wire.canonical import Json

_DAY_S = 86400.0


def list_devices(arguments: argparse.Namespace) -> Json:
    """Return every device, in the order of enrolment."""
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        rows = connection.execute(select(device).order_by(device.c.enrolled_s)).all()
    now_s = parts.clock.now_s()
    found = [_described(row, now_s) for row in rows]
    return {"devices": [*found]} if arguments.json else _devices_text(found, arguments.data, now_s)


def _devices_text(devices: list[dict[str, Json]], data: Path, now_s: float) -> str:
    if not devices:
        command = f"fedloom-server code create --task TASK --data {data}, then fedloom-agent enroll on each device"
        return nothing("No device is enrolled yet.", command)
    head = (
        "device",
        "task",
        "state",
        "seen",
        "version",
        "group",
        "memory",
        "contributions",
        "key",
        "key age",
        "reason",
    )
    rows = [
        (
            *(word(one[name]) for name in ("device", "task", "state")),
            since(one["last_seen_s"], now_s),
            word(one["version"]),
            word(one["group"]),
            _memory(one),
            word(one["contributions"]),
            word(one["key_serial"]),
            _key_age(one),
            _why(one),
        )
        for one in devices
    ]
    return table(head, rows)


def _memory(one: dict[str, Json]) -> str:
    return f"{one['memory_mib']} MiB" if one["memory_mib"] else "-"


def _why(one: dict[str, Json]) -> str:
    return f"declined round {one['declined']}" if one["declined"] and not one["reason"] else word(one["reason"])


def _key_age(one: dict[str, Json]) -> str:
    return f"{one['key_age_days']} d"


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
        former: list[dict[str, Json]] = [
            {
                "serial": key.serial,
                "identity_key": key.identity_key.hex(),
                "until_s": key.until_s,
                "used_after_s": key.used_s or None,
            }
            for key in connection.execute(query)
        ]
    now_s = parts.clock.now_s()
    found: dict[str, Json] = {**_described(row, now_s), "identity_key": row.identity_key.hex()}
    return {**found, "former_keys": [*former]} if arguments.json else _device_text(found, former, now_s)


def _device_text(one: dict[str, Json], former: list[dict[str, Json]], now_s: float) -> str:
    why = _why(one)
    state = word(one["state"]) if why == word(None) else f"{one['state']}: {why}"
    seen = f"{since(one['last_seen_s'], now_s)} ({when(one['last_seen_s'])})" if one["last_seen_s"] else "never"
    shown = facts(
        [
            ("device", word(one["device"])),
            ("task", word(one["task"])),
            ("state", state),
            ("enrolled", when(one["enrolled_s"])),
            ("seen", seen),
            ("version", word(one["version"])),
            ("group", word(one["group"])),
            ("memory", _memory(one)),
            ("contributions", f"{one['contributions']}, of {one['vectors']} masked vectors"),
            ("identity key", word(one["identity_key"])),
            ("key", f"number {one['key_serial']}, {_key_age(one)} old"),
        ]
    )
    if not former:
        return shown
    rows = [
        (word(key["serial"]), when(key["until_s"]), when(key["used_after_s"]), word(key["identity_key"]))
        for key in former
    ]
    return f"{shown}\n\n{table(('former key', 'until', 'used after that', 'identity key'), rows)}"


def _described(row: Row[Any], now_s: float) -> dict[str, Json]:
    return {
        "device": row.device,
        "task": row.task,
        "enrolled_s": row.enrolled_s,
        "last_seen_s": row.last_seen_s,
        "version": row.version if row.version >= 0 else None,
        "state": row.state,
        "reason": row.state_reason,
        "declined": row.declined or None,
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

"""Sealed shares: kept by receiver, so that an inbox is one look-up, and only while their cohort lasts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from cloud_server.rounds.records import step_bodies
from cloud_server.storage.schema import box
from shared.secagg.session import SharesMessage
from shared.wire.canonical import sha256

_HASH_BYTES: Final = 32


def shares_mark(data: bytes, message: SharesMessage) -> bytes:
    """Return what is recorded of a shares message: the hash of its bytes, for repeats, and the commitment."""
    return sha256(data) + message.commitment


def commitments(connection: Connection, cohort_id: str) -> dict[str, bytes]:
    """Return the commitments to self-mask seeds, by device."""
    return {device: mark[_HASH_BYTES:] for device, mark in step_bodies(connection, cohort_id, "shares").items()}


def store_boxes(connection: Connection, cohort_id: str, sender: int, message: SharesMessage) -> None:
    """Keep what a member sealed for its neighbours."""
    rows = [
        {"cohort": cohort_id, "sender": sender, "receiver": receiver, "body": body}
        for receiver, body in message.boxes.items()
    ]
    connection.execute(insert(box), rows)


def boxes_for(connection: Connection, cohort_id: str, receiver: int, senders: Collection[int]) -> dict[int, bytes]:
    """Return the boxes sealed for ``receiver`` by those among ``senders`` that sealed one."""
    query = select(box.c.sender, box.c.body).where(box.c.cohort == cohort_id, box.c.receiver == receiver)
    return {row.sender: row.body for row in connection.execute(query) if row.sender in senders}


def forget_boxes(connection: Connection, cohort_id: str) -> None:
    """Remove the boxes of a cohort that is over."""
    connection.execute(delete(box).where(box.c.cohort == cohort_id))

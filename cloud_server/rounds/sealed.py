"""Sealed shares: kept by receiver, so that an inbox is one look-up, and only while their cohort lasts."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select

from cloud_server.storage.schema import box, commitment
from shared.secagg.session import SharesMessage


def commitments(connection: Connection, cohort_id: str) -> dict[int, bytes]:
    """Return the commitments to self-mask seeds, by roster index."""
    query = select(commitment.c.member, commitment.c.body).where(commitment.c.cohort == cohort_id)
    return {row.member: row.body for row in connection.execute(query)}


def store_shares(connection: Connection, cohort_id: str, sender: int, message: SharesMessage) -> None:
    """Keep what a member committed to and sealed for its neighbours."""
    connection.execute(insert(commitment).values(cohort=cohort_id, member=sender, body=message.commitment))
    rows = [
        {"cohort": cohort_id, "sender": sender, "receiver": receiver, "body": body}
        for receiver, body in message.boxes.items()
    ]
    connection.execute(insert(box), rows)


def boxes_for(connection: Connection, cohort_id: str, receiver: int, senders: Collection[int]) -> dict[int, bytes]:
    """Return the boxes sealed for ``receiver`` by those among ``senders`` that sealed one."""
    query = select(box.c.sender, box.c.body).where(box.c.cohort == cohort_id, box.c.receiver == receiver)
    return {row.sender: row.body for row in connection.execute(query) if row.sender in senders}


def forget_shares(connection: Connection, cohort_id: str) -> None:
    """Remove what the members of a cohort that is over had committed to and sealed."""
    for table in (box, commitment):
        connection.execute(delete(table).where(table.c.cohort == cohort_id))


def cohorts_with_shares(connection: Connection) -> list[str]:
    """Return the cohorts of which anything is kept here."""
    return list(connection.execute(select(commitment.c.cohort).distinct()).scalars())

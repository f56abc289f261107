"""What a cohort's members have sent so far, as the state machine wants to know it."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from cloud_server.rounds.machine import Phase, Seen
from cloud_server.rounds.records import StoredCohort, devices_in_order
from cloud_server.storage.schema import step
from shared.secagg.parameters import is_sparse


def seen(
    connection: Connection, record: StoredCohort, authority_key: bytes, now_s: float, unmask_failed: int = 0
) -> Seen:
    """Return what the state machine is to know.

    Args:
        connection: reads.
        record: of the cohort.
        authority_key: verifies the roster.
        now_s: the time.
        unmask_failed: how many answers there were when unmasking was last tried in vain.
    """
    if record.roster_body is None:
        query = select(func.count(), func.max(step.c.received_s)).where(
            step.c.cohort == record.id, step.c.step == "join"
        )
        joined, last_join_s = connection.execute(query).one()
        return Seen(now_s, joined=joined, last_join_s=last_join_s or 0.0)
    index_of = {device: index for index, device in enumerate(devices_in_order(record.roster_body))}
    rows = connection.execute(select(step.c.device, step.c.step).where(step.c.cohort == record.id))
    by_step: dict[str, set[int]] = {}
    for row in rows:
        if row.device in index_of:
            by_step.setdefault(row.step, set()).add(index_of[row.device])
    answered = frozenset(by_step.get("answer", ()))
    return Seen(
        now_s,
        shared=frozenset(by_step.get("shares", ())),
        uploaded=frozenset(by_step.get("vector", ())),
        agreed=frozenset(by_step.get("agreement", ())),
        answered=answered,
        holders_answered=_holders_answered(record, answered, authority_key),
        unmask_failed=unmask_failed,
    )


def _holders_answered(record: StoredCohort, answered: frozenset[int], authority_key: bytes) -> int | None:
    """Return how many shares there are of the secret with the fewest, on a sparse graph while unmasking."""
    if record.state.phase is not Phase.UNMASKING or not is_sparse(record.state.members):
        return None
    graph, survivors = record.graph(authority_key), record.state.survivors
    holders = {owner: frozenset(graph.holders_of(owner)) for owner in record.state.sharers}
    # What a drop-out without surviving neighbours left in the sum is nothing.
    return min(len(near & answered) for owner, near in holders.items() if owner in survivors or near & survivors)

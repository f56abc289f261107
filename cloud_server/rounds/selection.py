"""Who is asked to train: as many devices as fill a cohort, and more where some were seen not to come.

Devices train before they join, so that whoever is asked in vain has worked in vain. One that does not join within the
plan's ``deadlines.training_s`` is given up, and another one is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, desc, exists, func, insert, select, update

from cloud_server.rounds.records import StoredCohort
from cloud_server.storage.schema import invitation, round_, step
from shared.plan import Plan
from shared.wire.canonical import decode

REMEMBERED_ROUNDS: Final = 5  # from which is learned how many of the invited come
PRIOR_DEVICES: Final = 8  # the plan's own expectation counts as much as so many devices
SMALLEST_SHOW_RATE: Final = 0.1
_IS_INVITED: Final = select(invitation.c.device).where(
    invitation.c.task == bindparam("task"), invitation.c.device == bindparam("device")
)


def show_rate(past: Sequence[tuple[int, int]], dropout_share: float) -> float:
    """Return the share of invited devices that will join, learned from what was seen.

    Args:
        past: invited devices and members of the rounds before.
        dropout_share: of the plan, what to expect before anything was seen.
    """
    invited = PRIOR_DEVICES + sum(pair[0] for pair in past)
    came = PRIOR_DEVICES * (1 - dropout_share) + sum(min(pair) for pair in past)
    return max(SMALLEST_SHOW_RATE, came / invited)


def places(target: int, joined: int, outstanding: int, rate: float) -> int:
    """Return how many more devices to ask, 0 or more.

    Args:
        target: members that the cohort shall have.
        joined: that it has.
        outstanding: devices that were asked and may still come.
        rate: share of them that will.
    """
    return max(0, math.ceil((target - joined) / rate) - outstanding)


def _is_invited(connection: Connection, task_name: str, name: str) -> bool:
    """Say whether a device was asked in the open round."""
    return connection.execute(_IS_INVITED, {"task": task_name, "device": name}).one_or_none() is not None


def places_left(connection: Connection, plan: Plan, record: StoredCohort, now_s: float) -> int:
    """Return how many more devices to ask for a cohort that forms."""
    joins = (step.c.cohort == record.id, step.c.step == "join")
    joined = connection.execute(select(func.count()).select_from(step).where(*joins)).scalar_one()
    # Whoever was asked for an earlier cohort of the round, and did not come back yet, may not come at all.
    since_s = max(record.state.since_s, now_s - plan.deadlines.training_s)
    came = exists().where(*joins, step.c.device == invitation.c.device)
    waiting = (
        select(func.count())
        .select_from(invitation)
        .where(invitation.c.task == record.task, invitation.c.invited_s >= since_s, ~came)
    )
    outstanding = connection.execute(waiting).scalar_one()
    rate = show_rate(_past(connection, record.task), plan.cohort.dropout_share)
    return places(plan.cohort.largest, joined, outstanding, rate)


def _past(connection: Connection, task_name: str) -> list[tuple[int, int]]:
    query = (
        select(round_.c.invited, round_.c.result)
        .where(round_.c.task == task_name, round_.c.closed_s.is_not(None))
        .order_by(desc(round_.c.number))
        .limit(REMEMBERED_ROUNDS)
    )
    return [
        (row.invited, 0 if row.result is None else int(str(decode(row.result)["participants"])))
        for row in connection.execute(query)
    ]


def invite(connection: Connection, plan: Plan, record: StoredCohort, name: str, now_s: float) -> bool:
    """Ask a device if there is a place left, and say whether; one that was asked before is asked again.

    The round's row is locked, so that of processes that look at once none asks one too many.
    """
    lock = select(round_.c.number).where(round_.c.task == record.task, round_.c.number == record.round_number)
    connection.execute(lock.with_for_update())
    mine = (invitation.c.task == record.task, invitation.c.device == name)
    if _is_invited(connection, record.task, name):
        connection.execute(update(invitation).where(*mine).values(invited_s=now_s))
        return True
    if not places_left(connection, plan, record, now_s):
        return False
    connection.execute(insert(invitation).values(task=record.task, device=name, invited_s=now_s))
    return True


def uninvite(connection: Connection, task_name: str, name: str) -> None:
    """Free the place of a device that said that it will not come."""
    connection.execute(delete(invitation).where(invitation.c.task == task_name, invitation.c.device == name))


def end_invitations(connection: Connection, task_name: str) -> int:
    """Forget who was asked, when a round is over, and return how many were."""
    return connection.execute(delete(invitation).where(invitation.c.task == task_name)).rowcount

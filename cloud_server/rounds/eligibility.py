"""Whether a device may contribute to a task now; if not, why, and when it may."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from cloud_server.storage.schema import device
from shared.errors import Refused
from shared.plan import Plan
from shared.wire.messages import Reason

_TEXTS: Final[dict[Reason, str]] = {
    "other-group": "The task is for devices of other groups.",
    "too-little-memory": "The task needs more memory than this device has.",
    "contributions-used": "This device has contributed to the task as often as it may.",
    "too-soon": "This device contributed not long ago.",
}
_PERMANENT_S: Final = 86400.0  # when to ask again about what will hardly change


class NotEligible(Refused):
    """The plan leaves the device out for now."""

    http_status = HTTPStatus.FORBIDDEN


@dataclass(frozen=True)
class Candidate:
    """What the aggregator knows of a device.

    Attributes:
        group: of its code, empty for none.
        memory_mib: that it said it has.
        vectors: masked vectors that were taken from it.
        contributions: published sums that it is in.
        last_contribution_s: when the last one of these was published.
    """

    group: str = ""
    memory_mib: int = 0
    vectors: int = 0
    contributions: int = 0
    last_contribution_s: float = 0.0

    @classmethod
    def of(cls, row: Row[Any]) -> Candidate:
        """Return what a row of the table of devices says."""
        return cls(row.code_group, row.memory_mib, row.vectors, row.contributions, row.last_contribution_s)


@dataclass(frozen=True)
class LeftOut:
    """Why a device is not asked to train, and in how many seconds asking again may help."""

    reason: Reason
    wait_s: float


def left_out(candidate: Candidate, plan: Plan, now_s: float) -> LeftOut | None:
    """Return why ``plan`` leaves a device out, None if it does not."""
    rule = plan.eligibility
    if rule.groups and candidate.group not in rule.groups:
        return LeftOut("other-group", _PERMANENT_S)
    if candidate.memory_mib < rule.min_memory_mib:
        return LeftOut("too-little-memory", _PERMANENT_S)
    counted = rule.max_contributions and candidate.contributions >= rule.max_contributions
    # Under differential privacy a vector counts once it was sent, whatever became of it.
    noised = plan.privacy.mechanism != "none" and candidate.vectors >= plan.privacy.max_participations
    if counted or noised:
        return LeftOut("contributions-used", _PERMANENT_S)
    wait_s = min(candidate.last_contribution_s - now_s, 0.0) + rule.min_interval_s
    return LeftOut("too-soon", wait_s) if candidate.contributions and wait_s > 0 else None


def require_eligible(connection: Connection, name: str, plan: Plan, now_s: float) -> None:
    """Refuse to let a device join that the plan leaves out.

    Raises:
        NotEligible: ``other-group``, ``too-little-memory``, ``contributions-used`` or ``too-soon``.
    """
    found = left_out(Candidate.of(connection.execute(select(device).where(device.c.device == name)).one()), plan, now_s)
    if found is not None:
        raise NotEligible(found.reason, _TEXTS[found.reason], "the device asks again by itself")


def count_contributions(connection: Connection, names: list[str], now_s: float) -> None:
    """Note, in the transaction that publishes a sum, whose updates are in it."""
    # In the order of names, as requests' batches lock them: no two transactions wait for each other's rows.
    lock = select(device.c.device).where(device.c.device.in_(names)).order_by(device.c.device).with_for_update()
    connection.execute(lock).all()
    values = {"contributions": device.c.contributions + 1, "last_contribution_s": now_s}
    connection.execute(update(device).where(device.c.device.in_(names)).values(values))

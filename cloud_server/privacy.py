"""The task's privacy budget: an event per cohort whose survivors were frozen, and no cohort beyond the budget.

A device may have been in every one of a task's cohorts, but in no more than the plan's ``max_participations``, which
it counts itself. So the loss is that of the costliest so many events. Nothing is refunded: a cohort that fails after
its survivors were frozen, and a discarded sum, stay charged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, insert, select

from cloud_server import audit
from cloud_server.storage.schema import privacy_event
from shared.errors import UsageError
from shared.layout import Layout
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.skellam import table_for
from shared.plan import Plan
from shared.privacy.charges import Loss, loss_of
from shared.privacy.rdp import ORDERS, epsilon
from shared.wire.canonical import Json, decode, encode

CURVE_POINTS: Final = 24


def require_possible(plan: Plan, layout: Layout) -> None:
    """Refuse a plan that could never run with a model of this layout.

    Raises:
        UsageError: ``grid-too-coarse`` or ``noise-too-wide`` for some size of cohort, ``privacy-budget-small`` when
            not even one participation fits.
    """
    for members in (plan.cohort.min_survivors, plan.cohort.largest):
        encoding = plan.encoding(members, layout.shared.size, layout.statistics.size)
        if isinstance(encoding, NoisyEncoding):
            table_for(encoding.noise.device_variance)
        loss = loss_of(plan, encoding)
        if loss and (once := _expected(plan, loss, 1)) > plan.privacy.max_epsilon:
            raise UsageError(
                "privacy-budget-small",
                f"One participation among {members} members costs epsilon {once:.3g}, the plan allows"
                f" {plan.privacy.max_epsilon:g} altogether.",
                "raise noise_multiplier or max_epsilon",
            )


def paid_cohorts(plan: Plan, layout: Layout) -> int | None:
    """Return how many full cohorts the plan's budget pays for, None where it never runs out."""
    loss = _loss(plan, layout, plan.cohort.largest)
    if not loss or _expected(plan, loss, plan.privacy.max_participations) <= plan.privacy.max_epsilon:
        return None
    return _most_affordable(plan, 0, plan.privacy.max_participations, lambda count: _expected(plan, loss, count))


def charge_frozen(
    connection: Connection, cohort_id: str, plan: Plan, layout: Layout, members: int, survivors: int, now_s: float
) -> None:
    """Record what a cohort's sum reveals, in the transaction that freezes its survivors; nothing without noise."""
    loss = _loss(plan, layout, members)
    if not loss:
        return
    connection.execute(
        insert(privacy_event).values(
            cohort=cohort_id,
            task=plan.task,
            members=members,
            survivors=survivors,
            loss=encode({"loss": list(loss)}),
            charged_s=now_s,
        )
    )
    detail: dict[str, Json] = {"cohort": cohort_id, "members": members, "survivors": survivors}
    audit.record(connection, now_s, "server", "privacy-charged", plan.task, detail)


def spent_reason(connection: Connection, plan: Plan, layout: Layout) -> str:
    """Return why no further cohort may begin, empty if one may."""
    loss = _loss(plan, layout, plan.cohort.largest)
    if not loss:
        return ""
    after = _epsilon(plan, [*_losses(connection, plan.task), loss])
    if after <= plan.privacy.max_epsilon:
        return ""
    return (
        f"the privacy budget is spent: one more cohort would make epsilon {after:.3g} at delta"
        f" {plan.privacy.delta:g}, the plan allows {plan.privacy.max_epsilon:g}"
    )


def privacy_report(connection: Connection, plan: Plan) -> dict[str, Json]:
    """Return a task's mechanism, budget and what was spent of it."""
    privacy = plan.privacy
    losses = _losses(connection, plan.task)
    return {
        "mechanism": privacy.mechanism,
        "noise_multiplier": privacy.noise_multiplier,
        "delta": privacy.delta,
        "max_participations": privacy.max_participations,
        "max_epsilon": privacy.max_epsilon,
        "cohorts_charged": len(losses),
        "epsilon": None if privacy.mechanism == "none" else _epsilon(plan, losses),
    }


@dataclass(frozen=True)
class Spending:
    """What was spent of a task's budget, charge by charge; new charges are added to those that were read before.

    Attributes:
        charges: time in seconds and loss of each.
        epsilon: now, 0 without noise.
        curve: (charges so far, epsilon) at about ``CURVE_POINTS`` of them.
    """

    charges: tuple[tuple[float, Loss], ...] = ()
    epsilon: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()

    @classmethod
    def read(cls, connection: Connection, plan: Plan, before: Spending | None) -> Spending:
        """Return what is spent now; the same object where nothing was charged since ``before``."""
        count = select(func.count()).where(privacy_event.c.task == plan.task)
        charged = connection.execute(count).scalar_one()
        if before is not None and charged == len(before.charges):
            return before
        rows = connection.execute(
            select(privacy_event.c.charged_s, privacy_event.c.loss)
            .where(privacy_event.c.task == plan.task)
            .order_by(privacy_event.c.charged_s, privacy_event.c.cohort)
            .offset(len(before.charges) if before else 0)  # append-only, in the order of time
        )
        more = tuple((float(row.charged_s), _read_loss(row.loss)) for row in rows)
        charges = (before.charges if before else ()) + more
        losses = np.array([loss for _, loss in charges])
        every = max(1, len(losses) // CURVE_POINTS)
        places = sorted({*range(every, len(losses) + 1, every), len(losses)} - {0})
        kept = {} if before is None else dict(before.curve)
        curve = tuple((place, kept.get(place) or _epsilon_of_most(plan, losses[:place])) for place in places)
        return cls(charges, curve[-1][1] if curve else 0.0, curve)


def rounds_left(plan: Plan, layout: Layout, spending: Spending) -> int | None:
    """Return how many more full cohorts the budget pays for, None where it never runs out."""
    paid = paid_cohorts(plan, layout)
    loss = _loss(plan, layout, plan.cohort.largest)
    if paid is None or not loss:
        return None
    losses = np.array([found for _, found in spending.charges]).reshape(-1, len(loss))

    def after(count: int) -> float:
        return _epsilon_of_most(plan, np.vstack([losses, np.tile(loss, (count, 1))]))

    return max(0, _most_affordable(plan, -1, paid + 1, after))


def _most_affordable(plan: Plan, enough: int, too_many: int, epsilon_after: Callable[[int], float]) -> int:
    """Return how many cohorts the budget pays for: at least ``enough``, fewer than ``too_many``."""
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if epsilon_after(middle) <= plan.privacy.max_epsilon:
            enough = middle
        else:
            too_many = middle
    return enough


def forecast(plan: Plan, layout: Layout) -> list[tuple[int, float]]:
    """Return (full cohorts, epsilon) over what a plan pays for, or one device's participations; empty without noise."""
    loss = _loss(plan, layout, plan.cohort.largest)
    if not loss:
        return []
    last = paid_cohorts(plan, layout) or plan.privacy.max_participations
    every = max(1, last // CURVE_POINTS)
    places = sorted({1, *range(every, last + 1, every), last})
    return [(place, _expected(plan, loss, place)) for place in places]


@lru_cache(4096)  # cohorts of one size lose the same
def _read_loss(body: bytes) -> Loss:
    return tuple(decode(body)["loss"])  # type: ignore[arg-type]  # written by charge_frozen


def _loss(plan: Plan, layout: Layout, members: int) -> Loss:
    return loss_of(plan, plan.encoding(members, layout.shared.size, layout.statistics.size))


def _losses(connection: Connection, task_name: str) -> list[Loss]:
    rows = connection.execute(select(privacy_event.c.loss).where(privacy_event.c.task == task_name))
    return [_read_loss(body) for body in rows.scalars()]


def _epsilon(plan: Plan, losses: Sequence[Loss]) -> float:
    """Return the epsilon of a device that took part as often, and at as high a cost, as it can have."""
    if not losses:
        return 0.0
    most = plan.privacy.max_participations
    total = [math.fsum(sorted(column, reverse=True)[:most]) for column in zip(*losses, strict=True)]
    return _epsilon_of(plan, total)


def _expected(plan: Plan, loss: Sequence[float], times: int) -> float:
    """Return the epsilon of a loss that is paid so many times, for what is only shown.

    It is the accountant's of ``_epsilon_of``; loading that one takes seconds, which a web process does not have.
    """
    return epsilon([value * times for value in loss], plan.privacy.delta)


def _epsilon_of_most(plan: Plan, losses: npt.NDArray[np.float64]) -> float:
    """Return what ``_epsilon`` does of f64[cohorts, orders], quickly, and to a few units in the last place."""
    if not len(losses):
        return 0.0
    most = plan.privacy.max_participations
    costliest = losses if len(losses) <= most else -np.partition(-losses, most - 1, axis=0)[:most]
    return _expected(plan, costliest.sum(axis=0).tolist(), 1)


def _epsilon_of(plan: Plan, loss: Sequence[float]) -> float:
    """Return the epsilon of a loss; this is what ends a task."""
    from dp_accounting import rdp  # noqa: PLC0415  # takes seconds, which no other command should wait for

    found, _ = rdp.compute_epsilon(list(ORDERS), list(loss), plan.privacy.delta)
    return float(found)

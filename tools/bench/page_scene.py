"""An aggregator's database as it is after years: many devices, rounds and charges, written straight into its tables.

Values are made up, but shaped like real ones; sums, states and failures occur as they do.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from cloud_server import audit
from cloud_server.api.context import Context
from cloud_server.storage.schema import cohort, device, invitation, lease, privacy_event, round_, step, version
from cloud_server.storage.schema import task as task_table
from cloud_server.tasks import create_task, prepare_task
from shared.bundle import read_bundle
from shared.plan import Cohort, Deadlines, Plan, Privacy, Stop, Update
from shared.privacy.charges import loss_of
from shared.secagg.roster import to_bitmap
from shared.wire.canonical import Json, encode
from shared.wire.signed import SigningKey
from tools.bench.quadratic import write_quadratic_bundle

GROUPS: Final = ("bathroom", "hallway", "kitchen", "workshop")
MEMBERS: Final = 40
DIMENSION: Final = 64
_ROUND_S: Final = 900.0
_CERTIFICATE_BYTES: Final = 700
_ROWS_AT_ONCE: Final = 5000
_FAILURE: Final = "too-few-survivors: 21 of 40 members sent a vector, 28 are needed"


@dataclass(frozen=True)
class Size:
    """How much there is."""

    devices: int
    rounds: int


def scene_plan(name: str) -> Plan:
    """Return the plan of the task that is made up."""
    return Plan(
        name,
        update=Update(lane_bits=32),
        cohort=Cohort(min_survivors=20, largest=50, corrupt_share=0.05, dropout_share=0.2),
        deadlines=Deadlines(round_s=86_400.0),
        stop=Stop(rounds=1_000_000),
        privacy=Privacy("skellam", 6.0, 1e-6, 100, 12.0),
    )


def fill(parts: Context, folder: Path, key: SigningKey, name: str, size: Size, now_s: float) -> None:
    """Make a task that has run for as many rounds, the last one open, and whose driver is at work."""
    write_quadratic_bundle(folder, DIMENSION)
    plan, dice = scene_plan(name), random.Random(name)
    begun_s = now_s - size.rounds * _ROUND_S
    with parts.database.write() as connection:
        create_task(connection, prepare_task(parts.blobs, read_bundle(folder), plan, key, begun_s), begun_s)
        connection.execute(update(task_table).where(task_table.c.name == name).values(created_s=begun_s))
        names = insert_devices(connection, plan, size, now_s, dice)
        _rounds(connection, plan, size, now_s, dice)
        _steps(connection, plan, names, now_s)
        asked = [{"task": name, "device": member, "invited_s": now_s - 600} for member in names[: MEMBERS + 6]]
        connection.execute(insert(invitation), asked)
        values = {"owner": f"driver-{name}", "expires_s": now_s + 10 * 365 * 86_400}
        connection.execute(
            insert(lease), [{"name": key, **values} for key in (f"driver:driver-{name}", f"task:{name}")]
        )
    with parts.database.read() as connection:
        parts.anchor.extend(connection)


def insert_devices(connection: Connection, plan: Plan, size: Size, now_s: float, dice: random.Random) -> list[str]:
    """Add devices as they are after so many rounds, and return their pseudonyms."""
    names = [f"device-{dice.getrandbits(128):032x}" for _ in range(size.devices)]
    for start in range(0, len(names), _ROWS_AT_ONCE):
        connection.execute(
            insert(device), [_device(name, plan, size, now_s, dice) for name in names[start : start + _ROWS_AT_ONCE]]
        )
    return names


def _device(name: str, plan: Plan, size: Size, now_s: float, dice: random.Random) -> dict[str, Any]:
    state = dice.choices(("active", "quarantined", "revoked"), (970, 4, 26))[0]
    away_s = dice.choice((60.0, 3600.0, 86_400.0, 2e6)) * dice.random()
    enrolled_s = now_s - dice.random() * size.rounds * _ROUND_S
    contributions = dice.randrange(1 + min(100, size.rounds // 4))
    return {
        "device": name,
        "task": plan.task,
        "certificate": dice.randbytes(_CERTIFICATE_BYTES),
        "identity_key": dice.randbytes(32),
        "enrolled_s": enrolled_s,
        "counter": dice.randrange(10_000),
        "last_request": dice.randbytes(32).hex(),
        "last_seen_s": max(enrolled_s, now_s - away_s),
        "version": max(0, int(0.93 * size.rounds) - int(dice.expovariate(1.0))),
        "state": state,
        "state_reason": {"quarantined": "two different requests had counter 812", "revoked": "sold"}.get(state, ""),
        "code_group": dice.choice(GROUPS),
        "memory_mib": dice.choice((512, 1024, 2048, 4096)),
        "contributions": contributions,
        "vectors": contributions,
        "last_contribution_s": now_s - 2 * away_s if contributions else 0.0,
    }


def _rounds(connection: Connection, plan: Plan, size: Size, now_s: float, dice: random.Random) -> None:
    base = connection.execute(select(version).where(version.c.task == plan.task)).one()
    loss = encode({"loss": [*loss_of(plan, plan.encoding(MEMBERS, DIMENSION, 0))]})
    rows: dict[str, list[dict[str, Any]]] = {"round": [], "cohort": [], "version": [], "charge": []}
    published = 0
    for number in range(1, size.rounds + 1):
        opened_s = now_s - (size.rounds - number + 0.4) * _ROUND_S
        is_open, is_lost = number == size.rounds, dice.random() < 0.02
        survivors = MEMBERS - dice.randrange(8)
        rows["round"].append(_round(plan, number, published, opened_s, survivors, dice, lost=is_lost, is_open=is_open))
        for attempt in range(1, 2 + (dice.random() < 0.06)):
            is_last = attempt == 2 or not is_lost
            rows["cohort"].append(
                cohort_row(plan, number, published, attempt, opened_s, survivors, is_open=is_open, failed=not is_last)
            )
        if is_open or is_lost:
            continue
        published += 1
        charged_s = opened_s + 300
        rows["charge"].append(_charge(plan, rows["cohort"][-1]["id"], survivors, loss, charged_s))
        rows["version"].append(_version(base, published, opened_s + 400, dice))
        detail: dict[str, Json] = {"version": published, "model_sha256": dice.randbytes(32).hex()}
        audit.record(connection, opened_s + 400, "server", "version-published", plan.task, detail)
    for name, table in (("round", round_), ("cohort", cohort), ("version", version), ("charge", privacy_event)):
        for start in range(0, len(rows[name]), _ROWS_AT_ONCE):
            connection.execute(insert(table), rows[name][start : start + _ROWS_AT_ONCE])


def _round(
    plan: Plan,
    number: int,
    base: int,
    opened_s: float,
    survivors: int,
    dice: random.Random,
    *,
    lost: bool,
    is_open: bool,
) -> dict[str, Any]:
    learned = 1 - math.exp(-base / 14)
    examples = survivors * 24
    share = 0.11 + 0.81 * learned + dice.gauss(0, 0.006)
    result: dict[str, Json] = {
        "participants": MEMBERS,
        "survivors": survivors,
        "clipped": round(survivors * (0.5 - 0.3 * learned)),
        "weight_sum": survivors,
        "evaluated": examples,
        "correct": round(examples * share),
        "loss_sum": examples * (2.3 - 2.02 * learned + dice.gauss(0, 0.015)),
        "update_norm": 0.8 - 0.6 * learned + dice.gauss(0, 0.01),
    }
    return {
        "task": plan.task,
        "number": number,
        "base_version": base,
        "phase": "open" if is_open else "abandoned" if lost else "closed",
        "opened_s": opened_s,
        "closed_s": None if is_open else opened_s + 400 + 90 * dice.random(),
        "reason": _FAILURE if lost and not is_open else "",
        "result": None if is_open or lost else encode(result),
        "invited": 0 if is_open else MEMBERS + dice.randrange(12),
    }


def cohort_row(
    plan: Plan, number: int, base: int, attempt: int, opened_s: float, survivors: int, *, is_open: bool, failed: bool
) -> dict[str, Any]:
    """Return an attempt at a round, with everybody in it but some who vanished."""
    everybody = frozenset(range(MEMBERS))
    return {
        "id": f"cohort-{plan.task}-{number}-{attempt}",
        "task": plan.task,
        "round": number,
        "attempt": attempt,
        "base_version": base,
        "phase": "collecting" if is_open else "failed" if failed else "summed",
        "since_s": opened_s + 200 * attempt,
        "expires_at_s": int(opened_s + 604_800),
        "roster": b"{}",
        "members": MEMBERS,
        "sharers": to_bitmap(frozenset(range(MEMBERS - 1)), MEMBERS),
        "survivors": None if is_open or failed else to_bitmap(frozenset(sorted(everybody)[:survivors]), MEMBERS),
        "failure": _FAILURE if failed and not is_open else "",
    }


def _charge(plan: Plan, cohort_id: str, survivors: int, loss: bytes, charged_s: float) -> dict[str, Any]:
    return {
        "cohort": cohort_id,
        "task": plan.task,
        "members": MEMBERS,
        "survivors": survivors,
        "loss": loss,
        "charged_s": charged_s,
    }


def _version(base: Row[Any], number: int, created_s: float, dice: random.Random) -> dict[str, Any]:
    kept = ("task", "release", "signature", "plan", "master_sha256")
    return {
        **{name: getattr(base, name) for name in kept},
        "number": number,
        "model_sha256": dice.randbytes(32),
        "created_s": created_s,
    }


def _steps(connection: Connection, plan: Plan, names: list[str], now_s: float) -> None:
    """Let the members of the newest cohorts have sent what belongs to their phases."""
    newest = (
        select(cohort.c.id, cohort.c.phase, cohort.c.since_s)
        .where(cohort.c.task == plan.task)
        .order_by(cohort.c.round.desc(), cohort.c.attempt.desc())
        .limit(30)
    )
    for row in connection.execute(newest).all():
        begun_s = row.since_s - 150
        whole = (
            ("join", 60.0, 40),
            ("shares", 20.0, 39),
            ("vector", 70.0, 36),
            ("agreement", 6.0, 36),
            ("answer", 8.0, 36),
        )
        steps = (*whole[:2], ("vector", 90.0, 14)) if row.phase == "collecting" else whole
        rows = []
        for name, took_s, count in steps:
            for place, member in enumerate(names[:count]):
                sent_s = min(now_s, begun_s + took_s * (place + 1) / count)
                rows.append({"cohort": row.id, "device": member, "step": name, "body": b"-", "received_s": sent_s})
            begun_s += took_s
        connection.execute(insert(step), rows)

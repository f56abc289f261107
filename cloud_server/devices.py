"""Devices and whether they may take part: active, quarantined because two seem to be one, revoked by the operator.

An agent makes its counter durable before it uses a number, sends one request after another, and repeats one byte for
byte until it is answered. So one counter in two different requests means that two agents have one identity, for
instance those of a copied SD card. A counter of the past alone does not: a request may have been late. But a second
agent, whose own counter runs behind, sends them again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, Row, select, update

from cloud_server import audit
from cloud_server.storage.schema import device
from shared.errors import Conflict, FedloomError, Missing, Refused, Unauthenticated

MAX_BEHIND: Final = 8  # requests with counters of the past, before two agents are suspected
FORGET_BEHIND_AFTER: Final = 1000  # counters without another one, after which they are forgotten
State = Literal["active", "quarantined", "revoked"]


@dataclass(frozen=True)
class Request:
    """What a verified request says of itself.

    Attributes:
        device: the pseudonym.
        counter: that the device gave it.
        digest: hexadecimal, of what was signed.
        now_s: when it came.
    """

    device: str
    counter: int
    digest: str
    now_s: float


def require_active(row: Row[tuple[object, ...]]) -> None:
    """Refuse a device that may not take part.

    Raises:
        Unauthenticated: ``device-revoked``.
        Refused: ``identity-quarantined``.
    """
    if row.state == "revoked":
        raise Unauthenticated("device-revoked", "The operator has revoked this device.", "ask for a new code")
    if row.state == "quarantined":
        raise Refused(
            "identity-quarantined",
            "Two agents have used this device's identity, so neither may take part.",
            "on each device run `fedloom-agent leave`, and enrol it with a code of its own",
        )


def accept(connection: Connection, request: Request) -> FedloomError | None:
    """Take a request's counter, or return why the request must not have any effect.

    A counter that grows is taken, and an exact repeat of the last request, which every route answers alike. The caller
    raises what is returned after the transaction, which may have quarantined the device.
    """
    columns = (device.c.counter, device.c.last_request, device.c.behind, device.c.behind_counter, device.c.state)
    row = connection.execute(select(*columns).where(device.c.device == request.device).with_for_update()).one()
    if request.counter > row.counter or (request.counter == row.counter and request.digest == row.last_request):
        values = {"counter": request.counter, "last_request": request.digest, "last_seen_s": request.now_s}
        connection.execute(update(device).where(device.c.device == request.device).values(values))
        return None
    lately = row.counter - row.behind_counter <= FORGET_BEHIND_AFTER
    behind = row.behind + 1 if lately else 1
    values = {"behind": behind, "behind_counter": row.counter, "last_seen_s": request.now_s}
    connection.execute(update(device).where(device.c.device == request.device).values(values))
    reason = ""
    if request.counter == row.counter:
        reason = f"two different requests had counter {request.counter}"
    elif behind > MAX_BEHIND:
        reason = f"{behind} requests lately had counters of the past"
    if reason and row.state == "active":
        set_state(connection, request.device, "quarantined", reason, request.now_s, actor="server")
    return Conflict(
        "replayed-request",
        "A newer request of this device was already answered.",
        "if two agents run with one identity, stop one",
    )


def set_state(
    connection: Connection, name: str, state: State, reason: str, now_s: float, *, actor: str = "operator"
) -> None:
    """Change whether a device may take part, and record it.

    Raises:
        Missing: ``device-unknown``.
        Conflict: ``device-revoked``: who is revoked stays so.
    """
    query = select(device.c.state, device.c.task).where(device.c.device == name).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("device-unknown", f"There is no device {name!r}.", "see fedloom-server device list")
    if row.state == "revoked" and state != "revoked":
        raise Conflict("device-revoked", f"{name} is revoked for good.", "make a new code for it")
    if row.state == state:
        return
    values = {"state": state, "state_reason": reason, "behind": 0}
    connection.execute(update(device).where(device.c.device == name).values(values))
    action = {"active": "reinstated", "quarantined": "quarantined", "revoked": "revoked"}[state]
    audit.record(connection, now_s, actor, f"device-{action}", name, {"task": row.task, "reason": reason})


def count_vector(connection: Connection, name: str, now_s: float) -> None:
    """Note that a device's masked vector was taken."""
    values = {"vectors": device.c.vectors + 1, "last_vector_s": now_s}
    connection.execute(update(device).where(device.c.device == name).values(values))

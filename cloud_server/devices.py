"""Devices and whether they may take part: active, quarantined because two seem to be one, revoked by the operator.

An agent makes its counter durable before it uses a number, sends one request after another, and repeats one byte for
byte until it is answered. So one counter in two different requests means that two agents have one identity, for
instance those of a copied SD card. A counter of the past alone does not: a request may have been late. But a second
agent, whose own counter runs behind, sends them again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, bindparam, exists, select, update

from cloud_server import audit
from cloud_server.beside import beside_other_requests, let_others_come
from cloud_server.device_keys import lock_forming, note_use, replace_key, superseded, unknown
from cloud_server.storage.database import REVISION_ROW, Database
from cloud_server.storage.schema import device, invitation
from shared.errors import Conflict, FedloomError, Missing, Refused, Unauthenticated
from shared.wire.signed import Certificate

KNOWN: Final = (
    device.c.device,
    device.c.task,
    device.c.counter,
    device.c.last_request,
    device.c.behind,
    device.c.behind_counter,
    device.c.state,
    device.c.version,
    device.c.code_group,
    device.c.memory_mib,
    device.c.declined,
    device.c.vectors,
    device.c.contributions,
    device.c.last_contribution_s,
    device.c.identity_key,
    device.c.serial,
    exists()
    .where(
        invitation.c.task == device.c.task,
        invitation.c.purpose == "training",
        invitation.c.device == device.c.device,
    )
    .label("invited"),
    REVISION_ROW.scalar_subquery().label("revision"),  # at which this was read
)  # columns that requests are answered from
# Made once: building a statement takes as long as running it.
_LOOK: Final = select(*KNOWN).where(device.c.device == bindparam("name"))
# In the order of names, so that no two processes wait for each other's rows.
_READ: Final = (
    select(*KNOWN)
    .where(device.c.device.in_(bindparam("names", expanding=True)))
    .order_by(device.c.device)
    .with_for_update(of=device)
)
_TAKE: Final = (
    update(device)
    .where(device.c.device == bindparam("name"))
    .values(counter=bindparam("new_counter"), last_request=bindparam("new_request"), last_seen_s=bindparam("seen_s"))
)
MAX_BEHIND: Final = 8  # requests with counters of the past, before two agents are suspected
FORGET_BEHIND_AFTER: Final = 1000  # counters without another one, after which they are forgotten
Outcome = Row[*tuple[Any, ...]] | Exception
State = Literal["active", "quarantined", "revoked"]


@dataclass(frozen=True)
class Request:
    """What a verified request says of itself.

    Attributes:
        device: the pseudonym.
        counter: that the device gave it.
        digest: hexadecimal, of what was signed.
        now_s: when it came.
        identity_key: that signed it, 32 octets.
        certificate: of that key, where the request shows it.
    """

    device: str
    counter: int
    digest: str
    now_s: float
    identity_key: bytes
    certificate: Certificate | None = None

    def has_key_of(self, row: Row[*tuple[Any, ...]]) -> bool:
        """Say whether the key that signed it is the one in a device's row, or one that is to follow that."""
        newer = self.certificate is not None and self.certificate.serial > row.serial
        return newer or bool(self.identity_key == row.identity_key)


def _inactive(state: State) -> FedloomError:
    """Return the error for a device that may not take part."""
    if state == "revoked":
        return Unauthenticated("device-revoked", "The operator has revoked this device.", "ask for a new code")
    return Refused(
        "identity-quarantined",
        "Two agents have used this device's identity, so neither may take part.",
        "on each device run `fedloom-agent leave`, and enrol it with a code of its own",
    )


def look_up(connection: Connection, name: str) -> Row[*tuple[Any, ...]]:
    """Return what is known (``KNOWN``) of a device that exists."""
    return connection.execute(_LOOK, {"name": name}).one()


def accept(connection: Connection, requests: Sequence[Request]) -> list[Outcome]:
    """Take the counters of requests, and return each one's row of ``KNOWN``, or why it must not have any effect.

    A counter that grows is taken, and an exact repeat of the last request, which every route answers alike. The caller
    raises what is returned after the transaction, which may have quarantined devices.

    Args:
        connection: of the transaction.
        requests: verified ones, each of another device.
    """
    rows = {row.device: row for row in connection.execute(_READ, {"names": [request.device for request in requests]})}
    taken: list[dict[str, object]] = []
    outcomes: list[Outcome] = []
    for request in requests:
        row = rows.get(request.device)
        if row is None:
            outcomes.append(unknown())
        elif row.state != "active":
            outcomes.append(_inactive(row.state))
        elif not request.has_key_of(row):
            note_use(connection, request.device, request.identity_key, request.now_s)
            outcomes.append(superseded())
        elif _is_next(request, row):
            values = {"new_counter": request.counter, "new_request": request.digest, "seen_s": request.now_s}
            taken.append({"name": request.device, **values})
            outcomes.append(row)
        else:
            outcomes.append(_suspect(connection, request, row))
    if taken:
        connection.execute(_TAKE, taken)
    return outcomes


def take_key(connection: Connection, request: Request, certificate: Certificate) -> Outcome:
    """Take a request that shows its ``certificate``, and let the key in that count if it is a newer one.

    Args:
        connection: of a transaction of its own.
        request: signed by that key.
        certificate: of the authority, for this device.

    Returns:
        As ``accept``; the row is as it was before.
    """
    lock_forming(connection, certificate.task)
    (outcome,) = accept(connection, [replace(request, certificate=certificate)])
    if not isinstance(outcome, Exception) and certificate.serial > outcome.serial:
        replace_key(connection, outcome, certificate, request.now_s)
    return outcome


def require_active(connection: Connection, name: str) -> None:
    """Refuse a device that may not take part.

    Raises:
        Unauthenticated: ``unknown-device``, ``device-revoked``.
        Refused: ``identity-quarantined``.
    """
    state = connection.execute(select(device.c.state).where(device.c.device == name)).scalar_one_or_none()
    if state is None:
        raise unknown()
    if state != "active":
        raise _inactive(state)


def _is_next(request: Request, row: Row[*tuple[Any, ...]]) -> bool:
    """Say whether a request has a counter of its own, or is the last one again."""
    return bool(
        request.counter > row.counter or (request.counter == row.counter and request.digest == row.last_request)
    )


def _suspect(connection: Connection, request: Request, row: Row[*tuple[Any, ...]]) -> Conflict:
    """Note a request with a counter of the past, which a second agent with the same identity may have sent."""
    lately = row.counter - row.behind_counter <= FORGET_BEHIND_AFTER
    behind = row.behind + 1 if lately else 1
    values = {"behind": behind, "behind_counter": row.counter, "last_seen_s": request.now_s}
    connection.execute(update(device).where(device.c.device == request.device).values(values))
    reason = ""
    if request.counter == row.counter:
        reason = f"two different requests had counter {request.counter}"
    elif behind > MAX_BEHIND:
        reason = f"{behind} requests lately had counters of the past"
    if reason:
        set_state(connection, request.device, "quarantined", reason, request.now_s, actor="server")
    return Conflict(
        "replayed-request",
        "A newer request of this device was already answered.",
        "if two agents run with one identity, stop one",
    )


class Acceptor:
    """Takes the counters of one process's requests, those that came at once in one transaction.

    Making a transaction durable takes longer than all else about a small request, and no longer for a batch, whose rows
    are also read and written at once. While one batch is made durable, the next one gathers.

    Args:
        database: of the aggregator; in a web process nobody else uses it, for another thread does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._busy = False  # one of them leads: it takes those who wait, and lets the first of the rest lead

    def accept(self, request: Request) -> Row[*tuple[Any, ...]]:
        """Take a verified request's counter, durably, and return its device's row.

        Raises:
            FedloomError: as ``accept`` returns.
        """
        mine = _Waiting(request)
        with self._guard:
            self._waiting.append(mine)
            if not self._busy:
                self._busy = True
                mine.turn.set()
        try:
            mine.turn.wait()
        except BaseException:  # whoever waits may be ended, as a greenlet of a lost connection is
            self._give_up(mine)
            raise
        if mine.outcome is None:
            self._lead(mine)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        if mine.outcome is None:
            raise TypeError("a request was not taken with its batch")
        return mine.outcome

    def _lead(self, mine: _Waiting) -> None:
        """Take whoever waits, the caller among them, and let the next one lead, also where the caller is ended."""
        batch: list[_Waiting] = []
        try:
            let_others_come()
            with self._guard:
                batch = self._next_batch()
            beside_other_requests(partial(self._take, batch))
        finally:
            with self._guard:
                mine.is_gone = mine.outcome is None
                for one in batch:
                    if one.outcome is not None:
                        one.turn.set()
                self._waiting[:0] = [one for one in batch if one.outcome is None]
                self._hand_on()

    def _give_up(self, mine: _Waiting) -> None:
        """Let nobody wait for a request whose thread is ended."""
        with self._guard:
            mine.is_gone = True
            if mine.outcome is None and mine.turn.is_set():  # it was to lead
                self._hand_on()

    def _hand_on(self) -> None:
        """Let the first of those who wait lead."""
        self._waiting = [one for one in self._waiting if not one.is_gone]
        self._busy = bool(self._waiting)
        for one in self._waiting[:1]:
            one.turn.set()

    def _next_batch(self) -> list[_Waiting]:
        """Return whoever waits, but of each device the first request alone."""
        batch: dict[str, _Waiting] = {}
        self._waiting = [one for one in self._waiting if batch.setdefault(one.request.device, one) is not one]
        return list(batch.values())

    def _take(self, batch: list[_Waiting]) -> None:
        try:
            with self._database.write() as connection:
                outcomes = accept(connection, [one.request for one in batch])
        except Exception as error:  # noqa: BLE001  # raised again by each request of the batch
            outcomes = [error for _ in batch]
        for one, outcome in zip(batch, outcomes, strict=True):
            one.outcome = outcome


@dataclass
class _Waiting:
    request: Request
    outcome: Outcome | None = None
    turn: threading.Event = field(default_factory=threading.Event)  # to have an outcome, or to lead
    is_gone: bool = False  # nobody waits for it


def set_state(
    connection: Connection, name: str, state: State, reason: str, now_s: float, *, actor: str = "operator"
) -> None:
    """Change whether a device may take part, and record it.

    Raises:
        Missing: ``device-unknown``.
        Conflict: ``device-revoked``: who is revoked stays so; ``already-revoked``, ``already-quarantined`` and
            ``already-active``: somebody else was first, and the reason given now is not recorded.
    """
    query = select(device.c.state, device.c.task).where(device.c.device == name).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Missing("device-unknown", f"There is no device {name!r}.", "see fedloom-server device list")
    if row.state == "revoked" and state != "revoked":
        raise Conflict("device-revoked", f"{name} is revoked for good.", "make a new code for it")
    if row.state == state:
        raise _already(name, state)
    values = {"state": state, "state_reason": reason, "behind": 0}
    connection.execute(update(device).where(device.c.device == name).values(values))
    action = {"active": "reinstated", "quarantined": "quarantined", "revoked": "revoked"}[state]
    audit.record(connection, now_s, actor, f"device-{action}", name, {"task": row.task, "reason": reason})


def _already(name: str, state: State) -> Conflict:
    remedy = "nothing was changed; see `fedloom-server audit list` for who did it"
    if state == "revoked":
        return Conflict("already-revoked", f"{name} is revoked already.", remedy)
    if state == "quarantined":
        return Conflict("already-quarantined", f"{name} is quarantined already.", remedy)
    return Conflict("already-active", f"{name} is active already.", remedy)


def count_vector(connection: Connection, name: str, now_s: float) -> None:
    """Note that a device's masked vector was taken."""
    values = {"vectors": device.c.vectors + 1, "last_vector_s": now_s}
    connection.execute(update(device).where(device.c.device == name).values(values))

"""Which key a device has, and which ones it had: a newer one is taken with the authority's word, and the others end.

A device never uses a key again once its next one was sent here. Whoever does has a copy of the identity, or is the
device whose identity somebody else copied and renewed first; which of the two, nothing can tell. So a former key has
no effect at all, it cannot even quarantine the device, but the operator is told (``identity-cloned``).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, desc, insert, select, update

from cloud_server import audit
from cloud_server.rounds.machine import Phase
from cloud_server.storage.database import Database
from cloud_server.storage.schema import cohort, device, former_key, step
from shared.errors import Unauthenticated
from shared.limits import MAX_FORMER_KEYS_TRIED
from shared.wire.signed import Certificate, verify

MAX_REMEMBERED_KEYS: Final = 100_000
_KEY: Final = select(device.c.identity_key).where(device.c.device == bindparam("name"))


class IdentityKeys:
    """The keys of devices that sent requests lately.

    A process may remember a key that another one has replaced. So ``accept`` compares it with the stored one, in the
    transaction that takes the request's counter, and who finds that a signature does not match asks ``newest``.

    Args:
        database: of the aggregator.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, bytes] = {}

    def of(self, name: str) -> bytes:
        """Return a device's Ed25519 public key, 32 octets, as far as this process knows.

        Raises:
            Unauthenticated: ``unknown-device``.
        """
        return self._keys.get(name) or self.newest(name)

    def newest(self, name: str) -> bytes:
        """Return a device's key as it is stored now; raises as ``of``."""
        with self._database.read() as connection:
            key: bytes | None = connection.execute(_KEY, {"name": name}).scalar_one_or_none()
        if key is None:
            raise unknown()
        if len(self._keys) >= MAX_REMEMBERED_KEYS:
            self._keys.clear()
        self._keys[name] = key
        return key

    def former(self, name: str, message: bytes, signature: bytes) -> bytes | None:
        """Return the former key of a device that made a signature, None if none of its newest ones did."""
        query = select(former_key.c.identity_key).where(former_key.c.device == name).order_by(desc(former_key.c.serial))
        with self._database.read() as connection:
            keys = connection.execute(query.limit(MAX_FORMER_KEYS_TRIED)).scalars().all()
        return next((key for key in keys if made_by(key, message, signature)), None)

    def is_former(self, certificate: Certificate) -> bool:
        """Say whether a device has a newer certificate than ``certificate``; False for an unknown one."""
        query = select(device.c.serial).where(device.c.device == certificate.device)
        with self._database.read() as connection:
            serial: int | None = connection.execute(query).scalar_one_or_none()
        return serial is not None and serial > certificate.serial

    def forget(self, name: str) -> None:
        """Ask the database for a device's key the next time."""
        self._keys.pop(name, None)


def made_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether ``key`` made the signature of a request."""
    try:
        verify(key, message, signature, "the request")
    except Unauthenticated:
        return False
    return True


def unknown() -> Unauthenticated:
    """Return the error for a device that never showed a certificate here."""
    return Unauthenticated("unknown-device", "The server does not know this device.", "enrol it with a new code")


def superseded() -> Unauthenticated:
    """Return the error for a key, or a certificate, that a newer one has replaced."""
    return Unauthenticated(
        "key-superseded",
        "This device has a newer key than this one, which therefore counts no more.",
        "unless this is an old copy of the device's state, somebody else has its identity: tell the operator, and then"
        " `fedloom-agent leave` and enrol with a new code",
    )


def note_use(connection: Connection, name: str, key: bytes, now_s: float) -> None:
    """Tell the operator that a former key signed a request, the first time."""
    this = former_key.c.device == name, former_key.c.identity_key == key
    query = select(former_key.c.serial, former_key.c.used_s).where(*this).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or row.used_s:
        return
    connection.execute(update(former_key).where(*this).values(used_s=now_s))
    reason = "a key was used after a newer one had come: two agents have had this identity"
    audit.record(connection, now_s, "server", "identity-cloned", name, {"serial": row.serial, "reason": reason})


def replace_key(connection: Connection, row: Row[*tuple[Any, ...]], certificate: Certificate, now_s: float) -> None:
    """Let only the key in ``certificate`` count for a device from now on.

    Its join message in a cohort that still forms, which has the former certificate, is taken out. Where the roster is
    fixed, the device is missed: it renews its key between cohorts only.

    Args:
        connection: of a transaction that has locked the device, and before that the cohorts (``lock_forming``).
        row: of the device, as it was.
        certificate: newer than the stored one.
        now_s: the time.
    """
    former = {"device": row.device, "serial": row.serial, "identity_key": row.identity_key}
    connection.execute(insert(former_key).values(**former, until_s=now_s))
    values = {
        "certificate": certificate.signed.to_bytes(),
        "identity_key": certificate.identity_key,
        "serial": certificate.serial,
        "key_since_s": now_s,
    }
    connection.execute(update(device).where(device.c.device == row.device).values(values))
    forming = select(cohort.c.id).where(cohort.c.task == row.task, cohort.c.phase == Phase.FORMING.value)
    own = step.c.device == row.device, step.c.step == "join", step.c.cohort.in_(forming)
    connection.execute(delete(step).where(*own))
    detail = {"task": row.task, "serial": certificate.serial, "serial_before": row.serial}
    audit.record(connection, now_s, "device", "device-key-renewed", row.device, detail)


def lock_forming(connection: Connection, task: str) -> None:
    """Let no device join a task's cohort before this transaction ends; before a device is locked, as joining does."""
    query = select(cohort.c.id).where(cohort.c.task == task, cohort.c.phase == Phase.FORMING.value)
    connection.execute(query.with_for_update()).all()


def require_newest(connection: Connection, name: str, identity_key: bytes) -> None:
    """Refuse a certificate whose key is not the one that counts.

    Raises:
        Unauthenticated: ``key-superseded``.
    """
    if connection.execute(_KEY, {"name": name}).scalar_one() != identity_key:
        raise superseded()

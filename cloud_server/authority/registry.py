"""Codes are minted and redeemed here, each once; every certificate and every graph's seed enters an append-only log."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, desc, insert, select, update

from cloud_server.authority.renewal import already_renewed, verified_renewal
from cloud_server.settings import AUTHORITY_KEY_FILE, load_or_create_key
from cloud_server.storage.database import Database, sqlite_url
from cloud_server.storage.revisions import AUTHORITY
from cloud_server.storage.schema import certificate_log, code, seed_log
from shared.clock import Clock
from shared.errors import Conflict, Refused, UsageError
from shared.ids import random_id, require_name
from shared.limits import MAX_FORMER_KEYS_TRIED, MIN_RENEWAL_INTERVAL_S
from shared.release_key import ReleaseKey, certify_release_key
from shared.root import SECRET_BYTES, Root
from shared.secagg.graph_seed import SEED_BYTES, GraphSeed
from shared.wire.canonical import sha256
from shared.wire.messages import EnrolRequest, RenewalRequest
from shared.wire.requests import enrolment_message
from shared.wire.signed import Certificate, Signed, verify

DATABASE_FILE: Final = "authority.db"
CERTIFICATE_VALID_S = 5 * 365 * 86400
MAX_CODES = 100_000


class Authority:
    """The enrolment authority of one deployment.

    Args:
        folder: holds its key and database.
        clock: the time.
        random_bytes: the operating system's randomness.
    """

    def __init__(self, folder: Path, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._key = load_or_create_key(folder / AUTHORITY_KEY_FILE)
        self._database = Database(sqlite_url(folder / DATABASE_FILE), AUTHORITY)
        self._clock = clock
        self._random_bytes = random_bytes

    @property
    def database(self) -> Database:
        """Its codes and logs."""
        return self._database

    @property
    def public_key(self) -> bytes:
        """Ed25519 key that verifies certificates, 32 octets."""
        return self._key.public

    def root(self, release_key: bytes, tls_root_pem: str) -> Root:
        """Return the root document of an aggregator that redeems codes itself."""
        return Root(self.public_key, release_key, tls_root_pem)

    def tasks(self) -> list[str]:
        """Return the names of the tasks for which codes were made."""
        with self._database.read() as connection:
            return list(connection.execute(select(code.c.task).distinct().order_by(code.c.task)).scalars())

    def mint(self, task: str, *, count: int, valid_s: float, group: str = "") -> list[bytes]:
        """Return ``count`` secrets, each good for one device of ``task`` until it expires; only hashes are kept.

        Args:
            task: the task's name.
            count: how many.
            valid_s: for how long, in seconds.
            group: that the devices will belong to, empty for none.

        Raises:
            UsageError: ``bad-count`` or ``bad-name``.
        """
        require_name(task, "the task")
        if group:
            require_name(group, "the group")
        if not 1 <= count <= MAX_CODES:
            raise UsageError("bad-count", f"{count} codes were asked for, 1 to {MAX_CODES} are possible.")
        now_s = self._clock.now_s()
        secrets = [self._random_bytes(SECRET_BYTES) for _ in range(count)]
        rows = [
            {
                "secret_sha256": sha256(secret),
                "task": task,
                "created_s": now_s,
                "expires_s": now_s + valid_s,
                "code_group": group,
            }
            for secret in secrets
        ]
        with self._database.write() as connection:
            connection.execute(insert(code), rows)
        return secrets

    def redeem(self, request: EnrolRequest, fingerprint: bytes) -> Certificate:
        """Return the certificate for a code; the same key with the same code gets the same one again.

        Args:
            request: from the device.
            fingerprint: of the root document that the code pins.

        Raises:
            Unauthenticated: ``bad-signature`` without proof of the identity key.
            Refused: ``code-unknown``, ``code-revoked`` or ``code-expired``.
            Conflict: ``code-used`` by another key.
        """
        message = enrolment_message(fingerprint, request.secret, request.identity_key)
        verify(request.identity_key, message, request.proof, "the enrolment request")
        digest = sha256(request.secret)
        with self._database.write() as connection:
            row = connection.execute(select(code).where(code.c.secret_sha256 == digest)).one_or_none()
            if row is None:
                raise Refused("code-unknown", "The server does not know this enrolment code.", "ask for a new code")
            if row.identity_key is not None:
                return self._again(row.identity_key, row.certificate, request.identity_key)
            if row.revoked_s is not None:
                raise Refused("code-revoked", "This enrolment code was revoked.", "ask for a new code")
            if row.expires_s < self._clock.now_s():
                raise Refused("code-expired", "This enrolment code has expired.", "ask for a new code")
            return self._issue(connection, row, request.identity_key)

    def _again(self, used_by: bytes, certificate: bytes, identity_key: bytes) -> Certificate:
        if used_by != identity_key:
            raise Conflict("code-used", "This enrolment code was used by another device.", "ask for a new code")
        return Certificate.verified(Signed.from_bytes(certificate), self.public_key)

    def _issue(self, connection: Connection, redeemed: Row[Any], identity_key: bytes) -> Certificate:
        certificate = self._log(
            connection,
            task=redeemed.task,
            group=redeemed.code_group,
            device=random_id("device", self._random_bytes),
            identity_key=identity_key,
        )
        connection.execute(
            update(code)
            .where(code.c.secret_sha256 == redeemed.secret_sha256)
            .values(device=certificate.device, identity_key=identity_key, certificate=certificate.signed.to_bytes())
        )
        return certificate

    def _log(
        self, connection: Connection, *, task: str, group: str, device: str, identity_key: bytes, serial: int = 0
    ) -> Certificate:
        """Sign a certificate and write it into the log."""
        now_s = self._clock.now_s()
        certificate = Certificate.issue(
            self._key,
            task=task,
            device=device,
            identity_key=identity_key,
            expires_at_s=int(now_s) + CERTIFICATE_VALID_S,
            group=group,
            serial=serial,
        )
        values = {"device": device, "serial": serial, "body": certificate.signed.to_bytes(), "issued_s": now_s}
        connection.execute(insert(certificate_log).values(**values))
        return certificate

    def renew(self, request: RenewalRequest, fingerprint: bytes) -> Certificate:
        """Return the certificate of a device's next key; the same request gets the same one again.

        Args:
            request: from the device.
            fingerprint: of the root document that it pins.

        Raises:
            Unauthenticated: ``bad-signature``, or ``key-superseded`` unless the certificate is the device's newest.
            Refused: ``certificate-unknown``, ``expired-certificate``, ``too-many-keys``, ``renewed-lately``.
            Conflict: ``used-key``.
        """
        current = verified_renewal(request, fingerprint, self.public_key)
        query = select(certificate_log).where(certificate_log.c.device == current.device)
        with self._database.write() as connection:
            newest = query.order_by(desc(certificate_log.c.serial)).limit(1 + MAX_FORMER_KEYS_TRIED)
            log = connection.execute(newest).all()
            if not log or current.serial > log[0].serial:
                raise Refused(
                    "certificate-unknown",
                    "The authority's log does not have this device's certificate: its database is an older copy.",
                    "ask its operator to restore a newer one; the device goes on with its key",
                )
            issued = [Certificate.verified(Signed.from_bytes(row.body), self.public_key) for row in log]
            if issued[0].serial == current.serial + 1 and issued[0].identity_key == request.identity_key:
                return issued[0]
            if issued[0].signed.body != current.signed.body:
                raise already_renewed()
            self._require_renewable(issued, request.identity_key, log[0].issued_s)
            return self._log(
                connection,
                task=current.task,
                group=current.group,
                device=current.device,
                identity_key=request.identity_key,
                serial=current.serial + 1,
            )

    def _require_renewable(self, issued: list[Certificate], identity_key: bytes, issued_s: float) -> None:
        now_s = self._clock.now_s()
        if issued[0].expires_at_s < now_s:
            raise Refused("expired-certificate", "The certificate has expired.", "enrol with a new code")
        if any(certificate.identity_key == identity_key for certificate in issued):
            raise Conflict("used-key", "The device has had this key lately.", "make a new one")
        wait_s = issued_s + MIN_RENEWAL_INTERVAL_S - now_s
        if issued[0].serial and 0 < wait_s <= MIN_RENEWAL_INTERVAL_S:  # the first renewal may follow at once
            raise Refused(
                "renewed-lately",
                "This device's key was renewed not long ago, and every one stays in the log.",
                f"try again in {math.ceil(wait_s / 60)} minutes",
            )

    def certify_release_key(self, key: ReleaseKey) -> Signed:
        """Return this authority's word that an aggregator's releases are signed by ``key`` from now on."""
        return certify_release_key(self._key, key, self._clock.now_s())

    def draw_seed(self, cohort: str, roster_root: bytes) -> Signed:
        """Return the seed of a cohort's graph: drawn once, the same again for the same roster, never for another.

        Args:
            cohort: the cohort's id.
            roster_root: Merkle root of its fixed roster, 32 octets.

        Raises:
            UsageError: ``bad-name``.
            Conflict: ``seed-drawn`` for another roster; a server that could ask twice would choose.
        """
        require_name(cohort, "the cohort")
        with self._database.write() as connection:
            row = connection.execute(select(seed_log).where(seed_log.c.cohort == cohort)).one_or_none()
            if row is not None and row.roster_root != roster_root:
                raise Conflict("seed-drawn", "This cohort's seed was drawn for another roster.", "form a new cohort")
            if row is not None:
                return Signed.from_bytes(row.body)
            seed = self._random_bytes(SEED_BYTES)
            drawn = GraphSeed.issue(self._key, cohort=cohort, roster_root=roster_root, seed=seed).signed
            values = {"cohort": cohort, "roster_root": roster_root, "body": drawn.to_bytes()}
            connection.execute(insert(seed_log).values(**values, drawn_s=self._clock.now_s()))
            return drawn

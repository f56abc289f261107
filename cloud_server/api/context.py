"""What every route needs, made once per process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from flask import current_app
from sqlalchemy import Connection

from cloud_server.audit import Anchor
from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import RemoteAuthority
from cloud_server.device_keys import IdentityKeys
from cloud_server.devices import Acceptor
from cloud_server.rounds.assigning import Assigner
from cloud_server.settings import DataFolder
from cloud_server.storage.blobs import BlobStore, UploadStore
from cloud_server.storage.database import Database, Revisions
from shared.clock import Clock
from shared.root import Root

EXTENSION = "fedloom"


@dataclass(frozen=True)
class Context:
    """The parts of one aggregator.

    Attributes:
        folder: where it keeps things.
        database: rounds, devices, versions.
        revisions: tells held requests when to look again.
        blobs: files of releases.
        uploads: masked vectors.
        authority: enrolment and graphs' seeds, in this process or far away.
        root: the document that codes pin.
        anchor: the end of the audit log, outside the database.
        clock: the time.
        assigner: what devices do next.
        acceptor: takes requests' counters.
        identity_keys: of devices that sent requests lately.
    """

    folder: DataFolder
    database: Database
    revisions: Revisions
    blobs: BlobStore
    uploads: UploadStore
    authority: Authority | RemoteAuthority
    root: Root
    anchor: Anchor
    clock: Clock
    assigner: Assigner
    acceptor: Acceptor
    identity_keys: IdentityKeys

    @contextmanager
    def recorded(self) -> Iterator[Connection]:
        """Run a transaction that is durable when the block ends, and anchor the audit entries that it made."""
        with self.database.write() as connection:
            yield connection
        self.anchor_audit()

    def anchor_audit(self) -> None:
        """Write the audit log's end down outside the database."""
        with self.database.read() as connection:
            self.anchor.extend(connection)


def context() -> Context:
    """Return the running application's parts."""
    return cast("Context", current_app.extensions[EXTENSION])

"""A device that leaves tells its server, so that nobody with a copy of its key takes part in its name.

It is told once, with no patience: a device without a network leaves all the same. What is uninstalled cannot tell
anybody any more, so the request is written down before, signed, for whoever deletes the state (see packaging/postrm).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge_client.durable import write_durably
from edge_client.identity import load_identity
from edge_client.journal import Journal
from edge_client.state_folder import StateFolder
from edge_client.transport import Signer, Transport, pinned_pool
from shared.clock import SystemClock
from shared.errors import FedloomError, Unauthenticated
from shared.wire.requests import JSON, LEAVE

METHOD: Final = "POST"
GONE: Final = frozenset({"device-revoked", "unknown-device"})


@contextmanager
def _speaking(folder: StateFolder) -> Iterator[tuple[Transport, str, str]]:
    """Return the way to the server, its address and its TLS root."""
    identity = load_identity(folder)
    enrolment = identity.enrolment
    root = enrolment.root.tls_root_pem
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        signer = Signer(enrolment.fingerprint, enrolment.device, identity.key, journal.next_counter)
        transport = Transport(
            enrolment.url, pinned_pool(root), signer=signer, clock=SystemClock(), jitter=random.random
        )
        try:
            yield transport, enrolment.url, root
        finally:
            transport.close()
    finally:
        journal.close()


def tell_server(folder: StateFolder) -> None:
    """Have this device revoked; one attempt, which the transport's time limits bound.

    Raises:
        FedloomError: why the server does not know.
    """
    with _speaking(folder) as (transport, _url, _root):
        try:
            transport.send_once(METHOD, LEAVE, b"", content_type=JSON, counts_as="other_up", headers={})
        except Unauthenticated as error:
            if error.code not in GONE:
                raise


def write_departure(folder: StateFolder) -> None:
    """Write the signed request down; with the next request that the agent makes it is worth nothing any more.

    Raises:
        FedloomError: what the request needs is missing or damaged, or ``disk-write-failed``.
    """
    with _speaking(folder) as (transport, url, root):
        request = {"method": METHOD, "url": url + LEAVE, "tls_root": root, "headers": transport.signed(METHOD, LEAVE)}
    write_durably(folder.departure_file, json.dumps(request).encode())

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
from edge_client.identity import Enrolment, load_identity
from edge_client.journal import Journal
from edge_client.state_folder import StateFolder
from edge_client.transport import Signer, Transport, pinned_pool
from shared.clock import SystemClock
from shared.errors import Unauthenticated
from shared.wire.canonical import encode
from shared.wire.requests import JSON, LEAVE

METHOD: Final = "POST"
GONE: Final = frozenset({"device-revoked", "unknown-device"})


@contextmanager
def _speaking(folder: StateFolder) -> Iterator[tuple[Transport, Enrolment, bytes]]:
    """Return the way to the server, what leads there, and what to send."""
    identity = load_identity(folder)
    enrolment = identity.enrolment
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        signer = Signer(enrolment.fingerprint, enrolment.device, identity.key, journal.next_counter)
        transport = Transport(
            enrolment.url,
            pinned_pool(enrolment.root.tls_root_pem),
            signer=signer,
            clock=SystemClock(),
            jitter=random.random,
        )
        try:
            yield transport, enrolment, encode({"device": enrolment.device})
        finally:
            transport.close()
    finally:
        journal.close()


def tell_server(folder: StateFolder) -> None:
    """Have this device revoked; one attempt, which the transport's time limits bound.

    Raises:
        FedloomError: why the server does not know.
    """
    with _speaking(folder) as (transport, _enrolment, body):
        try:
            transport.send_once(METHOD, LEAVE, body, content_type=JSON, counts_as="other_up", headers={})
        except Unauthenticated as error:
            if error.code not in GONE:
                raise


def write_departure(folder: StateFolder) -> None:
    """Write the signed request down; with the next request that the agent makes it is worth nothing any more.

    Raises:
        FedloomError: what the request needs is missing or damaged, or ``disk-write-failed``.
    """
    with _speaking(folder) as (transport, enrolment, body):
        request = {
            "method": METHOD,
            "url": enrolment.url + LEAVE,
            "tls_root": enrolment.root.tls_root_pem,
            "headers": {"Content-Type": JSON, **transport.signed(METHOD, LEAVE, body)},
            "body": body.decode(),
        }
    write_durably(folder.departure_file, json.dumps(request).encode())

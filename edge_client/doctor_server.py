"""Ask the server for its root document, and what time it is there."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from urllib3.exceptions import HTTPError

from edge_client.identity import Enrolment
from edge_client.problems import not_the_server, problem
from edge_client.transport import Transport, pinned_pool
from shared.clock import Clock
from shared.errors import Refused
from shared.limits import MAX_JSON_BYTES
from shared.wire.canonical import sha256
from shared.wire.requests import ROOT


def ask_server(enrolment: Enrolment, clock: Clock) -> float | None:
    """Return the server's time, seconds since the epoch, as HTTPS brings it; None where it says none.

    Raises:
        TryLater: ``no-connection``, ``captive-portal``, ``not-the-server``, ``clock-wrong``, ``too-slow``.
        Refused: ``wrong-root`` where it is another server than the one that the enrolment code pinned.
    """
    pool = pinned_pool(enrolment.root.tls_root_pem)
    transport = Transport(enrolment.url, pool, signer=None, clock=clock, jitter=random.random)
    try:
        with transport.open("GET", ROOT, transport.signed("GET", ROOT)) as response:
            date, status = response.headers.get("Date"), response.status
            body = transport.read(response, MAX_JSON_BYTES)
    except (HTTPError, OSError) as error:
        raise transport.unreachable(error) from error
    finally:
        transport.close()
    if status >= HTTPStatus.BAD_REQUEST:
        raise problem(status, body)
    if status != HTTPStatus.OK or not body.startswith(b"{"):
        raise not_the_server(f"status {status}, and no root document")
    if sha256(body) != enrolment.fingerprint:
        raise Refused(
            "wrong-root",
            "The server's root document is not the one that this device's enrolment code pinned.",
            "ask the operator whether it was set up anew; then `fedloom-agent leave` and a new code",
        )
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None

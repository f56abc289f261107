"""Send a masked vector: in one request, or from the byte on where the server's part of it ends."""

from __future__ import annotations

from edge_client.problems import CohortOver, NotNow, VersionClosed
from edge_client.transport import ATTEMPTS, Transport
from shared.clock import Clock
from shared.errors import Conflict, FedloomError, TryLater
from shared.wire.canonical import octets_to_text, sha256
from shared.wire.messages import read_received
from shared.wire.requests import INBOX_HEADER, OCTETS, vector_target

_ASK_AGAIN = frozenset({"wrong-offset", "upload-damaged"})  # the server holds less than this device thought


def send_vector(
    transport: Transport, target: str, vector: bytes, signed_inbox: bytes, until_s: float, clock: Clock
) -> None:
    """Send ``vector`` until the server has all of it.

    Args:
        transport: the way to the server.
        target: the path of the cohort's step.
        vector: the same bytes in every attempt: once one left, the update behind them is spent.
        signed_inbox: whose boxes are in it; goes with every request.
        until_s: attempts without progress go on until then (seconds since the epoch), and at least ``ATTEMPTS`` times.
        clock: for ``until_s``.

    Raises:
        TryLater: ``no-connection``, ``not-the-server`` or the server's code, after every attempt failed.
        FedloomError: the error that the server named.
    """
    whole_sha256 = sha256(vector).hex()
    headers = {INBOX_HEADER: octets_to_text(signed_inbox)}
    held = failures = 0
    busy, busy_until_s = False, transport.busy_until_s(until_s)
    while held < len(vector):
        transport.back_off(failures)
        if failures and not busy:
            asked = transport.send("GET", vector_target(target, whole_sha256), until_s=until_s)
            before, held = held, read_received(asked.body, len(vector))
            # A connection that brings a little each time is slow, not broken.
            failures = 1 if held > before else failures
        try:
            rest = target if held == 0 else vector_target(target, whole_sha256, held)
            if held < len(vector):
                transport.send_once(
                    "PUT", rest, vector[held:], content_type=OCTETS, counts_as="vector_up", headers=headers
                )
        except FedloomError as error:
            if busy := transport.come_back(error, busy_until_s):
                continue
            failures += 1
            if not _may_go_on(error) or (failures >= ATTEMPTS and clock.now_s() >= until_s):
                raise
        else:
            return


def _may_go_on(error: FedloomError) -> bool:
    if isinstance(error, Conflict):
        return error.code in _ASK_AGAIN
    return isinstance(error, TryLater) and not isinstance(error, CohortOver | NotNow | VersionClosed)

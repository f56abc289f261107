"""Ask the enrolment authority, which may be the aggregator itself or somebody else."""

from __future__ import annotations

from collections.abc import Callable

from edge_client.traffic import Traffic
from edge_client.transport import Transport, pinned_pool
from shared.clock import Clock
from shared.errors import TryLater
from shared.root import Root


def ask_authority(
    root: Root,
    url: str,
    target: str,
    body: bytes,
    clock: Clock,
    jitter: Callable[[], float],
    traffic: Traffic | None = None,
) -> bytes:
    """Return the authority's answer to an unsigned request.

    The aggregator must not see it where the authority is elsewhere: with a code's secret it could enrol a device.

    Args:
        root: says where the authority is.
        url: of the aggregator.
        target: the path.
        body: JSON.
        clock: for waiting between attempts.
        jitter: numbers in [0, 1).
        traffic: to which the bytes are added.

    Raises:
        TryLater: if it cannot be reached.
        FedloomError: that it named.
    """
    pem = root.authority_tls_root_pem if root.authority_url else root.tls_root_pem
    try:
        return post(root.authority_url or url, pem, target, body, clock, jitter, traffic)
    except TryLater as error:
        if not root.authority_url:
            raise
        raise TryLater(
            error.code,
            f"The aggregator answers; its enrolment authority at {root.authority_url} does not: {error.message}",
            error.remedy,
        ) from error


def post(
    url: str,
    pem: str,
    target: str,
    body: bytes,
    clock: Clock,
    jitter: Callable[[], float],
    traffic: Traffic | None = None,
) -> bytes:
    """Return the answer to an unsigned request over a connection of its own; arguments as ``ask_authority``."""
    transport = Transport(url, pinned_pool(pem), signer=None, clock=clock, jitter=jitter)
    try:
        return transport.send("POST", target, body).body
    finally:
        transport.close()
        if traffic is not None:
            traffic.add(transport.traffic)

"""Fetch new weights as the difference to those that this device holds: less to download, and nothing to trust."""

from __future__ import annotations

from http import HTTPStatus

from urllib3.exceptions import HTTPError

from edge_client.problems import TooSlow, problem
from edge_client.transport import ATTEMPTS, Transport
from shared.errors import FedloomError
from shared.limits import MAX_JSON_BYTES
from shared.numeric.differences import apply_difference
from shared.release import FileEntry
from shared.wire.canonical import sha256
from shared.wire.requests import BLOBS

_FILE = "weights"


def download_difference(transport: Transport, entry: FileEntry, before: bytes) -> bytes | None:
    """Return the file that ``entry`` describes, or None where the whole file has to be fetched instead.

    Args:
        transport: the way to the server.
        entry: of the new weights.
        before: the file that this device holds.
    """
    if len(before) != entry.size_bytes:
        return None
    target = f"{BLOBS}/{entry.sha256}/from/{sha256(before).hex()}"
    arrived = bytearray()
    for failures in range(ATTEMPTS):
        transport.back_off(failures)
        if _go_on(transport, target, arrived, entry.size_bytes):
            break
    try:
        return entry.check(apply_difference(before, bytes(arrived)), _FILE)
    except FedloomError:
        return None


def _go_on(transport: Transport, target: str, arrived: bytearray, max_bytes: int) -> bool:
    """Fetch what is missing of a difference; say whether there is nothing more to wait for."""
    headers = transport.signed("GET", target)
    if arrived:
        headers["Range"] = f"bytes={len(arrived)}-"
    try:
        with transport.open("GET", target, headers) as response:
            if response.status == HTTPStatus.TOO_MANY_REQUESTS:
                refusal = problem(response.status, transport.read(response, MAX_JSON_BYTES))
                transport.come_back(refusal, transport.busy_until_s(0.0))
                return False
            if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                response.drain_conn()
                arrived.clear()
                return response.status < HTTPStatus.INTERNAL_SERVER_ERROR
            if response.status == HTTPStatus.OK:
                arrived.clear()
            for piece in transport.pieces(response):
                transport.permits.piece(len(piece))
                transport.traffic.count("weights_down", len(piece))
                arrived += piece
                if len(arrived) > max_bytes:
                    response.close()
                    return True
            response.release_conn()
    except (HTTPError, OSError, TooSlow):
        return False
    return True

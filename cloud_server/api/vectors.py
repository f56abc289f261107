"""How masked vectors arrive: in one request, or in several that go on where a connection broke.

A member declares the hash of the whole vector with the first byte and never another one. What arrived stays when the
connection breaks. A request's bytes count once all of them are there and have the signed hash, the vector once the
whole has the declared one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flask import request
from werkzeug.exceptions import ClientDisconnected

from cloud_server.api.auth import caller
from cloud_server.api.context import context
from cloud_server.devices import count_vector
from cloud_server.rounds.machine import OVER
from cloud_server.rounds.records import StoredCohort, check_step, load_cohort, store_step
from cloud_server.rounds.sums import words_of
from cloud_server.storage.incoming import Incoming, wrong_offset
from cloud_server.tasks import load_task
from shared.errors import Conflict, TryLater, UsageError
from shared.limits import MAX_VECTOR_BYTES, READ_PIECE_BYTES, RECEIVE_DELAY_S, RECEIVE_PIECE_BYTES
from shared.secagg.masking import WORD_BYTES
from shared.wire.canonical import octets_from_text
from shared.wire.requests import INBOX_HEADER, OFFSET_QUERY, WHOLE_QUERY

_REST: Final = re.compile(rf"{OFFSET_QUERY}=(0|[1-9]\d{{0,9}})&{WHOLE_QUERY}=([0-9a-f]{{64}})", re.ASCII)
_ASKED: Final = re.compile(rf"{WHOLE_QUERY}=([0-9a-f]{{64}})", re.ASCII)


@dataclass(frozen=True)
class Part:
    """What a request says that its body is.

    Attributes:
        whole_sha256: hexadecimal, of the whole vector.
        offset: of the body's first byte in it.
    """

    whole_sha256: str
    offset: int


def announced_part() -> Part:
    """Return what of a vector the request brings: without a query, all of it."""
    if not request.query_string:
        return Part(caller().body_sha256, 0)
    match = _REST.fullmatch(_query())
    if match is None or int(match[1]) > MAX_VECTOR_BYTES:
        raise _bad_query(f"{OFFSET_QUERY}=N&{WHOLE_QUERY}=HASH")
    return Part(match[2], int(match[1]))


def announced_inbox() -> bytes:
    """Return what the request says of whose boxes its sender masked with.

    Raises:
        UsageError: ``no-signed-inbox``, ``bad-octets``.
    """
    text = request.headers.get(INBOX_HEADER)
    if text is None:
        raise UsageError("no-signed-inbox", f"The request has no header {INBOX_HEADER}.", "update fedloom-agent")
    return octets_from_text(text)


def asked_vector() -> str:
    """Return the hash of the vector of which a device wants to know how far it came."""
    match = _ASKED.fullmatch(_query())
    if match is None:
        raise _bad_query(f"{WHOLE_QUERY}=HASH")
    return match[1]


def _query() -> str:
    return request.query_string.decode("latin-1")


def _bad_query(form: str) -> UsageError:
    return UsageError("bad-query", f"The query is not {form}.", "use fedloom-agent")


def vector_bytes(record: StoredCohort) -> int:
    """Return the size of every masked vector of a cohort."""
    parts = context()
    with parts.database.read() as connection:
        task = load_task(connection, record.task)
    return words_of(parts.blobs, task, record) * WORD_BYTES


def receive(record: StoredCohort, part: Part, signed_inbox: bytes) -> None:
    """Add the request's body to what is there, and keep the vector, with ``signed_inbox``, once it is whole.

    Raises:
        UsageError: ``wrong-vector-length`` before anything is read; ``body-hash``.
        Conflict: ``different-repeat``, ``wrong-offset``, or ``upload-damaged`` if the whole is not what was declared.
        TryLater: ``upload-broke-off``, which nobody reads.
    """
    size_bytes = vector_bytes(record)
    _require_length(size_bytes - part.offset, size_bytes)
    incoming = context().uploads.incoming(record.id, caller().device, part.whole_sha256)
    held = incoming.held_bytes()
    if held < part.offset:
        raise wrong_offset(held)
    try:
        _add_body(incoming, part.offset, size_bytes, held)
        _require_whole(incoming, part)
        _keep(record, incoming, size_bytes, signed_inbox)
    finally:
        _forget_if_over(record, incoming)


def _require_length(expected: int, size_bytes: int) -> None:
    if expected <= 0 or request.content_length != expected:
        announced = "an unknown number of" if request.content_length is None else str(request.content_length)
        raise UsageError(
            "wrong-vector-length", f"{announced} bytes are announced, where the vector has {size_bytes} in all."
        )


def _add_body(incoming: Incoming, offset: int, size_bytes: int, held: int) -> None:
    digest, position = hashlib.sha256(), offset
    for piece in _pieces(size_bytes - offset):
        digest.update(piece)
        incoming.write(position, piece)
        position += len(piece)
    if position < size_bytes:
        raise TryLater("upload-broke-off", f"The connection broke at byte {position} of {size_bytes}.")
    if not hmac.compare_digest(digest.hexdigest(), caller().body_sha256):
        incoming.cut(held)
        raise UsageError("body-hash", "The body is not the one that was signed.")


def _pieces(expected: int) -> Iterator[bytes]:
    """Yield what arrives, in large pieces where it comes fast and soon where it does not; all of it if it breaks."""
    gathered, written_s = bytearray(), time.monotonic()
    while piece := _read(min(RECEIVE_PIECE_BYTES, expected)):
        expected -= len(piece)
        gathered += piece
        if len(gathered) >= READ_PIECE_BYTES or time.monotonic() - written_s >= RECEIVE_DELAY_S:
            yield bytes(gathered)
            gathered.clear()
            written_s = time.monotonic()
    if gathered:
        yield bytes(gathered)


def _read(size_bytes: int) -> bytes:
    """Return the next bytes of the body, none where it ends or breaks; whoever counts them knows which."""
    try:
        return request.stream.read(size_bytes) if size_bytes else b""
    except (OSError, ClientDisconnected):
        return b""


def _require_whole(incoming: Incoming, part: Part) -> None:
    if part.offset and incoming.content_sha256() == part.whole_sha256:
        return
    if not part.offset and hmac.compare_digest(caller().body_sha256, part.whole_sha256):
        return
    incoming.cut(0)
    raise Conflict("upload-damaged", "The vector is not the one that was declared; nothing was kept.", "start anew")


def _keep(record: StoredCohort, incoming: Incoming, size_bytes: int, signed_inbox: bytes) -> None:
    parts = context()
    incoming.sync()
    digest = incoming.sha256.encode()
    with parts.database.write() as connection:
        if check_step(connection, load_cohort(connection, record.id, lock=True), caller().device, "vector", digest):
            incoming.keep(size_bytes)
            now_s = parts.clock.now_s()
            store_step(connection, record.id, caller().device, "inbox", signed_inbox, now_s)
            store_step(connection, record.id, caller().device, "vector", digest, now_s)
            count_vector(connection, caller().device, now_s)
            return
    incoming.cut(0)  # another request was quicker


def _forget_if_over(record: StoredCohort, incoming: Incoming) -> None:
    """Leave nothing behind of a cohort that ended while the body came."""
    with context().database.read() as connection:
        over = load_cohort(connection, record.id).state.phase in OVER
    if over:
        incoming.cut(0)

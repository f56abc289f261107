"""Fetch a file by its hash: in pieces, going on where a broken connection stopped, never more than was announced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from edge_client.durable import naming_disk_errors, replace_durably
from edge_client.problems import SignInPage, TooSlow, not_the_server, problem
from edge_client.traffic import Downward
from edge_client.transport import ATTEMPTS, Transport
from shared.errors import FedloomError, Refused, TryLater
from shared.limits import MAX_JSON_BYTES, READ_PIECE_BYTES
from shared.release import FileEntry
from shared.wire.requests import BLOBS


def download(transport: Transport, entry: FileEntry, path: Path, *, counts_as: Downward) -> None:
    """Put the file that ``entry`` describes at ``path``.

    Raises:
        Refused: ``wrong-file-hash`` or ``wrong-file-size``; nothing is left behind.
        TryLater: ``no-connection`` and others, with what arrived kept for the next time; ``disk-write-failed``.
    """
    partial = path.with_name(path.name + ".part")
    transport.permits.download(max(0, entry.size_bytes - _size(partial)))
    failures, busy_until_s = 0, transport.busy_until_s(0.0)
    while (have := _size(partial)) < entry.size_bytes or not partial.exists():
        transport.back_off(failures)
        failure = _go_on(transport, entry, partial, counts_as)
        if transport.come_back(failure, busy_until_s):
            continue
        # A connection that brings a little each time is slow, not broken; below what is too slow it is of no use now.
        goes_on = _size(partial) > have and not isinstance(failure, TooSlow)
        failures = 0 if goes_on else failures + 1
        if failures >= ATTEMPTS or (failure is not None and not isinstance(failure, TryLater)):
            raise failure or not_the_server("fewer bytes than the release announces")
    if _sha256(partial) != entry.sha256:
        partial.unlink()
        raise Refused(
            "wrong-file-hash",
            f"A file of the release arrived with another content than {entry.sha256[:16]}; it was not used.",
            "the server's storage may be damaged: tell its operator",
        )
    replace_durably(partial, path)


def _go_on(transport: Transport, entry: FileEntry, partial: Path, counts_as: Downward) -> FedloomError | None:
    """Fetch what is missing; return what stopped it."""
    target = f"{BLOBS}/{entry.sha256}"
    headers = transport.signed("GET", target)
    if have := _size(partial):
        headers["Range"] = f"bytes={have}-"
    try:
        with transport.open("GET", target, headers) as response:
            if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                if _is_refused(response.status):
                    partial.unlink(missing_ok=True)  # a refused range; the next attempt starts from nothing
                body = transport.read(response, MAX_JSON_BYTES)
                return _not_a_file(response.status, body)
            transport.require_no_sign_in(response)
            _append(transport, response, entry, partial, counts_as)
            response.release_conn()
    except (HTTPError, OSError) as error:
        return transport.unreachable(error)
    except (SignInPage, TooSlow) as error:
        return error
    return None


def _is_refused(status: int) -> bool:
    """Say whether an answer has to do with what was asked for."""
    busy = status == HTTPStatus.TOO_MANY_REQUESTS
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and not busy


def _not_a_file(status: int, body: bytes) -> FedloomError:
    if status < HTTPStatus.BAD_REQUEST:
        return not_the_server(f"status {status} instead of a file")
    return problem(status, body)


def _append(
    transport: Transport, response: urllib3.BaseHTTPResponse, entry: FileEntry, partial: Path, counts_as: Downward
) -> None:
    resumed = response.status == HTTPStatus.PARTIAL_CONTENT
    with naming_disk_errors(partial), partial.open("ab" if resumed else "wb") as file:
        for piece in _pieces(response, transport, entry.size_bytes - file.tell()):
            transport.traffic.count(counts_as, len(piece))
            if file.tell() + len(piece) > entry.size_bytes:
                break
            file.write(piece)
        else:
            return
    partial.unlink()
    response.close()
    raise Refused("wrong-file-size", f"The server sent more than the announced {entry.size_bytes} bytes.")


def _pieces(response: urllib3.BaseHTTPResponse, transport: Transport, missing: int) -> Iterator[bytes]:
    """Yield the body, each piece once it is permitted; a broken connection is no error of the disk."""
    pieces, left = transport.pieces(response), missing
    while True:
        transport.permits.piece(max(0, min(READ_PIECE_BYTES, left)))
        try:
            piece = next(pieces, None)
        except OSError as error:
            raise ProtocolError(str(error)) from error
        if piece is None:
            return
        left -= len(piece)
        yield piece


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

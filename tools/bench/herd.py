"""Prepared requests over TLS, sent as fast as they are answered or each at its time, and what came back."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

ATTEMPTS: Final = 3
TIMEOUT_S: Final = 60.0
PIECE_BYTES: Final = 65_536


@dataclass(frozen=True)
class Answered:
    """One request's answer.

    Attributes:
        number: of the request.
        at_s: when it was sent, in seconds since the first was due.
        took_s: until its answer was there.
        status: HTTP status, 0 where there was no answer.
        body: of the answer.
    """

    number: int
    at_s: float
    took_s: float
    status: int
    body: bytes


@dataclass
class Herd:
    """Clients of one server.

    Attributes:
        port: on 127.0.0.1.
        clients: connections at once.
    """

    port: int
    clients: int
    _answers: list[Answered] = field(default_factory=list)

    def send(self, requests: Sequence[bytes], due_s: Sequence[float] | None = None) -> list[Answered]:
        """Send every request once, in their order, and return the answers in the order of requests.

        Args:
            requests: heads and bodies, as they go over the wire.
            due_s: when to send each, in ascending order, in seconds from now; at once if None.
        """
        self._answers = []
        numbers, lock, start_s = count(), threading.Lock(), time.perf_counter()

        def work() -> None:
            connection = _Connection(self.port)
            while True:
                with lock:
                    number = next(numbers)
                if number >= len(requests):
                    break
                if due_s is not None:
                    time.sleep(max(0.0, start_s + due_s[number] - time.perf_counter()))
                sent_s = time.perf_counter()
                status, body = connection.ask(requests[number])
                took_s = time.perf_counter() - sent_s
                self._answers.append(Answered(number, sent_s - start_s, took_s, status, body))
            connection.close()

        threads = [threading.Thread(target=work) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(self._answers, key=lambda answer: answer.number)


class _Connection:
    """One connection that stays open, and is made anew where it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: ssl.SSLSocket | None = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; return status and body, 0 after every attempt failed."""
        for _ in range(ATTEMPTS):
            try:
                self._socket = self._socket or _open(self._port)
                self._socket.sendall(request)
                return _read(self._socket)
            except (OSError, ValueError):
                self.close()
        return 0, b""

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open(port: int) -> ssl.SSLSocket:
    # Measured is the server; which one it is needs no proof here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def _read(connection: ssl.SSLSocket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lengths = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")]
    length = int(lengths[0]) if lengths else 0
    while len(body) < length:
        body += _receive(connection)
    return int(lines[0].split()[1]), body


def _receive(connection: ssl.SSLSocket) -> bytes:
    piece = connection.recv(PIECE_BYTES)
    if not piece:
        raise ConnectionResetError
    return piece

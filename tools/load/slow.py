"""Clients that send a byte a second: half of them headers, half bodies; whoever is thrown out comes back.

with SlowClients(port, 64) as slow: ... slow.connected ...
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from shared.wire.requests import ENROL, JSON

PAUSE_S: Final = 1.0  # between two bytes
NEW_PER_S: Final = 50.0  # so that not all are thrown out, and come back, at once
_BODY_BYTES: Final = 100_000
_HEAD: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
_BODY: Final = (
    f"POST {ENROL} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\nContent-Length: {_BODY_BYTES}\r\n\r\n"
).encode("ascii")


@dataclass
class SlowClients:
    """As many connections as asked for, in a thread of their own.

    Attributes:
        port: of the server on 127.0.0.1.
        count: how many.
        connected: how many are connected now.
        sent: bytes that dripped, in all.
        ended: how often the server ended one.
    """

    port: int
    count: int
    connected: int = 0
    sent: int = 0
    ended: int = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Whom they talk to does not matter to them, and loading certificates takes long.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._ready.set()
        tasks = [asyncio.create_task(self._stay(number)) for number in range(self.count)]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stay(self, number: int) -> None:
        await asyncio.sleep(number / NEW_PER_S)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self._tls)
                try:
                    await self._drip(number, reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE_S)

    async def _drip(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            in_head = number % 2 == 0
            for byte in _HEAD if in_head else _BODY:
                writer.write(bytes([byte]))
                if in_head:
                    await self._pause(reader, writer)
            while not reader.at_eof():
                writer.write(b" ")
                await self._pause(reader, writer)
            self.ended += 1
        except ConnectionError:
            self.ended += 1
        finally:
            self.connected -= 1

    async def _pause(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wait for the next byte's time; raises ConnectionError where the server has answered or gone."""
        await writer.drain()
        self.sent += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):
                await reader.read(1)
            raise ConnectionResetError

"""A TCP proxy that misbehaves: between devices and a server, it cuts, resets, falls silent, doubles or crawls.

    with misbehaving(port, [Fault(cut_after=5000), Fault()]) as proxy: ... proxy.url ...

The n-th connection gets the n-th fault, later ones the last. What it sees is TLS, as on any network.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

_PIECE_BYTES: Final = 16 * 1024
_PATIENCE_S: Final = 1.0  # with which an end is waited for that does not close its side
_LINGER: Final = struct.pack("ii", 1, 0)  # close with a reset


@dataclass(frozen=True)
class Fault:
    """What is wrong with one connection.

    Attributes:
        cut_after: bytes from the device after which the connection ends; None for never.
        reset: whether it ends with a reset, which throws away what is on its way.
        silent: whether it stays open instead and carries nothing any more.
        doubled: whether everything is delivered a second time, on another connection.
        bytes_down: to the device, after which the connection ends; None for never.
        bytes_per_s: how fast it is in the device's direction to the server; 0 for no limit.
    """

    cut_after: int | None = None
    reset: bool = False
    silent: bool = False
    doubled: bool = False
    bytes_down: int | None = None
    bytes_per_s: float = 0.0


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        port: on 127.0.0.1.
        upstream_port: of the server.
        faults: by connection.
        forwarded: bytes that went to the server, by connection.
        brought: bytes that came from it, by connection.
    """

    port: int
    upstream_port: int
    faults: Sequence[Fault]
    forwarded: list[int] = field(default_factory=list)
    brought: list[int] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where devices find the server through the proxy."""
        return f"https://127.0.0.1:{self.port}"

    def carry(self, device: socket.socket) -> None:
        """Carry one connection to its end."""
        number = len(self.forwarded)
        self.forwarded.append(0)
        self.brought.append(0)
        fault = self.faults[min(number, len(self.faults) - 1)]
        with ExitStack() as ends, suppress(OSError):
            ends.enter_context(device)
            servers = [ends.enter_context(self._server()) for _ in range(2 if fault.doubled else 1)]
            while self._carry_some(number, fault, device, servers):
                pass
            if fault.silent:
                self.stopped.wait()
            for end in (*servers, device):
                _finish(end, reset=fault.reset)

    def _server(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.upstream_port))

    def _carry_some(self, number: int, fault: Fault, device: socket.socket, servers: Sequence[socket.socket]) -> bool:
        """Carry what is there, and say whether the connection goes on."""
        for end in select.select([device, *servers], [], [], 0.1)[0]:
            piece = end.recv(_PIECE_BYTES)
            if end is device:
                left = len(piece) if fault.cut_after is None else fault.cut_after - self.forwarded[number]
                self._send(fault, piece[:left], servers)
                self.forwarded[number] += len(piece[:left])
            elif end is servers[0]:
                device.sendall(piece)
                self.brought[number] += len(piece)
            else:
                continue
            if not piece or self.forwarded[number] == fault.cut_after:
                return False
            if fault.bytes_down is not None and self.brought[number] >= fault.bytes_down:
                return False
        return not self.stopped.is_set()

    def _send(self, fault: Fault, piece: bytes, servers: Sequence[socket.socket]) -> None:
        size = 1 if fault.bytes_per_s else len(piece) or 1
        for start in range(0, len(piece), size):
            for server in servers:
                with suppress(OSError) if server is not servers[0] else nullcontext():
                    server.sendall(piece[start : start + size])
            if fault.bytes_per_s and self.stopped.wait(1 / fault.bytes_per_s):
                return


def _finish(end: socket.socket, *, reset: bool) -> None:
    """Let what is on its way arrive before the socket is closed, or the other side know that it will not."""
    if reset:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        return
    with suppress(OSError):
        end.shutdown(socket.SHUT_WR)
        end.settimeout(_PATIENCE_S)
        while end.recv(_PIECE_BYTES):
            pass


@contextmanager
def misbehaving(upstream_port: int, faults: Sequence[Fault]) -> Iterator[Proxy]:
    """Run a proxy until the block ends."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        proxy = Proxy(listener.getsockname()[1], upstream_port, faults)
        carriers: list[threading.Thread] = []
        accepting = threading.Thread(target=accept, args=(listener, proxy.carry, carriers))
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *carriers):
                thread.join()


def accept(listener: socket.socket, carry: Callable[[socket.socket], None], carriers: list[threading.Thread]) -> None:
    """Let a thread carry what each connection says, until the listener is shut."""
    with suppress(OSError):
        while True:
            device, _ = listener.accept()
            carriers.append(threading.Thread(target=carry, args=(device,)))
            carriers[-1].start()

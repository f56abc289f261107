"""An S3 server of the tests' own, and a way to it that can be closed.

moto keeps objects in memory and speaks S3 over HTTP: puts in one and in several parts, ranges, lists. (Debian's
radosgw, the other one that can be installed, wants a whole Ceph cluster.) Killing it would lose what it holds, as
no store does that an operator would use; so what is cut is the way to it, with every connection that there is.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import urllib3

from cloud_server.storage.object_store import Address
from shared.ids import random_id
from tools.fleet import free_port

CREDENTIALS: Final = ("the-key-id", "the-secret-key")
_PATIENCE_S: Final = 60.0
_PIECE_BYTES: Final = 64 * 1024


@dataclass
class Way:
    """Connections to a port on this machine, through another one.

    Attributes:
        target: where they lead.
        port: where they begin.
    """

    target: int
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Let connections through."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """End all connections, and refuse others."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self._ends |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._ends.discard(source)
        source.close()


@dataclass
class S3:
    """A running S3 server.

    Attributes:
        way: through which aggregators reach it.
        port: of the server itself.
    """

    way: Way
    port: int

    def new_bucket(self) -> str:
        """Return the name of an empty bucket."""
        name = random_id("bucket", lambda count: time.time_ns().to_bytes(16, "big")[-count:])
        assert urllib3.request("PUT", f"http://127.0.0.1:{self.port}/{name}", headers=_SIGNED).status == 200
        return name

    def write(self, bucket: str, name: str, data: bytes) -> None:
        """Put an object behind everybody's back."""
        address = f"http://127.0.0.1:{self.port}/{bucket}/{name}"
        assert urllib3.request("PUT", address, body=data, headers=_SIGNED).status == 200

    def address(self, bucket: str, prefix: str = "models") -> Address:
        """Return where a deployment finds a bucket."""
        key, secret = CREDENTIALS
        return Address(
            bucket, prefix, self.endpoint, "us-east-1", owner="x", access_key_id=key, secret_access_key=secret
        )

    @property
    def endpoint(self) -> str:
        """Its address for aggregators."""
        return f"http://127.0.0.1:{self.way.port}"


_SIGNED: Final = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={CREDENTIALS[0]}/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def server() -> Iterator[S3]:
    """Run a server."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    way = Way(port)
    try:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _answers(port):
            assert time.monotonic() < deadline_s, "the S3 server does not start"
            time.sleep(0.05)
        way.open()
        yield S3(way, port)
    finally:
        way.close()
        process.kill()
        process.wait()

"""A TLS server on this machine that answers with whatever a test's function returns."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cloud_server.tls import CERTIFICATE_FILE, KEY_FILE, ROOT_FILE, ensure_certificates
from shared.wire.requests import JSON, PROBLEM


@dataclass(frozen=True)
class Request:
    """What arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to send; ``announced`` is a Content-Length that lies, ``hang_up`` closes without an answer."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    announced: int | None = None
    hang_up: bool = False


def refusal(status: int, code: str) -> Answer:
    """Return a problem document."""
    body = f'{{"type":"about:blank","title":"No","status":{status},"detail":"why","code":"{code}","try":"that"}}'
    return Answer(status, body.encode(), PROBLEM)


def make_certificates(folder: Path) -> str:
    """Write a root and a server certificate into ``folder``, and return the root."""
    ensure_certificates(folder, "127.0.0.1", dt.datetime.now(dt.UTC))
    return (folder / ROOT_FILE).read_text()


@contextmanager
def serve(folder: Path, answer: Callable[[Request], Answer]) -> Iterator[str]:
    """Serve ``answer`` with the certificates in ``folder``, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            reply = answer(Request(self.command, self.path, dict(self.headers), body))
            if reply.hang_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body) if reply.announced is None else reply.announced))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.announced is not None:
                self.close_connection = True

        do_GET = do_POST = do_PUT = _reply  # noqa: N815  # the base class looks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            """Keep test output readable."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    with QuietServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietServer(ThreadingHTTPServer):
    """A server of which no client's end is told."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

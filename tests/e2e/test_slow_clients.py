"""Clients at one byte a second are in nobody's way, and do not stay for ever."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import load

from tests.cloud_server.members import STEPS
from tests.e2e import servers
from tests.e2e.scene import MEMBERS, new_members
from tests.e2e.servers import Deployment, deployment, run_steps, wait_for
from tests.e2e.test_resumed_uploads import web_workers
from tools.load.slow import SlowClients

SLOW: Final = 64


def test_a_round_beside_slow_clients(running: Deployment) -> None:
    with SlowClients(running.server.port, SLOW) as slow:
        wait_for(lambda: slow.connected == SLOW and slow.sent > 3 * SLOW, "every slow client")
        members = new_members(running, "beside-slow-clients", MEMBERS)
        run_steps(members, STEPS)
        assert all(member.counted() for member in members)
        assert slow.connected + slow.ended >= SLOW
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], np.ones(MEMBERS), atol=1e-6)


def raw_connection(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=servers.PATIENCE_S))


def read_all(client: ssl.SSLSocket) -> bytes:
    """Return what comes until the server ends the connection."""
    answer = bytearray()
    while data := client.recv(65536):
        answer += data
    return bytes(answer)


def descriptors(running: Deployment) -> int:
    return sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in web_workers(running))


@pytest.mark.long
def test_slow_clients_are_ended_and_leave_nothing_behind(running: Deployment) -> None:
    new_members(running, "before-slow-clients", MEMBERS)  # database and other files are open from then on
    running.retire("before-slow-clients")
    before = descriptors(running)
    with SlowClients(running.server.port, SLOW) as slow:
        wait_for(lambda: slow.connected == SLOW, "every slow client")
        assert descriptors(running) >= before + SLOW
        wait_for(lambda: slow.ended >= SLOW, "the server to end them")
    wait_for(lambda: descriptors(running) <= before + 5, "their descriptors to be closed")


@pytest.mark.long
@pytest.mark.parametrize(
    "sent",
    [b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"],
    ids=["headers", "body"],
)
def test_silence_is_answered_with_a_named_problem(running: Deployment, sent: bytes) -> None:
    with raw_connection(running.server.port) as client:
        client.sendall(sent)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"too-slow"' in answer


@pytest.mark.long
def test_tls_that_never_comes_is_ended(running: Deployment) -> None:
    with socket.create_connection(("127.0.0.1", running.server.port), timeout=servers.PATIENCE_S) as client:
        assert client.recv(1) == b""


@pytest.mark.long
def test_a_body_within_one_crawling_tls_record_is_ended(running: Deployment) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", running.server.port), timeout=servers.PATIENCE_S) as client:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(65536))
        tls.write(b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        client.sendall(outgoing.read())
        tls.write(bytes(9999))
        record = outgoing.read()
        client.settimeout(0.5)
        answer, deadline_s = b"", time.monotonic() + servers.PATIENCE_S
        for byte in record:
            assert time.monotonic() < deadline_s, "it is still read"
            try:
                client.sendall(bytes([byte]))
                incoming.write(data := client.recv(65536))
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += tls.read(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_an_address_has_so_many_connections(tmp_path: Path) -> None:
    with deployment(tmp_path, "--connections-per-address", "5") as running:
        several: list[Any] = [raw_connection(running.server.port) for _ in range(5)]
        with pytest.raises((ssl.SSLError, OSError)):
            raw_connection(running.server.port)
        several.pop().close()
        deadline_s = time.monotonic() + servers.PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                several.append(raw_connection(running.server.port))
                break
            except OSError:
                time.sleep(0.05)
        assert len(several) == 5
        for client in several:
            client.close()

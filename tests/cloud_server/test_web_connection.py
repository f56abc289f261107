"""Connections that are too slow end; those that are slow but come on do not."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cloud_server.web_connection import Connections, Pace, PacedSocket, TooSlow

QUICK = Pace(head_s=0.3, silence_s=0.3, grace_s=0.3, bytes_per_s=10_000, send_s=0.3)
DRIP_S = 0.05


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def drip(theirs: socket.socket, stop: threading.Event) -> None:
    """Send a byte now and then, until told to stop."""
    while not stop.wait(DRIP_S):
        theirs.sendall(b"x")


def read_until_too_slow(paced: PacedSocket, theirs: socket.socket) -> int:
    """Read what drips, and return how many bytes came before it was too slow."""
    stop = threading.Event()
    dripping = threading.Thread(target=drip, args=(theirs, stop))
    dripping.start()
    received = 0
    try:
        while data := paced.recv(100):
            received += len(data)
    except TooSlow:
        return received
    finally:
        stop.set()
        dripping.join()
    raise AssertionError("it ended otherwise")


def test_headers_that_drip_are_too_slow(pair: tuple[socket.socket, socket.socket]) -> None:
    assert read_until_too_slow(PacedSocket(pair[0], QUICK), pair[1]) > 0


def test_a_body_that_drips_is_too_slow_though_never_silent(pair: tuple[socket.socket, socket.socket]) -> None:
    paced = PacedSocket(pair[0], QUICK)
    paced.expect_body()
    assert read_until_too_slow(paced, pair[1]) > 0


@pytest.mark.parametrize("in_body", [False, True])
def test_silence_is_too_slow_once_something_came(pair: tuple[socket.socket, socket.socket], *, in_body: bool) -> None:
    paced = PacedSocket(pair[0], QUICK)
    if in_body:
        paced.expect_body()
    pair[1].sendall(b"x" * 100)
    assert len(paced.recv(1000)) == 100
    with pytest.raises(TooSlow):
        paced.recv(1000)


def test_a_body_that_came_fast_may_pause_no_longer_than_others(pair: tuple[socket.socket, socket.socket]) -> None:
    paced = PacedSocket(pair[0], QUICK)
    paced.expect_body()
    pair[1].sendall(bytes(100_000))  # at the demanded rate, enough for ten seconds
    received = 0
    while received < 100_000:
        received += len(paced.recv(1 << 20))
    began_s = time.monotonic()
    with pytest.raises(TooSlow):
        paced.recv(1)
    assert time.monotonic() - began_s >= 0.9 * QUICK.silence_s


def test_what_the_server_does_meanwhile_does_not_count(pair: tuple[socket.socket, socket.socket]) -> None:
    paced = PacedSocket(pair[0], QUICK)
    paced.expect_body()
    for _ in range(3):
        pair[1].sendall(b"x")
        assert paced.recv(10) == b"x"
        time.sleep(0.2)  # longer, in all, than a body of three bytes may be waited for


def test_between_requests_a_connection_may_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    paced = PacedSocket(pair[0], QUICK)
    for _ in range(2):
        late = threading.Timer(2 * QUICK.head_s, pair[1].sendall, [b"x"])
        late.start()
        assert paced.recv(10) == b"x"
        late.join()
        paced.expect_body()
        paced.expect_head()


def test_an_answer_that_nobody_takes_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ConnectionResetError) as caught:
        PacedSocket(pair[0], QUICK).sendall(bytes(64 << 20))
    assert caught.value.errno == errno.ECONNRESET  # gunicorn knows it as a client that is gone


def test_an_answer_that_is_taken_slowly_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    size, taken, pace = 4 << 20, bytearray(), Pace(send_s=2.0)

    def take() -> None:
        while len(taken) < size:
            time.sleep(0.1)
            taken.extend(pair[1].recv(1 << 17))

    slow = threading.Thread(target=take)
    slow.start()
    began_s = time.monotonic()
    PacedSocket(pair[0], pace).sendall(bytes(size))
    assert time.monotonic() - began_s > pace.send_s  # longer, in all, than one piece may take
    slow.join()
    assert len(taken) == size


def test_connections_are_counted_by_address() -> None:
    counted = Connections(2)
    with counted.one("a") as first, counted.one("a") as second, counted.one("a") as third, counted.one("b") as other:
        assert (first, second, third, other) == (True, True, False, True)
    with counted.one("a") as again:
        assert again
    unlimited = Connections(0)
    with unlimited.one("a") as one, unlimited.one("a") as two:
        assert one
        assert two

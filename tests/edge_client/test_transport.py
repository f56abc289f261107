"""Requests: what is repeated, what is an error, what it is called, and what is counted."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_server.tls import ensure_certificates
from edge_client.download import download
from edge_client.permits import Permits
from edge_client.problems import CohortOver, NotNow, VersionClosed
from edge_client.transport import ATTEMPTS, BUSY_PATIENCE_S, MAX_WAIT_MS, Signer, Transport, pinned_pool
from edge_client.upload import send_vector
from shared.errors import Conflict, FedloomError, Missing, Refused, TryLater, Unauthenticated, UsageError
from shared.release import FileEntry
from shared.wire.canonical import octets_from_text, sha256
from shared.wire.requests import COUNTER_HEADER, OCTETS, SIGNATURE_HEADER, request_message
from shared.wire.signed import SigningKey, verify
from tests.edge_client.devices import ManualClock
from tests.edge_client.loopback import Answer, Request, make_certificates, refusal, serve
from tests.shared.refusals import refused

KEY = SigningKey(sha256(b"device"))
FINGERPRINT = sha256(b"root")
FILE = bytes(range(256)) * 2000


class Script:
    """Gives one answer after another; the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.seen: list[Request] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            self.seen.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def connected(
    certificates: Path, answer: Callable[[Request], Answer], clock: ManualClock | None = None
) -> Iterator[Transport]:
    counters = iter(range(1, 1000))
    signer = Signer(FINGERPRINT, "device-a", KEY, lambda: next(counters))
    pem = (certificates / "tls_root.pem").read_text()
    with serve(certificates, answer) as url:
        transport = Transport(url, pinned_pool(pem), signer=signer, clock=clock or ManualClock(), jitter=lambda: 1.0)
        yield transport
        transport.close()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad-field", UsageError),
        (401, "unknown-device", Unauthenticated),
        (403, "floor", Refused),
        (404, "version-unknown", Missing),
        (409, "different-repeat", Conflict),
        (409, "version-closed", VersionClosed),
        (410, "cohort-closed", CohortOver),
        (413, "body-too-large", UsageError),
    ],
)
def test_problems_become_errors(certificates: Path, status: int, code: str, kind: type[FedloomError]) -> None:
    script = Script(refusal(status, code))
    with connected(certificates, script) as transport, refused(code, kind):
        transport.send("GET", "/v1/x")
    assert len(script.seen) == 1


def test_a_broken_request_is_repeated_byte_for_byte(certificates: Path) -> None:
    script = Script(Answer(hang_up=True), refusal(503, "busy"), refusal(500, "internal-error"), Answer())
    clock = ManualClock()
    with connected(certificates, script, clock) as transport:
        transport.send("PUT", "/v1/cohorts/c/vector", b"words", content_type=OCTETS, counts_as="vector_up")
        assert transport.traffic.vector_up == 4 * len(b"words")
        assert transport.traffic.other_up > 4 * 200
    assert (
        len({(request.method, request.path, request.body, tuple(request.headers.items())) for request in script.seen})
        == 1
    )
    assert clock.slept_s == [0.25, 0.5, 1.0]


def test_it_gives_up_after_some_attempts(certificates: Path) -> None:
    script = Script(refusal(503, "busy"))
    with connected(certificates, script) as transport, refused("busy", TryLater):
        transport.send("GET", "/v1/x")
    assert len(script.seen) == ATTEMPTS


def test_it_is_patient_where_an_update_would_be_lost(certificates: Path) -> None:
    script = Script(*[Answer(hang_up=True)] * 20, Answer())
    clock = ManualClock()
    with connected(certificates, script, clock) as transport:
        transport.send("PUT", "/v1/cohorts/c/join", b"{}", until_s=clock.now_s() + 600)
    assert len(script.seen) == 21
    assert max(clock.slept_s) == 8.0


def test_requests_are_signed_with_growing_counters(certificates: Path) -> None:
    script = Script(Answer())
    with connected(certificates, script) as transport:
        for _ in range(2):
            transport.send("POST", "/v1/check-in", b"{}")
    for counter, request in enumerate(script.seen, 1):
        assert request.headers[COUNTER_HEADER] == str(counter)
        message = request_message(FINGERPRINT, "device-a", counter, "POST", "/v1/check-in", sha256(b"{}").hex())
        verify(KEY.public, message, octets_from_text(request.headers[SIGNATURE_HEADER]), "a request")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(200, b"<html>Log in to the hotel</html>", "text/html"), "captive-portal"),
        (Answer(302, b"", "text/html", {"Location": "http://portal/"}), "captive-portal"),
        (Answer(302, b"", "text/html", {"Location": "/elsewhere"}), "not-the-server"),
        (Answer(404, b"<html>not found</html>", "text/html"), "not-the-server"),
        (Answer(502, b"<html>bad gateway</html>", "text/html"), "not-the-server"),
        (Answer(200, b"pong", "text/plain"), "not-the-server"),
        (Answer(200, b"{" + b" " * (1 << 20)), "not-the-server"),
    ],
)
def test_a_captive_portal_is_not_the_server(certificates: Path, answer: Answer, code: str) -> None:
    with connected(certificates, Script(answer)) as transport, refused(code, TryLater):
        transport.send("GET", "/v1/x")


def test_another_certificate_is_not_the_server(certificates: Path, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    with serve(certificates, Script(Answer())) as url:
        transport = Transport(url, pinned_pool(other), signer=None, clock=ManualClock(), jitter=lambda: 0.0)
        with refused("not-the-server", TryLater):
            transport.send("GET", "/v1/root")
        transport.close()


def test_a_clock_before_the_certificate_is_named_with_its_time(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "127.0.0.1", dt.datetime.now(dt.UTC) + dt.timedelta(days=400))
    clock = ManualClock(3600.0)
    with serve(tmp_path, Script(Answer())) as url:
        pool = pinned_pool((tmp_path / "tls_root.pem").read_text())
        transport = Transport(url, pool, signer=None, clock=clock, jitter=lambda: 0.5)
        with refused("clock-wrong", TryLater) as caught:
            transport.send("GET", "/v1/root")
        transport.close()
    assert "1970-01-01 01:00:0" in caught.value.message
    assert "systemd-timesyncd" in caught.value.remedy
    assert "fake-hwclock" in caught.value.remedy


def test_no_server() -> None:
    transport = Transport("https://127.0.0.1:1", pinned_pool(""), signer=None, clock=ManualClock(), jitter=lambda: 0.0)
    with refused("no-connection", TryLater):
        transport.send("GET", "/v1/root")


def test_poll_waits_as_told(certificates: Path) -> None:
    wait = Answer(202, b'{"retry_after_ms":1500}')
    clock = ManualClock()
    with connected(certificates, Script(wait, wait, Answer(body=b'{"a":1}')), clock) as transport:
        assert transport.poll("/v1/x", clock.now_s() + 60) == b'{"a":1}'
    assert clock.slept_s == [1.5, 1.5]


def test_a_poll_ends_when_the_owner_does_not_let_it_go_on(certificates: Path) -> None:
    script, asked = Script(*[Answer(202, b'{"retry_after_ms":5}')] * 5), list[int]()

    def before_each() -> None:
        asked.append(len(script.seen))
        if len(asked) == 3:
            raise NotNow("paused", "Its owner paused it.")

    with connected(certificates, script, ManualClock()) as transport, refused("paused", NotNow):
        transport.poll("/v1/rendezvous", float("inf"), "POST", b"{}", before_each=before_each)
    assert asked == [0, 1, 2]


def test_a_limit_of_the_day_ends_a_request_before_it_is_sent(certificates: Path) -> None:
    def full(_octets: int) -> None:
        raise NotNow("day-limit-reached", "The day is full.")

    script, clock = Script(Answer()), ManualClock()
    with connected(certificates, script, clock) as transport:
        transport.permits = Permits(transfer=full)
        with refused("day-limit-reached", NotNow):
            transport.send("POST", "/v1/check-in", b"{}")
    assert (script.seen, clock.slept_s) == ([], []), "neither sent nor tried again"


def test_poll_ends_at_its_deadline(certificates: Path) -> None:
    clock = ManualClock()
    with (
        connected(certificates, Script(Answer(202, b'{"retry_after_ms":1500}')), clock) as transport,
        refused("deadline-passed", CohortOver),
    ):
        transport.poll("/v1/x", clock.now_s() + 4)


def blob_server(request: Request, *, cut: int = 0) -> Answer:
    start = int(request.headers["Range"][6:-1]) if "Range" in request.headers else 0
    rest = FILE[start:]
    status = 206 if start else 200
    if cut and len(rest) > cut:
        return Answer(status, rest[:cut], OCTETS, announced=len(rest))
    return Answer(status, rest, OCTETS)


def test_a_download_goes_on_where_it_stopped(certificates: Path, tmp_path: Path) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Answer:
        seen.append(request)
        return blob_server(request, cut=len(FILE) // 3)

    path = tmp_path / "file"
    with connected(certificates, answer) as transport:
        download(transport, FileEntry.of(FILE), path, counts_as="weights_down")
        assert transport.traffic.weights_down == len(FILE)
    assert path.read_bytes() == FILE
    assert "Range" not in seen[0].headers
    assert all("Range" in request.headers for request in seen[1:])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "sent"),
    [("wrong-file-hash", FILE[::-1]), ("wrong-file-size", FILE + b"x"), ("not-the-server", FILE[:10])],
)
def test_other_content_is_not_kept(certificates: Path, tmp_path: Path, code: str, sent: bytes) -> None:
    script = Script(Answer(200, sent, OCTETS))
    path = tmp_path / "file"
    with connected(certificates, script) as transport, refused(code):
        download(transport, FileEntry.of(FILE), path, counts_as="weights_down")
    assert not path.exists()


def test_a_missing_file_is_named(certificates: Path, tmp_path: Path) -> None:
    with connected(certificates, Script(refusal(404, "blob-unknown"))) as transport, refused("blob-unknown", Missing):
        download(transport, FileEntry.of(FILE), tmp_path / "file", counts_as="bundle_down")


def test_a_full_disk_is_not_a_broken_network(certificates: Path, tmp_path: Path) -> None:
    script = Script(Answer(200, FILE, OCTETS))
    with connected(certificates, script) as transport, refused("disk-write-failed", TryLater):
        download(transport, FileEntry.of(FILE), tmp_path / "nowhere" / "file", counts_as="bundle_down")
    assert len(script.seen) == 1


def busy(retry_after_ms: int) -> Answer:
    """Return the problem of a server that gets too many requests."""
    body = b'{"code":"too-many-requests","detail":"why","retry_after_ms":%d,"status":429,"title":"Too","try":""}'
    return Answer(429, body % retry_after_ms, "application/problem+json")


def test_a_busy_server_is_come_back_to_with_the_same_request_and_jitter(certificates: Path) -> None:
    script, clock = Script(*[busy(700)] * (3 * ATTEMPTS), Answer()), ManualClock()
    with connected(certificates, script, clock) as transport:
        assert transport.send("POST", "/v1/check-in", b"{}").status == 200
    assert clock.slept_s == pytest.approx([0.7 * (1 + 1.0)] * (3 * ATTEMPTS))  # no back-off: nothing failed
    assert len({(seen.headers[COUNTER_HEADER], seen.headers[SIGNATURE_HEADER]) for seen in script.seen}) == 1


def test_a_server_that_stays_busy_is_left_for_later(certificates: Path) -> None:
    script, clock = Script(busy(1000)), ManualClock()
    before_s = clock.time_s
    with connected(certificates, script, clock) as transport, refused("too-many-requests", TryLater):
        transport.send("POST", "/v1/check-in", b"{}")
    assert BUSY_PATIENCE_S < clock.time_s - before_s < 2 * BUSY_PATIENCE_S


@pytest.mark.parametrize("said", [b"-5", b"1e99", b'"soon"', b"true", b"99999999999"])
def test_a_busy_server_that_says_nonsense_is_not_waited_for_for_ever(certificates: Path, said: bytes) -> None:
    body = b'{"code":"too-many-requests","detail":"why","retry_after_ms":%s,"title":"Too"}' % said
    script, clock = Script(Answer(429, body, "application/problem+json"), Answer()), ManualClock()
    with connected(certificates, script, clock) as transport:
        assert transport.send("POST", "/v1/check-in", b"{}").status == 200
    assert 0 < sum(clock.slept_s) <= 2 * MAX_WAIT_MS / 1000


def test_a_download_that_has_to_wait_keeps_what_it_has(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.with_name("weights.part").write_bytes(FILE[:1000])
    rest = Answer(206, FILE[1000:], OCTETS, {"Content-Range": f"bytes 1000-{len(FILE) - 1}/{len(FILE)}"})
    script, clock = Script(*[busy(500)] * (2 * ATTEMPTS), rest), ManualClock()
    with connected(certificates, script, clock) as transport:
        download(transport, FileEntry.of(FILE), path, counts_as="weights_down")
    assert path.read_bytes() == FILE
    assert {seen.headers["Range"] for seen in script.seen} == {"bytes=1000-"}


def test_an_upload_that_has_to_wait_is_sent_again(certificates: Path) -> None:
    script, clock = Script(*[busy(500)] * (2 * ATTEMPTS), Answer()), ManualClock()
    with connected(certificates, script, clock) as transport:
        send_vector(transport, "/v1/cohorts/c/vector", b"words", b"inbox", clock.now_s() + 60, clock)
    assert [(seen.method, seen.body) for seen in script.seen] == [("PUT", b"words")] * (2 * ATTEMPTS + 1)

"""Who answers instead of the server is named: a network's sign-in page, another server, a proxy, or a crawling link."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_client import answers, between, doctor
from edge_client.agent import open_agent
from edge_client.download import download
from edge_client.report import status, status_text
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder
from edge_client.texts import Chinese, English
from edge_client.transport import ATTEMPTS, LOOK_AGAIN_S, MAX_WAIT_MS, Signer, Transport, pinned_pool
from shared.clock import SystemClock
from shared.errors import TryLater
from shared.release import FileEntry
from shared.root import Root
from shared.wire.requests import CHECK_IN, OCTETS
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import ManualClock, enrolled
from tests.edge_client.loopback import Answer, QuietServer, Request, make_certificates, serve
from tests.edge_client.test_transport import FILE, FINGERPRINT, KEY, Script, connected
from tests.shared.refusals import refused

PAGE = Answer(200, b"<html>Log in to the hotel</html>", "text/html")
ELSEWHERE = Answer(302, b"", "text/html", {"Location": "http://login.hotel.example/"})
NOWHERE = Answer(302, b"", "text/html", {"Location": "http://[login/"})
SIGN_IN = [PAGE, NOWHERE, ELSEWHERE, Answer(511, b"<html>Log in</html>", "text/html")]


@contextmanager
def plain_http(location: str) -> Iterator[int]:
    """Answer everything by sending it elsewhere, without TLS; return the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            """Keep test output readable."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def transport_to(url: str, pem: str, clock: ManualClock | None = None) -> Transport:
    signer = Signer(FINGERPRINT, "device-a", KEY, iter(range(1, 100)).__next__)
    return Transport(url, pinned_pool(pem), signer=signer, clock=clock or ManualClock(), jitter=lambda: 1.0)


@pytest.mark.parametrize("answer", SIGN_IN)
def test_a_sign_in_page_behind_a_certificate_of_its_own_is_named_and_told_nothing(
    certificates: Path, tmp_path: Path, answer: Answer
) -> None:
    portal, clock = Script(answer), ManualClock()
    with serve(certificates, portal) as url:
        transport = transport_to(url, make_certificates(tmp_path), clock)
        for _ in range(2):
            with refused("captive-portal", TryLater) as caught:
                transport.send("POST", "/v1/check-in", b"secret")
        transport.close()
    assert "sign-in page" in caught.value.message
    assert "sign in there" in caught.value.remedy
    looks = 1 + (clock.time_s - ManualClock().time_s) // LOOK_AGAIN_S
    assert len(portal.seen) <= looks, "attempts are not doubled by looks"
    for seen in portal.seen:
        assert (seen.method, seen.path, seen.body) == ("GET", "/v1/root", b"")
        assert not any(name.lower().startswith("fedloom") for name in seen.headers)


def test_a_sign_in_page_that_speaks_no_tls_is_named(certificates: Path) -> None:
    pem = (certificates / "tls_root.pem").read_text()
    with plain_http("http://login.hotel.example/") as port, refused("captive-portal", TryLater):
        transport_to(f"https://127.0.0.1:{port}", pem).send("POST", "/v1/check-in", b"{}")


@pytest.mark.parametrize(
    ("location", "code"),
    [("http://login.hotel.example/", "captive-portal"), ("https://127.0.0.1:8443/", "no-connection")],
)
def test_a_network_that_blocks_all_but_web_pages_is_asked_for_one(
    monkeypatch: pytest.MonkeyPatch, location: str, code: str
) -> None:
    with plain_http(location) as port:
        monkeypatch.setattr(between, "WEB_PORT", port)
        with refused(code, TryLater):
            transport_to("https://127.0.0.1:1", "").send("POST", "/v1/check-in", b"{}")


def test_another_server_is_no_sign_in_page(certificates: Path, tmp_path: Path) -> None:
    pem = make_certificates(tmp_path)
    other = Root(KEY.public, KEY.public, pem).to_bytes()
    with serve(certificates, Script(Answer(200, other))) as url, refused("not-the-server", TryLater) as caught:
        transport_to(url, pem).send("POST", "/v1/check-in", b"{}")
    assert "another server" in caught.value.message
    assert "a new code" in caught.value.remedy


@pytest.mark.parametrize("answer", SIGN_IN)
def test_a_download_that_meets_a_sign_in_page_keeps_what_it_has(
    certificates: Path, tmp_path: Path, answer: Answer
) -> None:
    path = tmp_path / "weights"
    path.with_name("weights.part").write_bytes(FILE[:1000])
    with connected(certificates, Script(answer)) as transport, refused("captive-portal", TryLater):
        download(transport, FileEntry.of(FILE), path, counts_as="weights_down")
    assert path.with_name("weights.part").read_bytes() == FILE[:1000]


def test_enrolment_names_a_sign_in_page_and_the_code_is_good_afterwards(certificates: Path, tmp_path: Path) -> None:
    aggregator, portal = Aggregator(certificates, 2, rounds=0, now_s=time.time() - 60), [True]

    def answer(request: Request) -> Answer:
        return PAGE if portal[0] else aggregator(request)

    with serve(certificates, answer) as url:
        with refused("captive-portal", TryLater):
            enrolled(tmp_path, aggregator, url)
        portal[0] = False
        assert enrolled(tmp_path, aggregator, url).device


def test_status_and_doctor_name_it_in_the_owners_language(certificates: Path, tmp_path: Path) -> None:
    aggregator, portal = Aggregator(certificates, 2, rounds=0, now_s=time.time() - 60), [False]

    def answer(request: Request) -> Answer:
        return PAGE if portal[0] else aggregator(request)

    folder = StateFolder(tmp_path / "state")
    with serve(certificates, answer) as url:
        enrolled(tmp_path, aggregator, url)
        portal[0] = True
        with open_agent(folder, log=lambda _line: None, clock=ManualClock(time.time())) as agent:
            agent.turn()
            told = status(folder)
        looked = doctor.examine(folder, SettingsFile(folder.settings_file), SystemClock())
    texts = {say.code: status_text(told, say) + doctor.to_text(looked, say) for say in (English, Chinese)}
    for say in (English, Chinese):
        assert texts[say.code].count(say("error.captive-portal") + " [captive-portal]") == 2
        assert texts[say.code].count(say("error.captive-portal-try")) == 2
    assert "sign-in page" not in texts["zh"]
    assert "sign-in page" in told["why_not_training"]
    (row,) = [row for row in doctor.to_json(looked)["checks"] if row["check"] == "server"]
    assert (row["state"], "captive-portal" in row["found"]) == ("todo", True)


@pytest.mark.parametrize("status_code", [429, 502, 503])
def test_a_proxy_that_says_when_to_come_back_is_believed(certificates: Path, status_code: int) -> None:
    away = Answer(status_code, b"<html>Bad gateway</html>", "text/html", {"Retry-After": "7"})
    script, clock = Script(away, away, Answer()), ManualClock()
    with connected(certificates, script, clock) as transport:
        assert transport.send("POST", "/v1/check-in", b"{}").status == 200
    assert clock.slept_s == [14.0, 14.0]  # 7 s and, by the jitter of this test, as long again
    assert len({seen.headers["Fedloom-Counter"] for seen in script.seen}) == 1


@pytest.mark.parametrize("said", ["-1", "soon", "Wed, 21 Oct 2037 07:28:00 GMT", "99999999999", ""])
def test_a_proxy_that_says_nonsense_is_not_waited_for_for_ever(certificates: Path, said: str) -> None:
    away = Answer(503, b"<html>Bad gateway</html>", "text/html", {"Retry-After": said})
    clock = ManualClock()
    with connected(certificates, Script(away), clock) as transport, refused("not-the-server", TryLater):
        transport.send("POST", "/v1/check-in", b"{}")
    assert sum(clock.slept_s) <= ATTEMPTS * 2 * MAX_WAIT_MS / 1000


@pytest.mark.parametrize("body", [b'{"retry_after', b'{"a":1}}', b'{"a":\xff}', b'{"a":1,"a":2}'])
def test_a_damaged_answer_is_asked_for_again(certificates: Path, body: bytes) -> None:
    script = Script(Answer(body=body), Answer(body=b'{"a":1}'))
    with connected(certificates, script) as transport:
        assert transport.send("GET", "/v1/x").body == b'{"a":1}'
    with connected(certificates, Script(Answer(body=body))) as transport, refused("answer-damaged", TryLater):
        transport.send("GET", "/v1/x")


def test_a_check_in_with_a_senseless_answer_does_not_end_the_agent(certificates: Path, tmp_path: Path) -> None:
    aggregator, folder = Aggregator(certificates, 2, rounds=0, now_s=time.time() - 60), StateFolder(tmp_path / "state")

    def answer(request: Request) -> Answer:
        return Answer(body=b'{"action":"trainn"}') if request.path == CHECK_IN else aggregator(request)

    with serve(certificates, answer) as url:
        enrolled(tmp_path, aggregator, url)
        with open_agent(folder, log=lambda _line: None, clock=ManualClock(time.time())) as agent:
            assert agent.turn() > 0
            assert "[answer-damaged]" in status(folder)["why_not_training"]


class Crawl:
    """Time that passes with each piece that is read; for a server that sends two bytes at a time."""

    def __init__(self) -> None:
        self.time_s = 1_800_000_000.0

    def now_s(self) -> float:
        """Return a later time each time."""
        self.time_s += 10.0
        return self.time_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.time_s += seconds


def test_a_crawling_download_is_left_for_later_with_what_came(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    pem = (certificates / "tls_root.pem").read_text()
    assert answers.GRACE_S < 60.0

    with slow_bodies(certificates, 2000) as url:
        counters = iter(range(1, 1000))
        signer = Signer(FINGERPRINT, "device-a", KEY, lambda: next(counters))
        transport = Transport(url, pinned_pool(pem), signer=signer, clock=Crawl(), jitter=lambda: 0.0)
        with refused("too-slow", TryLater):
            download(transport, FileEntry.of(bytes(10**6)), path, counts_as="weights_down")
        transport.close()
    kept = path.with_name("weights.part").stat().st_size
    assert 0 < kept < 10**6


@contextmanager
def slow_bodies(certificates: Path, octets: int) -> Iterator[str]:
    """Serve zeros of which each record brings few; all of a million are announced."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", OCTETS)
            self.send_header("Content-Length", str(10**6 - start))
            self.end_headers()
            for _ in range(40):
                self.wfile.write(bytes(octets // 40))
                self.wfile.flush()
            self.connection.recv(1)  # until the device has had enough

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            """Keep test output readable."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "tls_server.pem", certificates / "tls_server.key")
    with QuietServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

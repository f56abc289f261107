"""What an operator sees of a real server: metrics of all its processes, and a log that says what happened to whom.

Not whom: no device, no path, no header and no text of strangers is in either.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_server.api.operator import METRICS
from cloud_server.metrics import UPLOAD_ROUTE
from shared.wire.requests import CHECK_IN, DEVICE_HEADER, REQUEST_ID_HEADER, ROOT, SIGNATURE_HEADER
from tests.cloud_server.members import STEPS, one_hot
from tests.e2e.scene import MEMBERS, small_plan
from tests.e2e.servers import Deployment, deployment, run_steps, wait_for

pytestmark = pytest.mark.xdist_group("observed")
WORKERS: Final = 2
MARKER: Final = "c0ffee-marker"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server with two web processes that logs JSON, on which one round has ended."""
    with deployment(tmp_path_factory.mktemp("watched"), "--log", "json", "--workers", str(WORKERS)) as server:
        plan = small_plan("watched")
        server.create_task(plan, MEMBERS)
        members = server.enrol(plan, MEMBERS)
        model = members[0].release(0).model_sha256
        for member in members:
            member.values = one_hot(member.number, MEMBERS)
            member.meet(model)
        run_steps(members, STEPS)
        assert all(member.counted() for member in members)
        yield server


def samples(server: Deployment) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = server.pool().request("GET", f"{server.url}{METRICS}").data.decode()
    assert "device-" not in text
    assert "cohort-" not in text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def total(server: Deployment, name: str, **labels: str) -> float:
    return sum(value for found, value in samples(server).get(name, []) if labels.items() <= found.items())


def log_lines(server: Deployment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.server.log.read_text("utf-8").splitlines()]


def request_lines(server: Deployment, request_id: str) -> list[dict[str, Any]]:
    wait_for(lambda: any(_is_access(line, request_id) for line in log_lines(server)), "the access line")
    return [line for line in log_lines(server) if line.get("request_id") == request_id]


def _is_access(line: dict[str, Any], request_id: str) -> bool:
    return (line["logger"], line.get("request_id")) == ("fedloom.access", request_id)


def test_a_round_is_seen_in_the_metrics(watched: Deployment) -> None:
    assert total(watched, "fedloom_rounds", task="watched", phase="closed") == 1
    assert total(watched, "fedloom_cohorts", task="watched", phase="summed") == 1
    assert total(watched, "fedloom_cohorts", task="watched", phase="failed") == 0
    assert total(watched, "fedloom_devices", task="watched") == MEMBERS
    assert total(watched, "fedloom_version", task="watched") == 1
    assert total(watched, "fedloom_task_active", task="watched") == 0
    assert 0 < total(watched, "fedloom_driver_lease_seconds") <= 10
    assert total(watched, "fedloom_driver_tick_duration_seconds_count") > 0
    vectors = watched.rows("SELECT count(*) FROM step WHERE step = 'vector'")[0][0]
    assert vectors == MEMBERS
    labels = {"route": UPLOAD_ROUTE, "method": "PUT", "status": "200"}
    assert total(watched, "fedloom_requests_total", **labels) == vectors
    assert total(watched, "fedloom_request_duration_seconds_count", **labels) == vectors
    words = small_plan("watched").vector_words(MEMBERS, 0)
    assert total(watched, "fedloom_upload_bytes_total") == vectors * words * 8
    assert total(watched, "fedloom_received_bytes_total", route=UPLOAD_ROUTE) == vectors * words * 8


def test_requests_are_counted_over_all_processes(watched: Deployment) -> None:
    before = total(watched, "fedloom_requests_total", route=ROOT)
    for _ in range(20):
        assert watched.pool().request("GET", f"{watched.url}{ROOT}").status == 200
    wait_for(lambda: total(watched, "fedloom_requests_total", route=ROOT) >= before + 20, "20 requests")
    assert total(watched, "fedloom_requests_total", route=ROOT) == before + 20
    files = {path.name for path in (watched.data / "metrics").glob("counter_*.db")}
    assert len(files) == WORKERS + 1  # and the driver


def test_the_counts_have_their_room_on_the_disk(watched: Deployment) -> None:
    """A file with holes, mapped into memory, would kill its process when the disk is full."""
    files = list((watched.data / "metrics").glob("*.db"))
    assert files
    for path in files:
        found = path.stat()
        assert 512 * found.st_blocks >= found.st_size > 0


def test_strangers_cannot_add_series(watched: Deployment) -> None:
    pool = watched.pool()
    assert pool.request("GET", f"{watched.url}/{MARKER}").status == 404
    assert pool.request(MARKER.upper(), f"{watched.url}{ROOT}").status == 405
    assert pool.request("GET", f"{watched.url}/v1/releases/{MARKER}").status == 404
    found = {tuple(labels.values()) for labels, _ in samples(watched)["fedloom_requests_total"]}
    assert any(values[:2] == ("OTHER", "none") for values in found)
    assert not any(MARKER in value.lower() for values in found for value in values)


def test_every_request_has_an_id_that_answer_problem_and_log_share(watched: Deployment) -> None:
    pool, ids = watched.pool(), set()
    for _ in range(2):
        answer = pool.request("POST", watched.url + CHECK_IN, headers={REQUEST_ID_HEADER: MARKER}, body=b"{}")
        name = answer.headers[REQUEST_ID_HEADER]
        assert re.fullmatch("request-[0-9a-f]{32}", name)
        assert answer.json()["instance"] == f"urn:fedloom:{name}".replace("request-", "request:")
        refusal, access = request_lines(watched, name)
        assert (refusal["logger"], refusal["code"]) == ("fedloom.web", "unsigned-request")
        expected = {"method": "POST", "route": CHECK_IN, "status": 401, "bytes": len(answer.data)}
        assert expected.items() <= access.items()
        assert access["duration_ms"] >= 0
        ids.add(name)
    assert len(ids) == 2


def test_what_a_stranger_writes_is_not_in_the_log(watched: Deployment) -> None:
    pool = watched.pool()
    hostile = {
        DEVICE_HEADER: f"{MARKER}\x85\x9b",
        SIGNATURE_HEADER: MARKER,
        "User-Agent": MARKER,
        "Cookie": f"a={MARKER}",
        f"X-{MARKER}": MARKER,
    }
    targets = [
        f"/%0a%0d{MARKER}",
        f"{CHECK_IN}?{MARKER}=%0a",
        f"/v1/cohorts/{MARKER}%0aERROR/roster",
        f"/\u2028{MARKER}",
    ]
    for target in targets:
        for method in ("GET", "POST", "PUT"):
            answer = pool.request(method, watched.url + target, headers=hostile, body=MARKER.encode())
            assert request_lines(watched, answer.headers[REQUEST_ID_HEADER])
    assert MARKER not in watched.server.log.read_text("utf-8").lower()


def test_what_is_no_http_gets_a_problem_and_a_line(watched: Deployment) -> None:
    port = watched.server.port
    context = ssl.create_default_context(cadata=watched.root.tls_root_pem)
    for words, status, code in (
        (f"GET / {MARKER}\r\n\r\n", 400, "bad-http"),
        (f"GET / HTTP/1.1\r\nX-A: {MARKER}\x1b[2J\r\n\r\n", 400, "bad-http"),
        (f"GET /{'a' * 9000} HTTP/1.1\r\n\r\n", 414, "target-too-long"),
        ("GET / HTTP/1.1\r\n" + "".join(f"X-{n}: {MARKER}\r\n" for n in range(500)) + "\r\n", 431, "headers-too-large"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400, "bad-http"),
    ):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(words.encode())
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert json.loads(body)["code"] == code
        name = re.search(f"{REQUEST_ID_HEADER}: (request-[0-9a-f]{{32}})".encode(), head)
        assert name
        assert any(line.get("request_id") == name[1].decode() and line["code"] == code for line in log_lines(watched))
    assert MARKER not in watched.server.log.read_text("utf-8").lower()


def test_counts_of_an_earlier_run_are_not_shown(tmp_path: Path) -> None:
    stale = tmp_path / "server" / "metrics"
    stale.mkdir(parents=True)
    (stale / f"counter_{os.getpid()}.db").write_bytes(b"\xff" * 64)
    with deployment(tmp_path) as server:
        assert total(server, "fedloom_requests_total") == 0

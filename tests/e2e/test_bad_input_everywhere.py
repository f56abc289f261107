"""Every class of bad input against every route for devices: one named problem each, as documented, and nothing changed.

The routes come from the server's own document, which is made from its URL map. Cohorts wait for each step, so that
every body is read and looked at; when all is over, every one of them is brought to its end.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import pytest

from cloud_server.storage.schema import authority_metadata, metadata
from shared.wire.canonical import encode, octets_from_text, octets_to_text
from shared.wire.messages import write_signed
from shared.wire.requests import (
    BODY_HEADER,
    CERTIFICATE,
    CHECK_IN,
    COHORTS,
    COUNTER_HEADER,
    DEVICE_HEADER,
    LEAVE,
    OCTETS,
    OPENAPI,
    PROBLEM,
    RENDEZVOUS,
    SIGNATURE_HEADER,
)
from tests.cloud_server.members import STEPS
from tests.e2e.bad_bodies import MARKER, bad_json, bad_octets, changes
from tests.e2e.scene import Answer, Scene, finish, set_scene
from tests.e2e.servers import Deployment, deployment

pytestmark = pytest.mark.xdist_group("bad-input-everywhere")
STEP_OF_ROUTE: Final = {"join": "join", "shares": "share", "vector": "upload", "agreement": "agree", "answer": "answer"}
WAITING_ONLY: Final = frozenset({"lease", "setting"})  # a driver that finds nothing to do writes these
COUNTERS: Final = frozenset({"counter", "last_request", "last_seen_s", "behind", "behind_counter"})
GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493  # of Ed25519, RFC 8032
BAD_NAMES: Final = {
    "SQL": "x'%20OR%201=1;--",
    "a path": "..%2F..%2Fserver.db",
    "an encoded path": "%252e%252e%252fserver.db",
    "dots": "...",
    "NUL": "x%00y",
    "right-to-left": "%E2%80%AE",
    "not UTF-8": "%FF%FE",
    "lines for the log": "x%0D%0AERROR%20hacked",
    "HTML": "%3Cscript%3E",
    "2^64": str(2**64),
    "a negative number": "-1",
    "long": "a" * 2000,
}


_SIGNED: Final = (DEVICE_HEADER, COUNTER_HEADER, BODY_HEADER, SIGNATURE_HEADER)


@dataclass
class Stage:
    """A server of its own, a cohort waiting for each step, and what the server says of itself.

    Attributes:
        running: the server.
        scenes: by step.
        document: its OpenAPI document.
    """

    running: Deployment
    scenes: Mapping[str, Scene]
    document: dict[str, Any]

    def device_routes(self) -> Iterator[tuple[str, str]]:
        """Return method and path of every route for devices."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                if operation["x-fedloom-policy"] == "device":
                    yield method.upper(), path

    def scene_for(self, path: str) -> Scene:
        """Return where the route's message is waited for."""
        return self.scenes[STEP_OF_ROUTE.get(path.rpartition("/")[2], "join")]

    def target(self, path: str, **changed: str) -> str:
        """Return a path whose parameters name what is there, but for those that are ``changed``."""
        known = {"cohort_id": self.scene_for(path).attacker.cohort, "number": "0", "digest": "0" * 64, "held": "1" * 64}
        return path.format(**known | changed)

    def good_body(self, path: str) -> bytes:
        """Return what the route would take."""
        step = path.rpartition("/")[2]
        if path == CERTIFICATE:
            return write_signed("certificate", self.scene_for(path).attacker.certificate.signed)
        if path == LEAVE:
            return encode({"device": self.scene_for(path).attacker.device})
        if path == RENDEZVOUS:
            return b'{"purpose":"training","version":0}'
        return self.scene_for(path).ready[step] if step in STEP_OF_ROUTE else b'{"version":0}'

    def dump(self) -> dict[str, Any]:
        """Return everything that is stored, but for counters of requests and leases."""
        kept: dict[str, Any] = {}
        for table in metadata.sorted_tables:
            if table.name not in WAITING_ONLY:
                names = ", ".join(f'"{column.name}"' for column in table.columns if column.name not in COUNTERS)
                kept[table.name] = sorted(map(repr, self.running.rows(f'SELECT {names} FROM "{table.name}"')))  # noqa: S608  # our own tables
        with self.running._authority.database.read() as connection:
            for table in authority_metadata.sorted_tables:
                kept[table.name] = sorted(map(repr, connection.execute(table.select()).all()))
        for folder in ("uploads", "blobs"):
            files = (self.running.data / folder).rglob("*")
            kept[folder] = sorted((str(path), path.read_bytes()) for path in files if path.is_file())
        return kept

    def assert_refused(self, method: str, path: str, answer: Answer, what: str) -> str:
        """See one named problem that the document knows for the route; return its code."""
        assert 400 <= answer.status < 500, (method, path, what, answer)
        assert answer.content_type == PROBLEM, (method, path, what, answer)
        described = self.document["paths"][path][method.lower()]["responses"]
        assert str(answer.status) in described, (method, path, what, answer)
        schema = described[str(answer.status)]["content"][PROBLEM]["schema"]
        validator = jsonschema_rs.validator_for(schema | {"components": self.document["components"]})
        assert validator.is_valid(answer.problem), (method, path, what, answer)
        assert MARKER.encode() not in answer.body, (method, path, what)
        return str(answer.problem["code"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Set the stage, and see every cohort end well after everything."""
    with deployment(tmp_path_factory.mktemp("everywhere"), "--log", "json") as running:
        scenes = {step: set_scene(running, step, f"everywhere-{step}") for step in STEPS}
        document = running.pool().request("GET", running.url + OPENAPI).json()
        yield Stage(running, scenes, document)
        for step, scene in scenes.items():
            finish(scene, step)
        assert MARKER not in running.server.log.read_text("utf-8")


def test_there_are_routes_and_each_is_known(stage: Stage) -> None:
    found = list(stage.device_routes())
    assert len(found) >= 15
    assert all("{" not in stage.target(path) for _, path in found)
    with_body = {path for method, path in found if method in {"PUT", "POST"}}
    steps = {f"{COHORTS}/{{cohort_id}}/{name}" for name in STEP_OF_ROUTE}
    assert with_body == {CERTIFICATE, CHECK_IN, LEAVE, RENDEZVOUS, *steps}  # a new one needs an honest body above


def test_no_bad_body_is_taken_by_any_route(stage: Stage) -> None:
    before, tried = stage.dump(), 0
    for method, path in stage.device_routes():
        if method == "GET":
            continue
        media = next(iter(stage.document["paths"][path][method.lower()]["requestBody"]["content"]))
        make = bad_octets if media == OCTETS else bad_json
        for what, body, codes in changes(stage.good_body(path), make):
            answer = stage.scene_for(path).signed(method, stage.target(path), body)
            assert stage.assert_refused(method, path, answer, what) in codes, (path, what, answer)
            assert stage.dump() == before, (method, path, what)
            tried += 1
    assert tried > 300


def test_a_body_of_another_type_or_packed_is_not_read(stage: Stage) -> None:
    before = stage.dump()
    for method, path in stage.device_routes():
        if method == "GET":
            continue
        scene, body = stage.scene_for(path), stage.good_body(path)
        for name, value, code in (
            ("Content-Type", "text/plain", "wrong-content-type"),
            ("Content-Type", "multipart/form-data; boundary=x", "wrong-content-type"),
            ("Content-Type", f"{MARKER}/json", "wrong-content-type"),
            ("Content-Encoding", "gzip", "content-encoded"),
            ("Content-Encoding", MARKER, "content-encoded"),
        ):
            signed = scene.attacker.transport.signed(method, stage.target(path), body)
            answer = scene.raw(method, stage.target(path), signed | {name: value}, body)
            assert stage.assert_refused(method, path, answer, value) == code
            assert stage.dump() == before, (method, path, value)


def test_no_path_leads_to_what_is_not_the_devices(stage: Stage) -> None:
    before = stage.dump()
    for method, path in stage.device_routes():
        scene = stage.scene_for(path)
        for parameter in ("cohort_id", "number", "digest", "held"):
            if f"{{{parameter}}}" not in path:
                continue
            strange = {"another task's": scene.other.cohort, **BAD_NAMES}
            for what, name in strange.items():
                target = stage.target(path, **{parameter: name})
                body = stage.good_body(path) if method == "PUT" else b""
                answer = scene.signed(method, target, body)
                code = stage.assert_refused(method, path, answer, what)
                # The signature is over the path as it is sent, and the server verifies it over the path as it reads it.
                unknown = {"not-found", "cohort-unknown", "version-unknown", "blob-unknown", "no-difference"}
                assert code in (unknown | {"bad-signature"} if "%" in name else unknown), (path, what, answer)
                assert stage.dump() == before, (method, path, what)


def test_no_header_that_should_prove_the_sender_can_be_bent(stage: Stage) -> None:
    before = stage.dump()
    for method, path in stage.device_routes():
        scene, body = stage.scene_for(path), stage.good_body(path) if method != "GET" else b""
        target = stage.target(path)
        for what, changed in _bent(scene, method, target, body).items():
            answer = scene.raw(method, target, changed, body)
            code = stage.assert_refused(method, path, answer, what)
            codes = {"unsigned-request", "unknown-device", "bad-signature", "bad-octets", "replayed-request"}
            codes |= {"body-hash"} if path == CERTIFICATE else set()  # its body says by whom it is signed
            assert code in codes, (path, what, answer)
            assert stage.dump() == before, (method, path, what)


def _bent(scene: Scene, method: str, target: str, body: bytes) -> dict[str, dict[str, str]]:
    good = scene.attacker.transport.signed(method, target, body)
    signature = octets_from_text(good[SIGNATURE_HEADER])
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return {
        **{f"no {name}": {key: value for key, value in good.items() if key != name} for name in _SIGNED},
        "S beyond the group's order": good
        | {SIGNATURE_HEADER: octets_to_text(signature[:32] + scalar.to_bytes(32, "little"))},
        "a signature of zeros": good | {SIGNATURE_HEADER: octets_to_text(bytes(64))},
        "a signature in other letters": good | {SIGNATURE_HEADER: "+" * 86},
        "another member's name": good | {DEVICE_HEADER: scene.members[1].device},
        "SQL for a name": good | {DEVICE_HEADER: f"{MARKER}' OR '1'='1"},
        "4 KB for a name": good | {DEVICE_HEADER: MARKER * 180},
        "a counter of 2^53": good | {COUNTER_HEADER: str(2**53)},
        "a counter of 400 digits": good | {COUNTER_HEADER: "9" * 400},
        "another counter": good | {COUNTER_HEADER: str(int(good[COUNTER_HEADER]) + 1)},
        "a used counter": good | {COUNTER_HEADER: "1"},
        "another hash": good | {BODY_HEADER: "0" * 64},
        "a hash in capitals": good | {BODY_HEADER: good[BODY_HEADER].upper() if body else "A" * 64},
    }


def test_no_bad_framing_reaches_a_route(stage: Stage) -> None:
    before = stage.dump()
    for method, path in stage.device_routes():
        scene, body = stage.scene_for(path), stage.good_body(path) if method != "GET" else b""
        target = stage.target(path)
        head = [f"{method} {target} HTTP/1.1", "Host: x"]
        for what, lines, rest in (
            ("chunked and a length", ["Transfer-Encoding: chunked", f"Content-Length: {len(body)}"], body),
            ("two lengths", ["Content-Length: 1", f"Content-Length: {len(body) + 2}"], body),
            ("a negative length", ["Content-Length: -1"], body),
            ("a length in words", ["Content-Length: ten"], body),
            ("an unknown coding", ["Transfer-Encoding: nonsense"], b"0\r\n\r\n"),
            ("1,000 headers", [f"X-{number}: {MARKER}" for number in range(1000)], b""),
            ("a header of 64 KB", [f"X-Long: {MARKER * 3000}"], b""),
            ("a folded header", [f"X-A: b\r\n {MARKER}"], b""),
            ("NUL in a header", [f"X-A: {MARKER}\0"], b""),
            ("a header without a name", [f": {MARKER}"], b""),
            ("a space before the colon", ["Content-Length : 5"], body),
        ):
            signed = scene.attacker.transport.signed(method, target, body)
            headers = [f"{name}: {value}" for name, value in signed.items()]
            answer = _say(stage.running, "\r\n".join([*head, *headers, *lines, "", ""]).encode() + rest)
            code = stage.assert_refused(method, path, answer, what)
            assert code in {"bad-http", "headers-too-large"}, (path, what, answer)
            assert stage.dump() == before, (method, path, what)


def test_chunks_that_are_none_or_end_early_are_refused(stage: Stage) -> None:
    before = stage.dump()
    for method, path in stage.device_routes():
        if method == "GET":
            continue
        scene, body, target = stage.scene_for(path), stage.good_body(path), stage.target(path)
        for what, rest in (
            ("no number", b"zz\r\n" + body),
            ("a negative chunk", b"-5\r\n" + body),
            ("a chunk that goes on", b"%x\r\n" % (len(body) - 1) + body + b"\r\n0\r\n\r\n"),
            ("a chunk of words", b"0x5 \r\n" + body + b"\r\n0\r\n\r\n"),
        ):
            signed = scene.attacker.transport.signed(method, target, body)
            signed |= scene.attacker.inbox_header if path.endswith("/vector") else {}
            headers = [f"{name}: {value}" for name, value in signed.items()]
            head = [f"{method} {target} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *headers, "", ""]
            answer = _say(stage.running, "\r\n".join(head).encode() + rest)
            code = stage.assert_refused(method, path, answer, what)
            assert code in {"bad-http", "broken-body", "bad-request", "body-hash", "bad-json", "wrong-vector-length"}, (
                path,
                what,
                answer,
            )
            assert stage.dump() == before, (method, path, what)


def _say(running: Deployment, octets: bytes) -> Answer:
    """Send exactly this, say that no more comes, and read one answer."""
    context = ssl.create_default_context(cadata=running.root.tls_root_pem)
    with (
        socket.create_connection(("127.0.0.1", running.server.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(octets)
        stream = connection.makefile("rb")
        status = int(stream.readline().split()[1])
        headers: dict[str, str] = {}
        while line := stream.readline().strip():
            name, _, value = line.decode("latin1").partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers["content-type"], stream.read(int(headers["content-length"])))

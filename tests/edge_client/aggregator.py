"""An aggregator in memory, as small as the wire format allows: one task, cohorts of a fixed size, no deadlines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from cloud_server.aggregation.closing import CohortRecord, reveal_sum, step_weights
from cloud_server.publishing import Version, make_version
from shared.bundle import MANIFEST_FILE, ArraySpec, BundleManifest, TensorSpec
from shared.decision import Decision, sign_decision
from shared.errors import FedloomError
from shared.layout import Layout
from shared.numeric.contribution_vector import AggregateSum
from shared.numeric.differences import make_difference
from shared.plan import Cohort, Plan, Server, Training, Update
from shared.root import EnrolmentCode, Root
from shared.secagg.recovery import Fates
from shared.secagg.roster import CohortBinding, Roster, to_bitmap, verify_member
from shared.secagg.sealing import SEALED_BYTES
from shared.wire.canonical import decode, encode, octets_from_text, sha256
from shared.wire.messages import (
    Agreements,
    Assignment,
    EnrolRequest,
    Meeting,
    Outcome,
    read_answer,
    read_octets,
    read_shares,
    write_indexed,
    write_octets,
    write_release,
    write_signed,
)
from shared.wire.requests import (
    COUNTER_HEADER,
    DEVICE_HEADER,
    INBOX_HEADER,
    OCTETS,
    SIGNATURE_HEADER,
    VECTOR,
    request_message,
)
from shared.wire.signed import Certificate, Signed, SigningKey, verify
from tests.edge_client.loopback import Answer, Request, refusal

FAR_S: Final = 4_000_000_000
DIMENSION: Final = 6
AUTHORITY: Final = SigningKey(sha256(b"authority"))
RELEASE_KEY: Final = SigningKey(sha256(b"release"))
WAIT: Final = Answer(202, b'{"retry_after_ms":5}')


def quadratic_manifest() -> BundleManifest:
    """Return a model of one point in ``DIMENSION`` dimensions."""
    return BundleManifest(
        name="point",
        engine="quadratic",
        batch_size=4,
        inputs=(ArraySpec("x", (4, DIMENSION), "float32"),),
        labels=ArraySpec("y", (4,), "int32"),
        loss="squared_distance",
        metric="none",
        train_inputs=(),
        tensors=(TensorSpec("theta", (DIMENSION,), 0, DIMENSION, "shared"),),
        patches=(),
        files={"weights.safetensors": "0" * 64},
        tools={},
    )


def quadratic_plan(members: int) -> Plan:
    """Return the textbook plan: one full gradient step per round, updates added up."""
    return Plan(
        "point",
        training=Training(method="fedsgd"),
        update=Update(max_l2_norm=500.0, lane_bits=32),
        cohort=Cohort(min_survivors=members, largest=members, corrupt_share=0.0, dropout_share=0.0),
        server=Server(combine="sum", learning_rate=0.01),
    )


def publish(
    number: int,
    weights: np.ndarray[tuple[int], np.dtype[np.float32]],
    plan: Plan,
    now_s: float,
    key: SigningKey = RELEASE_KEY,
) -> Version:
    """Return a signed version."""
    manifest = quadratic_manifest()
    bundle = {MANIFEST_FILE: manifest.to_bytes()}
    return make_version(number, weights, plan=plan, manifest=manifest, bundle=bundle, key=key, now_s=now_s)


@dataclass
class OneCohort:
    """What its members sent."""

    name: str
    steps: dict[str, dict[str, bytes]] = field(default_factory=dict)
    inboxes: dict[str, bytes] = field(default_factory=dict)
    roster: Roster | None = None
    aggregate: AggregateSum | None = None


class Aggregator:
    """Answers requests; ``over`` maps a step to the code with which the first cohort fails there."""

    def __init__(self, folder: Path, members: int, *, rounds: int = 1, now_s: float = 1_800_000_000.0) -> None:
        self.folder = folder
        self.members = members
        self.rounds = rounds
        self.now_s = now_s
        self.plan = quadratic_plan(members)
        self.master = np.zeros(DIMENSION, np.float32)
        self.root = Root(AUTHORITY.public, RELEASE_KEY.public, (folder / "tls_root.pem").read_text())
        self.versions = [publish(0, self.master, self.plan, now_s)]
        self.keys: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.cohorts = [OneCohort("cohort-0")]
        self.over: dict[str, str] = {}
        self.garbled = False  # whether boxes of the first cohort were sealed by someone who means harm
        self.requests: list[Request] = []
        self.decision: Signed | None = None  # that devices are shown
        self.sequence = 0  # that they are told of
        self.key_word: Signed | None = None  # the authority's, on a later release key
        self.key_number = 0  # that devices are told of
        self.evaluates: int | None = None  # the candidate that they are asked to evaluate
        self._lock = threading.Lock()

    def code(self, url: str) -> str:
        """Return an enrolment code; the secret is not checked."""
        return EnrolmentCode(url, self.root.fingerprint, bytes(20)).to_text()

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        with self._lock:
            self.requests.append(request)
            try:
                return self._answer(request)
            except FedloomError as error:
                return refusal(error.http_status, error.code)

    def _answer(self, request: Request) -> Answer:
        _, _, route, *rest = request.path.split("/")
        if route == "root":
            return Answer(body=self.root.to_bytes())
        if route == "enrol":
            return self._enrol(EnrolRequest.from_bytes(request.body))
        device = self._authenticate(request)
        if route == "check-in":
            return Answer(body=self._assignment(device).to_bytes())
        if route == "rendezvous":
            return self._rendezvous()
        if route in {"releases", "blobs", "decision", "release-key"}:
            return self._file(route, *rest)
        body = request.body if request.method == "PUT" else None
        return self._step(device, rest[0], rest[1], body, request.headers.get(INBOX_HEADER, ""))

    def _rendezvous(self) -> Answer:
        if len(self.versions) > self.rounds:
            return refusal(409, "version-closed")
        return Answer(body=Meeting(self.cohorts[-1].name, FAR_S).to_bytes())

    def _file(self, route: str, name: str = "", *held: str) -> Answer:
        if route in {"decision", "release-key"}:
            told = self.decision if route == "decision" else self.key_word
            field = route.replace("-", "_")
            return refusal(404, "not-found") if told is None else Answer(body=write_signed(field, told))
        if route == "releases":
            version = self.versions[int(name)]
            return Answer(body=write_release(version.release, version.signature))
        files = {sha256(data).hex(): data for version in self.versions for data in version.files.values()}
        if held:
            difference = make_difference(files[held[1]], files[name])
            return refusal(404, "no-difference") if difference is None else Answer(body=difference, content_type=OCTETS)
        return Answer(body=files[name], content_type=OCTETS)

    def _enrol(self, request: EnrolRequest) -> Answer:
        name = f"device-{request.identity_key.hex()[:12]}"
        certificate = Certificate.issue(
            AUTHORITY, task=self.plan.task, device=name, identity_key=request.identity_key, expires_at_s=FAR_S
        )
        self.keys[name] = request.identity_key
        return Answer(body=encode({"certificate": certificate.signed.to_json()}))

    def _authenticate(self, request: Request) -> str:
        device, counter = request.headers[DEVICE_HEADER], int(request.headers[COUNTER_HEADER])
        message = request_message(
            self.root.fingerprint, device, counter, request.method, request.path, sha256(request.body).hex()
        )
        verify(self.keys[device], message, octets_from_text(request.headers[SIGNATURE_HEADER]), "a request")
        assert counter > self.counters.get(device, 0)
        self.counters[device] = counter
        return device

    def decide(self, decision: Decision, key: SigningKey = RELEASE_KEY) -> None:
        """Show devices a decision."""
        self.decision, self.sequence = sign_decision(decision, key), decision.sequence

    def _assignment(self, device: str) -> Assignment:
        newest = len(self.versions) - 1
        if self.evaluates is not None:
            return Assignment("evaluate", self.evaluates, 1, 5, decision=self.sequence, release_key=self.key_number)
        if newest >= self.rounds:
            return Assignment("done", newest, newest, 5, decision=self.sequence, release_key=self.key_number)
        busy = device in self.cohorts[-1].steps.get("join", {})
        return Assignment(
            "wait" if busy else "train", newest, newest + 1, 5, decision=self.sequence, release_key=self.key_number
        )

    def _step(self, device: str, name: str, step: str, body: bytes | None, signed_inbox: str) -> Answer:
        cohort = next(cohort for cohort in self.cohorts if cohort.name == name)
        if cohort.name == "cohort-0" and step in self.over:
            if len(self.cohorts) == 1:
                self.cohorts.append(OneCohort("cohort-1"))
            return refusal(410, self.over[step])
        if body is not None:
            if step == VECTOR:
                cohort.inboxes[device] = octets_from_text(signed_inbox)
            assert cohort.steps.setdefault(step, {}).setdefault(device, body) == body
            return Answer()
        asked = {
            "roster": "join",
            "inbox": "shares",
            "survivors": "vector",
            "agreements": "agreement",
            "outcome": "answer",
        }
        sent = cohort.steps.get(asked[step], {})
        return WAIT if len(sent) < self.members else Answer(body=self._result(cohort, device, step, sent))

    def _result(self, cohort: OneCohort, device: str, step: str, sent: Mapping[str, bytes]) -> bytes:
        if cohort.roster is None:
            cohort.roster = self._roster(cohort, sent)
        index_of = {member.device: index for index, member in enumerate(cohort.roster.members)}
        everybody = frozenset(index_of.values())
        if step == "roster":
            return encode(cohort.roster.to_json())
        if step == "inbox":
            own = index_of[device]
            boxes = {index_of[name]: read_shares(body).boxes for name, body in sent.items() if name != device}
            if self.garbled and cohort.name == "cohort-0":
                if len(self.cohorts) == 1:
                    self.cohorts.append(OneCohort("cohort-1"))
                boxes = {sender: dict.fromkeys(box, bytes(SEALED_BYTES)) for sender, box in boxes.items()}
            return write_indexed("boxes", {sender: box[own] for sender, box in boxes.items()})
        if step == "survivors":
            return write_octets("bitmap", to_bitmap(everybody, self.members))
        if step == "agreements":
            signatures = {index_of[name]: read_octets(body, "signature") for name, body in sent.items()}
            lists = {index_of[name]: octets for name, octets in cohort.inboxes.items() if name != device}
            return Agreements(signatures, lists).to_bytes()
        if cohort.aggregate is None:
            self._close(cohort, index_of, everybody)
        return Outcome(counted=True).to_bytes()

    def _roster(self, cohort: OneCohort, sent: Mapping[str, bytes]) -> Roster:
        binding = CohortBinding(self.plan.task, cohort.name, self.plan.sha256, self.versions[-1].model_sha256, FAR_S)
        members = [verify_member(decode(body), binding, AUTHORITY.public, self.now_s) for body in sent.values()]
        return Roster.of(binding, members)

    def _close(self, cohort: OneCohort, index_of: Mapping[str, int], everybody: frozenset[int]) -> None:
        assert cohort.roster is not None
        layout = Layout.of(quadratic_manifest().tensors)
        total = np.zeros(self.plan.vector_words(layout.shared.size, layout.statistics.size), np.uint64)
        for body in cohort.steps["vector"].values():
            total += np.frombuffer(body, "<u8")
        record = CohortRecord(
            cohort.roster,
            Fates(everybody, everybody),
            {index_of[name]: read_shares(body).commitment for name, body in cohort.steps["shares"].items()},
            {index_of[name]: read_answer(body) for name, body in cohort.steps["answer"].items()},
        )
        cohort.aggregate = reveal_sum(total, record, self.plan, layout)
        self.master = step_weights(self.master, cohort.aggregate, self.plan, layout)
        self.versions.append(publish(len(self.versions), self.master, self.plan, self.now_s))
        self.cohorts.append(OneCohort(f"cohort-{len(self.cohorts)}"))

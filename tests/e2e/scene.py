"""A cohort that has come to a phase, its misbehaving member, and what must be true after each wrong request.

Every attack is one function that sends one request as a device that is a member of a running cohort; tables say
which answer it must get. Routes, headers and bodies are as real devices send them, with one thing wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from safetensors.numpy import load

from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Update
from shared.wire.requests import (
    BODY_HEADER,
    COUNTER_HEADER,
    DEVICE_HEADER,
    JSON,
    OCTETS,
    PROBLEM,
    SIGNATURE_HEADER,
)
from tests.cloud_server.members import STEPS, Member, one_hot
from tests.e2e.servers import Deployment, run_steps

MEMBERS: Final = 3
HOUR_S: Final = 3600.0
WAIT_BODY: Final = b'{"contributed_round":-1}'


@dataclass(frozen=True)
class Answer:
    """What the server said: status, media type and the problem's fields."""

    status: int
    content_type: str
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document."""
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class Scene:
    """A cohort of ``members`` that has come to a phase, and a device of another task.

    Attributes:
        running: the server.
        members: of the cohort; the first one is the attacker.
        ready: the attacker's next honest message, by route.
        other: enrolled in another task, whose cohort forms.
    """

    running: Deployment
    members: list[Member]
    other: Member
    ready: dict[str, bytes]

    @property
    def attacker(self) -> Member:
        """The device that misbehaves."""
        return self.members[0]

    def raw(self, method: str, target: str, headers: Mapping[str, str | None], body: bytes = b"") -> Answer:
        """Send exactly this, once; a header that is None is left out."""
        transport = self.attacker.transport
        length = {"Content-Length": str(len(body))} if body else {}
        vector = target.partition("?")[0].endswith("/vector")
        content = {"Content-Type": OCTETS if vector else JSON}
        if vector and method == "PUT":
            content |= self.attacker.inbox_header
        sent = {name: value for name, value in {**content, **headers, **length}.items() if value is not None}
        with transport.open(method, target, sent, body) as response:
            data = response.read()
            return Answer(response.status, response.headers.get("Content-Type", ""), data)

    def signed(self, method: str, target: str, body: bytes = b"", **changed: str) -> Answer:
        """Send a signed request, with headers changed after signing."""
        headers = self.attacker.transport.signed(method, target, body)
        return self.raw(method, target, headers | {_HEADERS[name]: value for name, value in changed.items()}, body)

    def put(self, step: str, body: bytes) -> Answer:
        """Send a step of the attacker's cohort."""
        return self.signed("PUT", self.attacker.target(step), body)


_HEADERS: Final = {
    "device": DEVICE_HEADER,
    "counter": COUNTER_HEADER,
    "digest": BODY_HEADER,
    "signature": SIGNATURE_HEADER,
}
Attack = Callable[[Scene], Answer]


def small_plan(task: str) -> Plan:
    return Plan(
        task,
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=MEMBERS, corrupt_share=0.0, dropout_share=0.0),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


def new_members(running: Deployment, task: str, count: int) -> list[Member]:
    plan = small_plan(task)
    running.create_task(plan, MEMBERS)
    members = running.enrol(plan, count)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    return members


def set_scene(running: Deployment, step: str, name: str) -> Scene:
    """Bring a cohort to where it waits for the attacker to do ``step``."""
    members = new_members(running, name, MEMBERS)
    for earlier in STEPS[: STEPS.index(step)]:
        for member in members:
            member.do(earlier)
    if step != "answer":  # the last answer that is needed ends the cohort
        for member in members[1:]:
            member.do(step)
    route, body = members[0].prepare(step)
    return Scene(running, members, new_members(running, f"{name}-other", 1)[0], {route: body})


def go_on(scene: Scene, step: str) -> None:
    """Let everybody do what follows ``step``, and see every device counted."""
    if step == "answer":
        run_steps(scene.members[1:], [step])
    run_steps(scene.members, STEPS[STEPS.index(step) + 1 :])
    assert all(member.counted() for member in scene.members)


def finish(scene: Scene, step: str) -> None:
    """Let the attacker do what it should have done, and see every device counted once."""
    route, body = next(iter(scene.ready.items()))
    assert scene.put(route, body).status == 200
    go_on(scene, step)
    np.testing.assert_allclose(load(scene.attacker.weights(1))["theta"], np.ones(MEMBERS), atol=1e-6)


def state(running: Deployment) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that the server remembers, apart from which counters were used."""
    tables = ("task", "version", "round", "cohort", "step")
    rows = {table: running.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables}  # noqa: S608  # constants
    rows["device"] = running.rows("SELECT device, task, certificate, identity_key FROM device ORDER BY 1")
    uploads = running.data / "uploads"
    rows["uploads"] = sorted((str(path), path.read_bytes()) for path in uploads.rglob("*") if path.is_file())
    return rows


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.content_type) == (status, PROBLEM), answer
    problem = answer.problem
    assert problem.keys() == {"type", "title", "status", "code", "detail", "try", "instance"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:fedloom:problem:{code}"
    assert problem["detail"]

"""Requests that the OpenAPI document allows, and that it does not, sent to a real server by devices and by strangers.

Schemathesis makes the requests, the document judges the answers: none may be a 5xx, and status, headers, media type,
body and problem code must be as described. Half of the requests are well-formed; senders are strangers, a member of a
cohort that is over, and one member each of cohorts that wait for its next step. Cohorts, files and versions that exist
are put into half of the paths. The same number of requests is the same requests, but for what the server draws.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from requests.auth import AuthBase
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.release import WEIGHTS_FILE
from shared.wire.requests import CHECK_IN, COHORTS, OPENAPI, RENDEZVOUS, REQUEST_ID_HEADER
from tests.cloud_server.members import STEPS, Member
from tests.e2e.scene import finish, set_scene
from tests.e2e.servers import Deployment

CHECKS: Final = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
READS: Final = (f"GET {COHORTS}/",)
HELD: Final = (*READS, f"POST {CHECK_IN}", f"POST {RENDEZVOUS}")
BATCH: Final = 4  # requests of one sender to one route, before the next's turn
TIMEOUT_S: Final = 30.0
Tally = Counter[tuple[str, int, str]]  # requests by operation, status and problem code


class Signing(AuthBase):
    """Signs what is about to be sent as a device does, over the path as the server reads it."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        """Replace the headers that were made up."""
        path, mark, query = prepared.path_url.partition("?")
        body = prepared.body or b""
        data = body if isinstance(body, bytes) else str(body).encode()
        signed = self._member.transport.signed(prepared.method or "", unquote(path) + mark + query, data)
        prepared.headers.update(signed)
        return prepared


@dataclass(frozen=True)
class Sender:
    """Who sends, and what the paths may name that is there.

    Attributes:
        auth: signs, if anybody does.
        known: values of path parameters.
        held: what would be held when well-formed, as nothing is there yet, by method and beginning of the path; it is
            left out, or ten seconds would go by with each.
    """

    auth: AuthBase | None
    known: Mapping[str, list[Any]]
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A running server that was prepared for all senders.

    Attributes:
        running: the server.
        senders: by name.
    """

    running: Deployment
    senders: Mapping[str, Sender]


def prepare(running: Deployment) -> Target:
    """Bring cohorts to where the senders need them."""
    waiting = {step: set_scene(running, step, f"fuzz-{step}").attacker for step in STEPS}
    over = set_scene(running, STEPS[0], "fuzz-over")
    finish(over, STEPS[0])
    ended = over.attacker
    numbers = [0, 1]
    digests = [ended.release(version).files[WEIGHTS_FILE].sha256 for version in numbers]

    def known(*members: Member) -> dict[str, list[Any]]:
        return {
            "cohort_id": [member.cohort for member in members],
            "digest": digests,
            "held": digests,
            "number": numbers,
        }

    return Target(
        running,
        {
            "stranger": Sender(None, known(ended, *waiting.values())),
            "over": Sender(Signing(ended), known(ended, ended, over.other)),
            **{
                step: Sender(Signing(member), known(member, member, ended), READS if step == STEPS[0] else HELD)
                for step, member in waiting.items()
            },
        },
    )


class Fuzz:
    """One series of requests.

    Args:
        target: to whom.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = _certificate(target.running)
        document = self._session.get(f"{target.running.url}{OPENAPI}", timeout=TIMEOUT_S).json()
        schema = schemathesis.openapi.from_dict(document)
        self._operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        self.tally: Tally = Counter()

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return sum(self.tally.values())

    def run(self, count: int) -> Tally:
        """Send at least ``count`` requests and return what was answered.

        Raises:
            AssertionError: at the first answer that is not as described.
        """
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        turns = list(itertools.product(self._operations, self._target.senders.values(), modes))
        for number in itertools.count():
            for operation, sender, mode in turns:
                if self.sent >= count:
                    return self.tally
                self._turn(number, operation, sender, mode)
        return self.tally

    def _turn(self, number: int, operation: Any, sender: Sender, mode: GenerationMode) -> None:  # noqa: ANN401  # APIOperation
        if operation.label.startswith(sender.held):
            return

        @seed(number)
        @settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), st.data())
        def send(case: Case[Any], data: st.DataObject) -> None:
            for name, values in sender.known.items():
                if name in (case.path_parameters or {}) and data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(values))
            self._send(case, sender)

        with suppress(Unsatisfiable):  # nothing about this route can be wrong
            send()

    def _send(self, case: Case[Any], sender: Sender) -> None:
        options: dict[str, Any] = {"verify": self._session.verify, "allow_redirects": False}
        options |= {} if sender.auth is None else {"auth": sender.auth}
        response = case.call(
            base_url=self._target.running.url,
            session=self._session,
            timeout=TIMEOUT_S,
            **options,
        )
        problem = response.json() if "problem" in str(response.headers.get("content-type")) else {}
        self.tally[case.operation.label, response.status_code, problem.get("code", "")] += 1
        assert response.status_code < 500, (case.as_curl_command(), problem)
        assert REQUEST_ID_HEADER.lower() in response.headers
        case.validate_response(response, checks=CHECKS)


def _certificate(running: Deployment) -> str:
    return str(running.data / "keys" / "tls_root.pem")

"""What each route takes and answers, by its view's name; ``openapi.py`` makes the document of it.

A code stands here with the status that it is answered with. What a policy, a body or a path adds is added for every
route that has one, so that only what is particular to a route is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cloud_server.api.operator import PROMETHEUS
from shared.wire.requests import INBOX_HEADER, JSON, OCTETS, OFFSET_QUERY, WHOLE_QUERY

Codes = Mapping[int, tuple[str, ...]]  # problem codes by status


@dataclass(frozen=True)
class Operation:
    """One route.

    Attributes:
        answer: schema of the 200, or its media type where it is not JSON.
        body: schema of the request's body, or its media type where it is not JSON; empty for none.
        held: whether it waits for something to answer, and may say 202.
        queries: names of the query's parameters, and whether each must be there.
        headers: names of headers that must be there, besides a signed request's.
        ranges: whether it answers conditional and range requests, as files are.
        problems: the codes that only this route has.
    """

    answer: str
    body: str = ""
    held: bool = False
    ranges: bool = False
    queries: Mapping[str, bool] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    problems: Codes = field(default_factory=dict)


# Anything may be no HTTP at all, too slow or too much, and is refused before a route is found.
UNREADABLE: Final[Codes] = {
    400: ("bad-http",),
    408: ("too-slow",),
    414: ("target-too-long",),
    417: ("bad-expectation",),
    429: ("too-many-requests",),
    431: ("headers-too-large",),
    503: ("storage-unavailable",),
}
WITH_BODY: Final[Codes] = {
    400: ("bad-request", "broken-body", "body-too-large", "bad-json", "bad-field", "bad-octets"),
    413: ("request-entity-too-large",),
    415: ("wrong-content-type", "content-encoded"),
}
WITH_PATH_PARAMETERS: Final[Codes] = {404: ("not-found",)}
BY_DEVICES: Final[Codes] = {
    400: ("bad-octets",),
    401: ("unsigned-request", "unknown-device", "bad-signature", "device-revoked", "key-superseded"),
    403: ("identity-quarantined",),
    409: ("replayed-request",),
}
BY_DEVICES_WITH_BODY: Final[Codes] = {400: ("body-hash",)}
# Why a cohort that a device is in can be over: what follows ended it for everybody, the first two for this device.
OVER: Final[Codes] = {
    410: (
        "phase-over",
        "cohort-closed",
        "round-abandoned",
        "no-graph-seed",
        "too-few-shares",
        "too-few-survivors",
        "no-agreement",
        "too-few-answers",
        "bad-shares",
        "implausible-counts",
        "implausible-lanes",
        "implausible-norm",
        "vector-lost",
        "sum-damaged",
        "restored",
        # What is verified again when the roster is fixed and seeded; it was fine when each member joined.
        "duplicate-member",
        "seed-drawn",
        "seed-refused",
        "other-roster",
        "bad-signature",
        "expired-certificate",
        "bad-field",
        "bad-json",
        "bad-name",
        "bad-octets",
        "bad-public-key",
        "body-too-large",
        "other-cohort",
        "other-model",
        "other-plan",
        "other-task",
        "same-keys",
        "wrong-device",
    )
}


def _step(body: str, problems: Codes) -> Operation:
    """Return a message of a cohort's member."""
    common: Codes = {404: ("cohort-unknown", "not-in-roster"), 409: ("different-repeat",), **OVER}
    return Operation("Nothing", body, problems=both(common, problems))


def _reading(answer: str) -> Operation:
    """Return what a cohort's member reads."""
    return Operation(answer, held=True, problems={404: ("cohort-unknown", "not-in-roster"), **OVER})


def both(first: Codes, second: Codes) -> Codes:
    """Return the codes of both, by status."""
    statuses = sorted({*first, *second})
    return {status: tuple(dict.fromkeys((*first.get(status, ()), *second.get(status, ())))) for status in statuses}


OPERATIONS: Final[Mapping[str, Operation]] = {
    "healthz": Operation("Health"),
    "readyz": Operation("Health", problems={503: ("not-ready",)}),
    "metrics": Operation(PROMETHEUS, problems={403: ("metrics-are-local",)}),
    "openapi": Operation("OpenAPI"),
    "enrolment.root": Operation("Root"),
    "enrolment.enrol": Operation(
        "SignedCertificate",
        "EnrolRequest",
        problems={
            401: ("bad-signature",),
            403: ("code-unknown", "code-revoked", "code-expired", "other-authority"),
            404: ("task-unknown",),
            409: ("code-used",),
        },
    ),
    "enrolment.admit": Operation(
        "Nothing",
        "SignedCertificate",
        problems={401: ("bad-signature",), 403: ("expired-certificate",), 404: ("task-unknown",)},
    ),
    "enrolment.renew": Operation(
        "SignedCertificate",
        "RenewalRequest",
        problems={
            401: ("bad-signature", "device-revoked", "key-superseded", "unknown-device"),
            403: (
                "certificate-unknown",
                "expired-certificate",
                "identity-quarantined",
                "other-authority",
                "renewed-lately",
                "too-many-keys",
            ),
            409: ("used-key",),
        },
    ),
    "enrolment.show_certificate": Operation(
        "Nothing", "SignedCertificate", problems={401: ("wrong-device",), 403: ("expired-certificate",)}
    ),
    "enrolment.leave": Operation("Nothing", "Leaving"),
    "work.check_in": Operation("Assignment", "CheckIn", held=True, problems={404: ("task-unknown",)}),
    "work.rendezvous": Operation(
        "Meeting", "Rendezvous", held=True, problems={404: ("task-unknown",), 409: ("version-closed",)}
    ),
    "work.decision": Operation("SignedDecision", problems={404: ("no-decision",)}),
    "work.release_key": Operation("SignedReleaseKey", problems={404: ("no-later-key",)}),
    "work.release": Operation("Release", problems={404: ("version-unknown",), 410: ("version-removed",)}),
    "work.blob": Operation(
        OCTETS, ranges=True, problems={404: ("blob-unknown",), 416: ("requested-range-not-satisfiable",)}
    ),
    "work.difference": Operation(
        OCTETS, ranges=True, problems={404: ("no-difference",), 416: ("requested-range-not-satisfiable",)}
    ),
    "cohorts.join": _step(
        "Join",
        {
            400: ("bad-name", "old-agent"),
            401: ("bad-signature", "wrong-device"),
            403: (
                "already-evaluated",
                "bad-public-key",
                "contributions-used",
                "expired-certificate",
                "other-cohort",
                "other-group",
                "other-model",
                "other-plan",
                "other-stage",
                "other-task",
                "same-keys",
                "too-little-memory",
                "too-soon",
                "wrong-device",
            ),
            404: ("task-unknown",),
            409: ("duplicate-member",),
        },
    ),
    "cohorts.shares": _step("Shares", {400: ("wrong-receivers",)}),
    "cohorts.vector": replace(
        _step(
            OCTETS,
            {
                400: (
                    "bad-query",
                    "bad-signed-inbox",
                    "never-shared",
                    "no-signed-inbox",
                    "wrong-inbox",
                    "wrong-vector-length",
                ),
                401: ("bad-signature",),
                404: ("task-unknown",),
                409: ("wrong-offset", "upload-damaged"),
                503: ("upload-broke-off",),
            },
        ),
        queries={OFFSET_QUERY: False, WHOLE_QUERY: False},
        headers=(INBOX_HEADER,),
    ),
    "cohorts.received": Operation(
        "Received",
        queries={WHOLE_QUERY: True},
        problems={
            400: ("bad-query", "never-shared"),
            404: ("cohort-unknown", "not-in-roster", "task-unknown"),
            409: ("different-repeat",),
            **OVER,
        },
    ),
    "cohorts.agreement": _step("Agreement", {400: ("not-a-survivor",), 401: ("bad-signature",)}),
    "cohorts.answer": _step("Answer", {400: ("not-a-survivor", "wrong-shares")}),
    "cohorts.roster": _reading("Roster"),
    "cohorts.inbox": _reading("Inbox"),
    "cohorts.survivors": _reading("Survivors"),
    "cohorts.agreements": _reading("Agreements"),
    "cohorts.outcome": _reading("Outcome"),
}
MEDIA: Final = frozenset({PROMETHEUS, OCTETS, JSON})

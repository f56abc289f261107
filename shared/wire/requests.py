"""How a device proves that a request is its own, and where requests go.

Each signed request carries four headers. The signature covers the deployment (its root's fingerprint), the device,
a counter that only grows, method, target and the body's hash: a recorded request is worthless at another server,
for another device or body, and, since the counter was used, here.
"""

from __future__ import annotations

from typing import Final

from shared.wire.canonical import transcript

DEVICE_HEADER: Final = "Fedloom-Device"
COUNTER_HEADER: Final = "Fedloom-Counter"
BODY_HEADER: Final = "Fedloom-Body-Sha256"
SIGNATURE_HEADER: Final = "Fedloom-Signature"
INBOX_HEADER: Final = "Fedloom-Signed-Inbox"  # of every PUT vector: whose boxes the member masked with, as base64url
REQUEST_ID_HEADER: Final = "Fedloom-Request-Id"  # in every answer; the server's log has it too

OPENAPI: Final = "/v1/openapi.json"  # GET, public: every route, described
ROOT: Final = "/v1/root"  # GET, public: the root document
ENROL: Final = "/v1/enrol"  # POST, a one-time code: a certificate
ADMIT: Final = "/v1/admit"  # POST, public: a certificate of the authority; the device may send requests then
RENEW: Final = "/v1/renew"  # POST, where codes are redeemed, signed by two keys: a certificate for the newer one
CERTIFICATE: Final = "/v1/certificate"  # POST, signed by the key in the body's certificate: it counts from then on
SEEDS: Final = "/v1/graph-seeds"  # POST, at the authority, signed by the release key: a sparse graph's seed
LEAVE: Final = "/v1/leave"  # POST: the device is revoked, since its owner gives its identity up
CHECK_IN: Final = "/v1/check-in"  # POST: what to do next
RENDEZVOUS: Final = "/v1/rendezvous"  # POST: the cohort that forms for a version
RELEASES: Final = "/v1/releases"  # GET /{version}: release.json and its signature
DECISION: Final = "/v1/decision"  # GET: what the task's devices use, signed by the release key
RELEASE_KEY: Final = "/v1/release-key"  # GET: the authority's word on the key that signs releases now
BLOBS: Final = "/v1/blobs"  # GET /{sha256}: a file of a release; /{sha256}/from/{sha256}: a difference; Range allowed
COHORTS: Final = "/v1/cohorts"  # PUT and GET /{cohort}/{step}
VECTOR: Final = "vector"  # the step whose PUT may go on at a byte, and whose GET says at which
OFFSET_QUERY: Final = "offset"  # of PUT vector: which byte the body begins with
WHOLE_QUERY: Final = "sha256"  # of PUT and GET vector: hexadecimal hash of the whole vector

OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"


def vector_target(target: str, whole_sha256: str, offset: int | None = None) -> str:
    """Return where the rest of a vector goes from ``offset`` on; without one, where to ask how far it came."""
    start = "" if offset is None else f"{OFFSET_QUERY}={offset}&"
    return f"{target}?{start}{WHOLE_QUERY}={whole_sha256}"


def request_message(fingerprint: bytes, device: str, counter: int, method: str, target: str, body_sha256: str) -> bytes:
    """Return the bytes that a device signs for one request.

    Args:
        fingerprint: of the root document that the device pins.
        device: the pseudonym in its certificate.
        counter: larger than in every request before.
        method: in capitals.
        target: path and query as sent.
        body_sha256: hexadecimal, of the body's exact bytes.
    """
    return transcript("fedloom/1/request", fingerprint, device, counter, method, target, body_sha256)


def enrolment_message(fingerprint: bytes, secret: bytes, identity_key: bytes) -> bytes:
    """Return the bytes that prove, at enrolment, that the device holds the secret half of ``identity_key``."""
    return transcript("fedloom/1/enrol", fingerprint, secret, identity_key)


def renewal_message(fingerprint: bytes, certificate_body: bytes, serial: int, identity_key: bytes) -> bytes:
    """Return the bytes that a device signs twice for its next certificate, with its key and with the next one.

    Args:
        fingerprint: of the root document that the device pins.
        certificate_body: the exact bytes of its newest certificate, which name the device and its key.
        serial: of the next certificate.
        identity_key: the next key, 32 octets.
    """
    return transcript("fedloom/1/renew", fingerprint, certificate_body, serial, identity_key)


def seed_request_message(cohort: str, roster_root: bytes) -> bytes:
    """Return the bytes with which an aggregator's release key asks the authority for a cohort's seed."""
    return transcript("fedloom/1/seed-request", cohort, roster_root)

"""The authority's own web application: codes are redeemed and seeds drawn here, away from the aggregator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flask import Flask, Response, request

from cloud_server.api import health, problems
from cloud_server.api.limiting import Limits, limit
from cloud_server.api.observing import observe
from cloud_server.api.policy import public, stating
from cloud_server.authority.registry import Authority
from cloud_server.authority.release_keys import key_of_now
from shared.clock import SystemClock
from shared.errors import TryLater
from shared.root import Root
from shared.wire.canonical import sha256
from shared.wire.messages import EnrolRequest, RenewalRequest, SeedRequest, write_signed
from shared.wire.requests import ENROL, JSON, RENEW, SEEDS, seed_request_message
from shared.wire.signed import verify

AGGREGATOR_FILE: Final = "aggregator_root.json"
MAX_BODY_BYTES: Final = 16 * 1024
DEFAULT_LIMITS: Final = Limits()


def read_root(folder: Path) -> Root:
    """Return the root document of the aggregator that this authority serves.

    Raises:
        TryLater: ``no-aggregator`` before ``code create --root`` named one.
    """
    path = folder / AGGREGATOR_FILE
    if not path.exists():
        raise TryLater("no-aggregator", "This authority does not know its aggregator yet.", "it is tried again later")
    data = path.read_bytes()
    return Root.verified(data, sha256(data))


def create_app(authority: Authority, folder: Path, limits: Limits = DEFAULT_LIMITS) -> Flask:
    """Return the WSGI application over ``authority``, whose files are in ``folder``, which keeps to ``limits``."""
    app = Flask("fedloom-authority", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a second spelling of a path is no path, instead of a redirect
    problems.register(app)
    health.register(
        app,
        {"database": health.database_answers(authority.database), "folder": health.folder_writable(folder)},
    )
    observe(app, os.urandom)
    limit(app, limits)

    @app.post(ENROL)
    @public
    def enrol() -> Response:
        """Redeem a code; the device shows its certificate to the aggregator itself."""
        certificate = authority.redeem(EnrolRequest.from_bytes(request.get_data()), read_root(folder).fingerprint)
        return Response(write_signed("certificate", certificate.signed), content_type=JSON)

    @app.post(RENEW)
    @public
    def renew() -> Response:
        """Certify a device's next key; whether the device is revoked is the aggregator's to know, and to enforce."""
        certificate = authority.renew(RenewalRequest.from_bytes(request.get_data()), read_root(folder).fingerprint)
        return Response(write_signed("certificate", certificate.signed), content_type=JSON)

    @app.post(SEEDS)
    @stating("aggregator")
    def draw() -> Response:
        """Draw for the aggregator alone: anybody else could use up its cohorts' ids."""
        wanted = SeedRequest.from_bytes(request.get_data())
        message = seed_request_message(wanted.cohort, wanted.roster_root)
        key = key_of_now(folder, authority.public_key, read_root(folder))
        verify(key, message, wanted.signature, "a request for a seed")
        return Response(write_signed("seed", authority.draw_seed(wanted.cohort, wanted.roster_root)), content_type=JSON)

    return app


def application(data: str, **limits: float | str) -> Flask:
    """Entry point of a web worker."""
    folder = Path(data)
    return create_app(Authority(folder, SystemClock(), os.urandom), folder, Limits.of(limits))

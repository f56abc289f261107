"""A bare Flask route, to compare the aggregator's with: same server, same worker, same TLS, nothing behind it."""

from __future__ import annotations

from flask import Flask, Response

from cloud_server.api.limiting import EXTENSION, Limiter, Limits
from shared.wire.messages import Assignment
from shared.wire.requests import CHECK_IN, JSON

ANSWER = Assignment("wait", 0, 1, 500, "no-round").to_bytes()


def application(_data: str) -> Flask:
    """Entry point of a web worker."""
    app = Flask("bare", static_folder=None)
    app.extensions[EXTENSION] = Limiter(Limits(requests_per_address_s=0.0))  # which the worker looks for; limits nobody

    @app.post(CHECK_IN)
    def check_in() -> Response:
        return Response(ANSWER, content_type=JSON)

    return app

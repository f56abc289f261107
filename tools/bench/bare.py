"""A bare Flask route, to compare the aggregator's with: same server, same worker, same TLS, nothing behind it."""

from __future__ import annotations

from flask import Flask, Response

from shared.wire.messages import Assignment
from shared.wire.requests import CHECK_IN, JSON

ANSWER = Assignment("wait", 0, 1, 500, "no-round").to_bytes()


def application(_data: str) -> Flask:
    """Entry point of a web worker."""
    app = Flask("bare", static_folder=None)

    @app.post(CHECK_IN)
    def check_in() -> Response:
        return Response(ANSWER, content_type=JSON)

    return app

"""What an operator's monitoring reads: metrics, by default from this machine only."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, Literal

from flask import Flask, Response, request

from cloud_server.api.policy import stating
from shared.errors import Refused

METRICS: Final = "/metrics"
Audience = Literal["public", "local", "off"]
AUDIENCES: Final[tuple[Audience, ...]] = ("public", "local", "off")
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def register(app: Flask, audience: Audience, read: Callable[[], bytes]) -> None:
    """Add the route for metrics, which ``read`` returns in Prometheus' text format, unless it is ``off``."""
    if audience == "off":
        return

    @app.get(METRICS)
    @stating("monitoring")
    def metrics() -> Response:
        """Return the aggregator's metrics."""
        if audience == "local" and not _from_here():
            raise Refused(
                "metrics-are-local",
                "Metrics are answered on this machine only.",
                "ask on the server itself, or start it with --metrics public",
            )
        return Response(read(), content_type=PROMETHEUS)


def _from_here() -> bool:
    """Say whether the request comes from a process of this machine, and through no proxy that would hide another."""
    forwarded = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    try:
        return not forwarded and ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False

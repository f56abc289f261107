"""Requests that have nothing to answer yet are held for a while, then told to come back."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Response

from cloud_server.api.context import context
from shared.limits import MAX_POLL_HOLD_S, POLL_INTERVAL_S, RETRY_AFTER_MS
from shared.wire.canonical import encode
from shared.wire.requests import JSON


def hold(answer: Callable[[], bytes | None]) -> Response:
    """Return what ``answer`` gives, asking again whenever a driver moved something until the hold ends.

    Args:
        answer: reads the database; None means not yet.

    Returns:
        200 with the answer's JSON, or 202 with ``retry_after_ms``.
    """
    revisions = context().revisions
    deadline_s = time.monotonic() + MAX_POLL_HOLD_S
    if (body := answer()) is not None:  # as most requests get; nobody needs to look for changes then
        return Response(body, content_type=JSON)
    mark = revisions.mark()  # before asking again, so that no change in between is missed
    while (body := answer()) is None:
        while (now_mark := revisions.mark()) == mark:
            if time.monotonic() >= deadline_s:
                return come_back(0)
            time.sleep(POLL_INTERVAL_S)
        mark = now_mark
    return Response(body, content_type=JSON)


def come_back(retry_after_ms: int = RETRY_AFTER_MS) -> Response:
    """Return 202 with the milliseconds to wait, and the same in whole seconds for proxies."""
    response = Response(encode({"retry_after_ms": retry_after_ms}), status=202, content_type=JSON)
    response.headers["Retry-After"] = str(-(-retry_after_ms // 1000))
    return response

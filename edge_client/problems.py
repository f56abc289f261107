"""Errors that a server reports (RFC 9457), as the errors of this program."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus

from shared.errors import (
    Conflict,
    FedloomError,
    Missing,
    Refused,
    TooManyRequests,
    TryLater,
    Unauthenticated,
    UsageError,
)
from shared.limits import RETRY_AFTER_MS
from shared.wire.canonical import Json, decode

_CODE = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_MAX_CHARACTERS = 1000
_CLASSES: dict[int, type[FedloomError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: Refused,
    HTTPStatus.NOT_FOUND: Missing,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.REQUEST_TIMEOUT: TryLater,
}


class CohortOver(TryLater):
    """The cohort failed, or went on without this device."""


class VersionClosed(TryLater):
    """No cohort forms any more for this version, or the server does not keep it any more."""


class NotNow(TryLater):
    """What the owner of this device set does not let it go on now; nobody else can change that."""


class TooSlow(TryLater):
    """An answer came, but so slowly that waiting for its end is of no use."""


class SignInPage(TryLater):
    """The network answers in the server's place until somebody signs in."""


def not_the_server(why: str, *, also: str = "", remedy: str = "") -> TryLater:
    """Return the error for an answer that this protocol's server does not give.

    Args:
        why: that is known.
        also: what to look for, too.
        remedy: what to do instead of that.
    """
    return TryLater(
        "not-the-server",
        f"Something else than the server answered: {why}.",
        remedy or f"look for a proxy on this network, or before the server{also}; it is tried again later",
    )


def clock_behind(why: str, now_s: float) -> TryLater:
    """Return the error for a clock that shows an earlier time than it can be.

    Args:
        why: that is known.
        now_s: what it shows, seconds since the epoch.
    """
    return TryLater(
        "clock-wrong",
        f"This device's clock says {utc_text(now_s)}, but {why}.",
        "set the clock: `timedatectl` says whether systemd-timesyncd does; a board without a clock chip needs that and"
        " the package fake-hwclock; it is tried again later",
    )


def utc_text(time_s: float) -> str:
    """Return a time for people."""
    try:
        return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):  # beyond what dates can express
        return f"{time_s:.0f} s after 1970"


def problem(status: int, body: bytes) -> FedloomError:
    """Return the error that a response with a failure status stands for.

    A body that is no problem document came from something between here and the server.
    """
    try:
        document = decode(body)
    except UsageError:
        document = {}
    code = _text(document.get("code"))
    if not _CODE.fullmatch(code):
        return not_the_server(f"status {status} without a problem document")
    message = _text(document.get("detail")) or _text(document.get("title")) or f"The server answered {status}."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait_ms = document.get("retry_after_ms")
        return TooManyRequests(message, wait_ms if isinstance(wait_ms, int) and wait_ms >= 0 else RETRY_AFTER_MS)
    return _class_of(status, code)(code, message, _text(document.get("try")))


def _class_of(status: int, code: str) -> type[FedloomError]:
    if (status, code) in {(HTTPStatus.CONFLICT, "version-closed"), (HTTPStatus.GONE, "version-removed")}:
        return VersionClosed
    if status == HTTPStatus.GONE:
        return CohortOver
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TryLater
    return _CLASSES.get(status, UsageError)


def _text(value: Json) -> str:
    """Return what may be shown on a terminal of a text that a stranger sent."""
    if not isinstance(value, str):
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in value[:_MAX_CHARACTERS])

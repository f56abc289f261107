"""What was done, said on the page that its form leads to: signed, so that no link can claim what never happened."""

from __future__ import annotations

import hmac
from typing import Final

from flask import g, request

from cloud_server.api.context import context
from cloud_server.dashboard.guard import Operator

FIELD: Final = "done"
_SHOWN_S: Final = 60
_MAC_CHARACTERS: Final = 32
_PARTS: Final = 3


def notice(key: str, path: str) -> str:
    """Return what says on the page at ``path``, for a minute and in this session alone, that ``key`` was done."""
    now_s = int(context().clock.now_s())
    return f"{key}.{now_s}.{_mac(key, path, now_s)}"


def shown_notice() -> str:
    """Return what was just done that led to the current page, empty for nothing."""
    key, *rest = request.args.get(FIELD, "").split(".")
    if len(rest) != _PARTS - 1 or not (rest[0].isascii() and rest[0].isdigit() and len(rest[0]) < 16):
        return ""
    at_s = int(rest[0])
    expected = _mac(key, request.path, at_s)
    fits = bool(expected) and hmac.compare_digest(expected.encode(), rest[1].encode())
    return key if fits and 0 <= context().clock.now_s() - at_s <= _SHOWN_S else ""


def _mac(key: str, path: str, at_s: int) -> str:
    who = g.get("operator")
    if not isinstance(who, Operator) or not who.form_token:
        return ""
    said = f"fedloom notice {key} {path} {at_s}".encode()
    return hmac.digest(who.form_token.encode(), said, "sha256").hex()[:_MAC_CHARACTERS]

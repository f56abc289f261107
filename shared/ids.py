"""Names of things, and the characters they may have: they appear in paths, logs and pages, so nothing else does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from shared.errors import UsageError
from shared.limits import MAX_NAME_CHARACTERS

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?", re.ASCII)


def require_name(name: str, what: str) -> str:
    """Return ``name`` if it is made of lower-case letters, digits, ``-`` and ``_``.

    Raises:
        UsageError: ``bad-name``.
    """
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise UsageError(
            "bad-name",
            f"{what} is not a valid name.",
            f"use 1 to {MAX_NAME_CHARACTERS} lower-case letters, digits, - and _, beginning and ending with a letter"
            " or digit",
        )
    return name


def random_id(prefix: str, random_bytes: Callable[[int], bytes]) -> str:
    """Return ``prefix-`` and 128 random bits in hexadecimal."""
    return f"{prefix}-{random_bytes(16).hex()}"

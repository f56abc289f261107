"""Configuration files as they are shipped, with a test's own places in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def with_places(shipped: Path, changes: Mapping[str, str]) -> str:
    """Return a shipped file's text with each of ``changes`` made; every one of them must be in it."""
    text = shipped.read_text("utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text

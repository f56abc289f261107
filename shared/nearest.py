"""What somebody may have meant who wrote a word that there is not."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the word of ``known`` that ``word`` may be a slip of, None if none is near."""
    from difflib import get_close_matches  # noqa: PLC0415  # 10 ms that only mistakes shall cost

    return next(iter(get_close_matches(word, list(known), 1)), None)

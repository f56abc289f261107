"""The pages' languages: a catalogue each, chosen by a switch that a cookie keeps, else by the browser."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from flask import request

from cloud_server.dashboard.sentences import CATALOGUES, Sentences

LANGUAGES: Final = {"en": "English", "zh": "中文"}
LANGUAGE_COOKIE: Final = "fedloom-language"


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: as HTML has it.
        texts: by key.
    """

    code: str
    texts: dict[str, str]

    def text(self, key: str, **values: object) -> str:
        """Return a text with ``values`` put in; a key that the catalogue lacks is its own text."""
        found = self.texts.get(key, key)
        return found.format(**values) if values else found

    @property
    def sentences(self) -> Sentences:
        """What the program says of itself, in this language."""
        return _sentences(self.code)


@lru_cache(maxsize=8)
def _sentences(code: str) -> Sentences:
    return Sentences.of(code)


@lru_cache(maxsize=8)
def catalogue(code: str) -> Language:
    """Return a language's texts."""
    return Language(code, json.loads((CATALOGUES / f"{code}.json").read_text("utf-8")))


def chosen() -> Language:
    """Return the language of the current request."""
    code = request.cookies.get(LANGUAGE_COOKIE, "")
    if code not in LANGUAGES:
        code = request.accept_languages.best_match(LANGUAGES, default="en") or "en"
    return catalogue(code)

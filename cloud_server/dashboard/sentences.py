"""What the program says of itself, errors, cautions and reasons, in another language than the English it is stored in.

The English sentence is the key: reasons are kept in the database, and errors are made far from any page. A template has
``{}`` where the program puts a value, and the translation ``{0}``, ``{1}`` for them; values that are sentences of the
catalogue themselves are translated, too. What nobody translated, such as an operator's own reason, stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

CATALOGUES: Final = Path(__file__).parent / "texts"
MOST_NESTED: Final = 3


@dataclass(frozen=True)
class Explained:
    """A problem in somebody's language.

    Attributes:
        text: what happened.
        remedy: what to try, may be empty.
        original: the English text, where it says more than ``text`` does; else empty.
    """

    text: str
    remedy: str = ""
    original: str = ""


@dataclass(frozen=True)
class Template:
    """A sentence and its translation.

    Attributes:
        parts: of the English sentence, what is between its values.
        translated: with ``{0}`` and so on for the values.
    """

    parts: tuple[str, ...]
    translated: str

    @classmethod
    def of(cls, english: str, translated: str) -> Template:
        """Read a catalogue's entry."""
        return cls(tuple(english.split("{}")), translated)

    @property
    def says(self) -> int:
        """How many characters are not values."""
        return sum(map(len, self.parts))

    def values(self, text: str) -> list[str] | None:
        """Return the values with which this sentence is ``text``, None if it is not; in linear time."""
        first, last = self.parts[0], self.parts[-1]
        if len(self.parts) == 1:
            return [] if text == first else None
        place, end, found = len(first), len(text) - len(last), list[str]()
        if not (text.startswith(first) and text.endswith(last)):
            return None
        for part in self.parts[1:-1]:
            after = text.find(part, place + 1, end)
            if after < 0:
                return None
            found.append(text[place:after])
            place = after + len(part)
        return [*found, text[place:end]] if place < end else None


@dataclass(frozen=True)
class Sentences:
    """A language's catalogue.

    Attributes:
        problems: by code: ``text`` and ``try`` for whatever an error of that code says, ``says`` by template, and
            ``original`` where an error's own text may say more than these.
        sentences: by template.
    """

    problems: Mapping[str, Mapping[str, Any]]
    sentences: Mapping[str, str]

    @classmethod
    def of(cls, language: str) -> Sentences:
        """Read a language's catalogue; English has none, for it is what the program speaks."""
        path = CATALOGUES / f"sentences.{language}.json"
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else cls({}, {})

    @cached_property
    def _common(self) -> list[Template]:
        return _sorted(self.sentences)

    @cached_property
    def _own(self) -> dict[str, list[Template]]:
        return {code: _sorted(one["says"]) for code, one in self.problems.items()}

    def say(self, text: str) -> str:
        """Return a sentence that the program said, in this language; as it is where the catalogue lacks it."""
        code, _, message = text.partition(": ")
        if code in self.problems:  # as failures are stored
            return self.explain(code, message).text
        return self._said(text, [], MOST_NESTED) or text

    def explain(self, code: str, message: str, remedy: str = "") -> Explained:
        """Return what happened and what to try."""
        known = self.problems.get(code)
        if known is None:
            return Explained(self.say(message), self.say(remedy))
        text, do = (self._said(one, self._own[code], MOST_NESTED) for one in (message, remedy))
        original = message if known["original"] and not text else ""
        return Explained(text or known["text"], do or (known["try"] if remedy else ""), original)

    def _said(self, text: str, own: list[Template], depth: int) -> str:
        """Return a translation, empty where there is none."""
        for template in [*own, *self._common] if text else []:
            values = template.values(text)
            if values is not None:
                told = [self._said(one, own, depth - 1) or one if depth else one for one in values]
                return template.translated.format(*told)
        return ""


def _sorted(templates: Mapping[str, str]) -> list[Template]:
    """Return templates; those that say most come first, so that they are not taken for another's value."""
    made = [Template.of(english, translated) for english, translated in templates.items()]
    return sorted(made, key=lambda one: -one.says)

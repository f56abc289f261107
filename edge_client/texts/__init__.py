"""What the agent says to its owner, in the owner's language: one file of texts per language, all with the same names.

Errors, logs and ``--json`` are in English: other people and programs read those, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Final

from edge_client.conditions.decide import LOOK_AGAIN_S, LocalTime, No
from edge_client.texts import chinese, english

_LANGUAGE_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first one that is set counts, as in gettext


@dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        code: as ``--lang`` takes it.
        texts: by name.
    """

    code: str
    texts: Mapping[str, str]

    def __call__(self, name: str, **values: object) -> str:
        """Return a text with its values."""
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
        return self.texts[name].format(**shown)


English: Final = Language("en", english.TEXTS)
Chinese: Final = Language("zh", chinese.TEXTS)
LANGUAGES: Final = {language.code: language for language in (English, Chinese)}


def language_of(environment: Mapping[str, str]) -> Language:
    """Return the language that the environment asks for; English where there is no such one here."""
    wanted = next((environment[name] for name in _LANGUAGE_VARIABLES if environment.get(name)), "")
    return Chinese if wanted.lower().startswith("zh") else English


def reason_in(language: Language, reason: No, local: LocalTime) -> str:
    """Return why it does not train, in words."""
    return words_of(language, reason.code, reason.values, local)


def words_of(language: Language, code: str, values: Mapping[str, float | str], local: LocalTime) -> str:
    """Return a reason in words; values whose names end in ``_s`` are times."""
    shown = {
        name: time_text(float(value), local)
        if name.endswith("_s")
        else value
        if isinstance(value, str)
        else float(value)
        for name, value in values.items()
    }
    return language(f"reason.{code}", **shown)


def error_in(language: Language, code: str, message: str, remedy: str) -> tuple[str, str]:
    """Return what an error says and what to do, in ``language`` where that has words for its code."""
    if f"error.{code}" not in language.texts:
        return message, remedy
    return language(f"error.{code}"), language(f"error.{code}-try")


def again_in(language: Language, look_again_s: float | None, now_s: float, local: LocalTime) -> str:
    """Return when it looks again, in words."""
    if look_again_s is None or look_again_s == inf or look_again_s - now_s <= LOOK_AGAIN_S:
        return language("again.soon")
    return language("again.at", time=time_text(look_again_s, local))


def time_text(time_s: float, local: LocalTime) -> str:
    """Return a local time for people."""
    return f"{local(time_s):%Y-%m-%d %H:%M}"


def system_local_time(time_s: float) -> datetime:
    """Return the local time of this machine's time zone."""
    return datetime.fromtimestamp(time_s).astimezone()

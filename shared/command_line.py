"""Command lines whose mistakes are told as all others are: a named error, with the nearest word that there is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from shared.errors import UsageError
from shared.nearest import nearest


class CommandParser(argparse.ArgumentParser):
    """Raises instead of exiting; options are not abbreviated, so that a new one never changes what an old word means.

    Args:
        settings: as of ``argparse.ArgumentParser``.

    Raises:
        UsageError: ``usage``, by ``parse_args``.
    """

    _words: Sequence[str] = ()

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  # argparse names them
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(  # type: ignore[override]  # as it is called by argparse itself
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, but refuse unknown options here, where those that there are are known."""
        self._words = args or ()
        found, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return found, others

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and what may have been meant."""
        options = self._option_string_actions
        given = [word.partition("=")[0] for word in self._words[: self._end_of_options()]]
        for word in given:
            if word.startswith("--") and word not in options and (meant := nearest(word, options)):
                raise UsageError("usage", f"{self.prog} has no option {word}.", f"did you mean {meant}?")
        raise UsageError("usage", f"{message[:1].upper()}{message[1:]}.", f"{self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401  # of any type
        """Name the nearest of an argument's choices."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            meant = nearest(str(value), known)
            hint = f"did you mean {meant}?" if meant else f"choose one of {', '.join(known)}"
            option = next(iter(action.option_strings), None)
            text = f"{self.prog} has no {value!r}." if option is None else f"{option} cannot be {value!r}."
            raise UsageError("usage", text, hint)

    def _end_of_options(self) -> int:
        return self._words.index("--") if "--" in self._words else len(self._words)

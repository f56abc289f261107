"""Numbers on command lines that are looked for in the database."""

from __future__ import annotations

import argparse

from shared.release import MAX_VERSION


def stored_number(text: str) -> int:
    """Return a number from 0 to what every database's columns hold; an argument's ``type``.

    Raises:
        ArgumentTypeError: for anything else, so that no database has to refuse it.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VERSION)) and int(text) <= MAX_VERSION):
        raise argparse.ArgumentTypeError(f"a whole number from 0 to {MAX_VERSION} is expected")
    return int(text)

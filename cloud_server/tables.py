r"""What commands print for people: aligned tables and facts in which nothing can speak to the terminal.

Names, reasons and failures come from devices, operators and files. Whatever in them would move the cursor, change
colours, turn the direction of writing or begin another line is printed as an escape, such as ``\x1b``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from cloud_server.figures import ago, duration, iso, size
from shared.wire.canonical import Json

NONE: Final = "-"
_OBEYED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # categories that a terminal may act on
_FIGURE: Final = re.compile(r"(?:< )?-?\d+(?:\.\d+)?(?:e[+-]\d+)?(?: (?:B|KiB|MiB|GiB|TiB|%|s))?|-?")
_SHORT_HASH: Final = 16
_SHA256_DIGITS: Final = 64


def plain(text: str) -> str:
    """Return a text in one line that a terminal shows and does not obey."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def plain_lines(text: str) -> str:
    """Return the same of a text of several lines."""
    return "\n".join(plain(line) for line in text.split("\n"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns, those of figures to the right."""
    lines = [[plain(cell) for cell in row] for row in rows]
    columns = list(zip(*lines, strict=True)) if lines else [() for _ in head]
    figures = [any(column) and all(map(_FIGURE.fullmatch, column)) for column in columns]
    widths = [max(map(_width, (name, *column))) for name, column in zip(head, columns, strict=True)]
    return "\n".join(
        "  ".join(_filled(*cell) for cell in zip(line, widths, figures, strict=True)).rstrip()
        for line in [head, *lines]
    )


def _filled(cell: str, width: int, to_the_right: bool) -> str:  # noqa: FBT001  # of zip
    spaces = " " * (width - _width(cell))
    return spaces + cell if to_the_right else cell + spaces


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in {"Mn", "Me"} for character in text)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a line for each name and its value."""
    shown = [(name, plain(value) or NONE) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def nothing(what: str, following: str) -> str:
    """Return what stands in the place of an empty list, and what to do next."""
    return f"{what}\n  next: {following}"


def when(seconds: Json) -> str:
    """Return a time in UTC."""
    return iso(float(str(seconds))) or NONE if seconds else NONE


def since(seconds: Json, now_s: float) -> str:
    """Return how long ago a time was."""
    return ago(float(str(seconds)), now_s) if seconds else NONE


def bytes_of(count: Json) -> str:
    """Return a size with its unit."""
    return NONE if count is None else size(float(str(count)))


def took(seconds: float | None) -> str:
    """Return a duration with its units."""
    return NONE if seconds is None else duration(seconds)


def rounded(value: Json, digits: int = 4) -> str:
    """Return a number after its point."""
    return f"{float(str(value)):.{digits}f}" if isinstance(value, int | float) else NONE


def significant(value: Json, digits: int = 3) -> str:
    """Return a number's first digits, of an epsilon for instance."""
    return f"{float(str(value)):.{digits}g}" if isinstance(value, int | float) else NONE


def word(value: Json) -> str:
    """Return a text or a whole number, a dash for none."""
    return NONE if value is None or value == "" else str(value)


def yes_or_no(value: Json) -> str:
    """Return it for people."""
    return "yes" if value else "no"


def detail(values: Json) -> str:
    """Return what a record says besides, in one line; of a hash its beginning."""
    if isinstance(values, dict):
        return ", ".join(f"{name} {detail(value)}" for name, value in values.items() if value not in (None, "", {}, []))
    if isinstance(values, list):
        return "[" + ", ".join(detail(value) for value in values) + "]"
    if isinstance(values, bool):
        return yes_or_no(values)
    if isinstance(values, float):
        return f"{values:.6g}"
    text = str(values)
    return text[:_SHORT_HASH] if len(text) == _SHA256_DIGITS and text.isalnum() else text


def described(value: Json, indent: str = "") -> str:
    """Return any result of a command for people: a line for each name."""
    if isinstance(value, dict) and not any(isinstance(item, dict | list) and item for item in value.values()):
        return facts([(indent + key.replace("_", " "), detail(item) or NONE) for key, item in value.items()])
    if isinstance(value, dict):
        return "\n".join(
            f"{indent}{plain(key)}:\n{described(item, indent + '  ')}"
            if isinstance(item, dict | list) and item
            else f"{indent}{plain(key)}: {plain(detail(item)) or NONE}"
            for key, item in value.items()
        )
    if isinstance(value, list):
        return "\n".join(indent + plain(detail(entry)) for entry in value)
    return f"{indent}{plain(detail(value))}"

"""What a person sees on the way: each page as everybody may have it, and every word of it in the language chosen."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from cloud_server.dashboard.language import LANGUAGES, catalogue
from tests.browser.screen import Screen

WIDTHS: Final = (360, 1280)
WORD: Final = re.compile(r"[A-Za-z]{2,}")
# Same in both languages: names, abbreviations, units, and what the pages' own switches say.
NAMES: Final = frozenset({"Fedloom", "Python", "SQLite", "TOML", "UTC", "KiB", "MiB", "GiB", "Mbit", "min"})
_SEEN: Final = """
const unread = "code, pre, textarea, script, style, time, [lang]:not(html)";
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const text = walk.currentNode.textContent.trim();
  if (text && !walk.currentNode.parentElement.closest(unread)) found.push(text);
}
for (const name of ["aria-label", "title", "alt"])
  for (const element of document.querySelectorAll(`[${name}]`))
    if (!element.closest(unread)) found.push(element.getAttribute(name));
return [document.title, ...found];
"""
_IDENTIFIERS: Final = """
return [...document.querySelectorAll("code")].map((one) => one.textContent.trim()).filter((text) => !/\\s/.test(text));
"""


def untranslated(screen: Screen, given: Collection[str]) -> list[str]:
    """Return the texts of a Chinese page with Latin words that neither its catalogue has nor somebody gave a name.

    What is set as code, such as identifiers, and what says that it is in another language, are no such texts; a label
    may name such an identifier, too.
    """
    chinese = catalogue("zh")
    texts = [*chinese.texts.values(), *chinese.sentences.sentences.values()]
    known = NAMES | {word for text in texts for word in WORD.findall(text)}
    known |= {word for name in given for word in WORD.findall(name)}
    known |= {word for one in screen.chrome.execute_script(_IDENTIFIERS) for word in WORD.findall(str(one))}
    seen: list[str] = screen.chrome.execute_script(_SEEN)
    return [text for text in seen if set(WORD.findall(text)) - known]


def look(screen: Screen, given: Collection[str], picture: Path | None = None) -> None:
    """Look at the page that is open as everybody may have it: narrow and wide, light and dark."""
    code = screen.chrome.execute_script("return document.documentElement.lang")
    for width, dark in itertools.product(WIDTHS, (False, True)):
        screen.shape(width, dark=dark)
        where = (screen.chrome.current_url, width, "dark" if dark else "light", code)
        assert screen.too_wide() <= 0, where
        faults = screen.faults()
        assert not faults, (where, faults)
        if picture is not None:
            screen.photograph(picture.with_name(f"{picture.name}-{width}{'-dark' if dark else ''}-{code}.png"))
    screen.shape(WIDTHS[-1])
    if code == "zh":
        left = untranslated(screen, given)
        assert not left, (screen.chrome.current_url, left)
    assert screen.elsewhere() == []


def look_in_every_language(screen: Screen, path: str, given: Collection[str], picture: Path | None = None) -> None:
    """Open a page in each language and look at it; the last one is English."""
    for code in sorted(LANGUAGES, reverse=True):
        screen.open(f"/console/language/{code}?next={path}")
        screen.find("footer")
        assert screen.chrome.execute_script("return document.documentElement.lang") == code
        look(screen, given, picture)

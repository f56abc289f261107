"""How far a command is that takes long, told at a terminal alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

INTERVAL_S: Final = 0.1  # between two lines
FIRST_S: Final = 0.5  # what is over sooner says nothing


class Report(Protocol):
    """Is told how far something is: what, how many of it are done, and of how many if that is known."""

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        """Tell."""
        ...


def unreported(what: str, done: int, total: int | None = None) -> None:
    """Tell nobody."""


class Stream(Protocol):
    """Where progress is written, such as standard error."""

    def isatty(self) -> bool:
        """Say whether somebody sees it."""
        ...

    def write(self, text: str, /) -> int:
        """Write."""
        ...

    def flush(self) -> None:
        """Let it be seen."""
        ...


@contextmanager
def progress(stream: Stream, clock_s: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Yield what writes one line over and over, and clears it at the end; nothing where nobody looks.

    Args:
        stream: to write to.
        clock_s: seconds that only grow.
    """
    if not stream.isatty():
        yield unreported
        return
    next_s, shown = clock_s() + FIRST_S, False

    def tell(what: str, done: int, total: int | None = None) -> None:
        nonlocal next_s, shown
        if clock_s() < next_s:
            return
        next_s, shown = clock_s() + INTERVAL_S, True
        share = f" of {total} ({100 * done // max(1, total)} %)" if total is not None else ""
        stream.write(f"\r\x1b[K{what}: {done}{share}")
        stream.flush()

    try:
        yield tell
    finally:
        if shown:
            stream.write("\r\x1b[K")
            stream.flush()

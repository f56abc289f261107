"""From a folder to the examples in it, by the reader that the folder declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from edge_client.examples.csv_files import csv_rows
from edge_client.examples.declaration import DECLARATION_FILE, Declaration, Reader, read_declaration
from edge_client.examples.npz import read_npz
from edge_client.examples.pictures import picture_rows
from edge_client.examples.recorded import ExampleStore, Layout, recorded_rows
from edge_client.examples.rows import Row, newest, split
from edge_client.examples.sounds import sound_rows
from shared.bundle import ArraySpec
from shared.errors import UsageError
from shared.examples import Examples

_BY_FILE: Final[dict[Reader, Callable[[Path, str, Declaration], Iterator[Row]]]] = {
    "csv": csv_rows,
    "images": picture_rows,
    "wav": sound_rows,
}


@dataclass(frozen=True)
class Found:
    """The examples of a folder.

    Attributes:
        train: to train on.
        held_out: on which models are judged.
        reader: that read them.
        problems: files that could not be read, and why; the others were.
    """

    train: Examples
    held_out: Examples
    reader: Reader
    problems: tuple[str, ...] = ()


def _go_on() -> None:
    """Wait for nothing before a file."""


def read_examples(
    folder: Path,
    now_s: float,
    log: Callable[[str], None] | None = None,
    before_file: Callable[[], None] = _go_on,
) -> tuple[Examples, Examples]:
    """Return the examples to train on and the held-out ones, and say what could not be read; else ``find_examples``."""
    found = find_examples(folder, now_s, before_file)
    if log is not None and found.problems:
        more = f", and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
        log(f"left out: {found.problems[0]}{more}")
    return found.train, found.held_out


def records(folder: Path) -> bool:
    """Say whether applications record in a folder; raises ``bad-examples-toml``."""
    return read_declaration(folder).reader == "recorded"


def expect(folder: Path, inputs: Sequence[ArraySpec], labels: ArraySpec) -> None:
    """Tell applications that record what the model takes, so that each is refused at once what does not fit.

    Args:
        folder: of examples.
        inputs: of the model, with the batch as their first dimension.
        labels: likewise.

    Raises:
        FedloomError: as ``ExampleStore``.
    """
    if not records(folder):
        return
    arrays = [(one.name, np.dtype(one.dtype).str, one.shape[1:]) for one in (*inputs, replace(labels, name="y"))]
    with ExampleStore(folder) as store:
        store.require(Layout(tuple(sorted(arrays))))


def find_examples(folder: Path, now_s: float, before_file: Callable[[], None] = _go_on) -> Found:
    """Read a folder of examples.

    Args:
        folder: of the owner.
        now_s: the time; examples grow too old.
        before_file: told before each file that is read that the work goes on.

    Raises:
        UsageError: ``examples-missing``, ``examples-unreadable``, ``examples-shape``, ``examples-empty`` or
            ``bad-examples-toml``.
    """
    declared = read_declaration(folder)
    if declared.reader == "npz":
        train, held_out = read_npz(folder)
        return Found(train, held_out, "npz")
    problems: list[str] = []
    rows = (
        recorded_rows(folder) if declared.reader == "recorded" else _of_files(folder, declared, problems, before_file)
    )
    used = list(newest(rows, declared.keep, now_s))
    if not used:
        if problems:
            raise UsageError("examples-unreadable", f"{folder}: {problems[0]}", "mend the file, or take it away")
        raise UsageError("examples-empty", f"{folder} has no example.", "collect data, then run again")
    train, held_out = split(used, declared.held_out_percent)
    if not len(train):
        raise UsageError("examples-empty", f"{folder} has no example to train on.", "collect data, then run again")
    return Found(train, held_out, declared.reader, tuple(problems))


def _of_files(
    folder: Path, declared: Declaration, problems: list[str], before_file: Callable[[], None]
) -> Iterator[Row]:
    """Read the newest file first; what is wrong with one stands in ``problems`` and does not hold up the others."""
    if not folder.is_dir():
        raise UsageError("examples-missing", f"There is no folder {folder}.", "enrol with another --examples")
    dated = []
    for path in folder.glob(declared.pattern):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.name == DECLARATION_FILE or not path.is_file():
            continue
        dated.append((path.stat().st_mtime, str(path.relative_to(folder)), path))
    if not dated:
        what = f"{folder} has no file like {declared.pattern}."
        raise UsageError("examples-missing", what, "put files there, or correct examples.toml")
    read = _BY_FILE[declared.reader]
    for _, name, path in sorted(dated, reverse=True):
        before_file()
        try:
            yield from list(read(path, name, declared))
        except (OSError, ValueError, EOFError) as error:
            problems.append(f"{name}: {_words(error)}")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__

"""Tables of numbers: a row, or so many rows in turn, is one example."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from edge_client.examples.declaration import Declaration
from edge_client.examples.rows import Row

_BLOCK: Final = 16  # examples that are held out together: neighbours are alike, and windows overlap


def csv_rows(path: Path, name: str, declared: Declaration) -> Iterator[Row]:
    """Return the examples of one file, the last first.

    Raises:
        ValueError: in words, with the line, if it is no such table.
    """
    shape = declared.csv
    if shape is None:
        raise TypeError("a declaration of tables has no columns")
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file, strict=True)
        try:
            head = next(lines, [])
            missing = [column for column in (*shape.inputs, shape.label) if column not in head]
            if missing:
                raise ValueError(f"there is no column {missing[0]!r}; there are {', '.join(head)[:200]}")
            columns, label = [head.index(column) for column in shape.inputs], head.index(shape.label)
            table, labels = [], []
            for line in filter(None, lines):
                values, number = _numbers(line, columns, label, declared, lines.line_num)
                table.append(values)
                labels.append(number)
        except csv.Error as error:
            raise ValueError(f"line {lines.line_num}: {error}") from error
    x, y = np.array(table, np.float32), np.array(labels, np.int32)
    time_s, window = path.stat().st_mtime, shape.window or 1
    starts = range(0, len(x) - window + 1, shape.step or window)
    # A window whose label changes has none.
    whole = [start for start in starts if (y[start : start + window] == y[start]).all()]
    for place, start in reversed(list(enumerate(whole))):
        rows = x[start : start + window] if shape.window else x[start]
        yield Row({"x": rows, "y": y[start]}, f"{name}:{place // _BLOCK}", time_s)


def _numbers(
    line: list[str], columns: list[int], label: int, declared: Declaration, number: int
) -> tuple[list[float], int]:
    try:
        values = [float(line[column]) for column in columns]
    except (ValueError, IndexError) as error:
        raise ValueError(f"line {number}: {error}") from error
    if not all(map(math.isfinite, values)):
        raise ValueError(f"line {number} holds an infinite value or NaN")
    try:
        return values, declared.label(line[label].strip())
    except (ValueError, IndexError) as error:
        raise ValueError(f"line {number}, label: {error}") from error

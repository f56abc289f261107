"""What applications on this device record, one example after another.

from edge_client.examples import ExampleStore

with ExampleStore("/var/lib/fedloom/examples") as store:
    store.record(window, label)

Any number of applications may record while the agent trains. An example is there for good when ``record`` returns,
except that a power cut or a failing disk may take the last ones: a sync for each would wear the card out.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_client.examples.declaration import RECORDED_FILE, Keep, read_declaration
from edge_client.examples.rows import DAY_S, SET_CLOCK_S, Row
from shared.errors import BrokenState, TryLater, UsageError

Inputs = ArrayLike | Mapping[str, ArrayLike]
BUSY_TIMEOUT_S: Final = 30.0
FILE_MODE: Final = 0o660  # applications of the folder's group record, too
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS layout (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS example (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    layout INTEGER NOT NULL REFERENCES layout (id),
    recorded_s REAL NOT NULL,
    held_out INTEGER,
    octets BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS wanted (only INTEGER PRIMARY KEY CHECK (only = 0), body TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Layout:
    """Which arrays an example has.

    Attributes:
        arrays: name, dtype and shape of each, sorted by name; ``y`` is the label.
    """

    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """Return what arrays have."""
        return cls(tuple((name, one.dtype.str, one.shape) for name, one in sorted(arrays.items())))

    @classmethod
    def from_text(cls, text: str) -> Layout:
        """Undo ``to_text``.

        Raises:
            ValueError: for other text.
        """
        try:
            return cls(tuple((name, np.dtype(dtype).str, tuple(map(int, s))) for name, dtype, s in json.loads(text)))
        except (TypeError, RecursionError) as error:
            raise ValueError("the layout is none") from error

    def to_text(self) -> str:
        """Write."""
        return json.dumps(self.arrays)

    def __str__(self) -> str:
        """In words."""
        return ", ".join(f"{name} {np.dtype(dtype)}{list(shape)}" for name, dtype, shape in self.arrays)

    def pack(self, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        """Return the arrays' octets, one after the other."""
        return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name, _, _ in self.arrays)

    def unpack(self, octets: bytes) -> dict[str, NDArray[Any]]:
        """Undo ``pack``.

        Raises:
            ValueError: for another number of octets.
        """
        arrays, start = {}, 0
        for name, dtype, shape in self.arrays:
            kind = np.dtype(dtype)
            end = start + kind.itemsize * int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(octets[start:end], kind).reshape(shape)
            start = end
        if start != len(octets):
            raise ValueError("an example has too many octets")
        return arrays


class ExampleStore:
    """Records examples in a folder, which the agent is enrolled with.

    Args:
        folder: made if it is not there; what ``keep`` in its ``examples.toml`` allows stays.
        clock: seconds since 1970.

    Raises:
        UsageError: ``bad-examples-toml``, ``examples-not-writable``.
        BrokenState: ``examples-damaged``.
    """

    def __init__(self, folder: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(folder) / RECORDED_FILE
        self._clock = clock
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _make(self._path)
        except OSError as error:
            raise _not_writable(self._path, error.strerror) from error
        self._keep = read_declaration(self._path.parent).keep
        self._database = _open(self._path)
        try:
            with _naming_errors(self._path):
                self._database.executescript(_TABLES)
        except BaseException:
            self._database.close()
            raise

    def record(self, x: Inputs, y: ArrayLike, *, held_out: bool | None = None) -> None:
        """Keep one example, and let go of those that are too many or too old.

        Args:
            x: the model's input without the batch, or one array per input's name.
            y: the label: the number of its class, or an array as the model has it.
            held_out: True lets models only be judged on it; by chance where it is None.

        Raises:
            UsageError: ``examples-shape`` if it is not what the model takes, or what the first one was; NaN.
            TryLater: ``examples-busy``, ``examples-not-stored``, for instance on a full disk.
        """
        arrays = _arrays(x, y)
        with _naming_errors(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            wanted = self.wanted()
            if wanted is not None:
                arrays = _cast(arrays, wanted)
            layout = Layout.of(arrays)
            if wanted is not None and layout != wanted:
                raise UsageError(
                    "examples-shape", f"It is {layout}, but {wanted} is wanted.", "record what the model takes"
                )
            if wanted is None:
                self._database.execute("INSERT INTO wanted VALUES (0, ?)", (layout.to_text(),))
            number = self._number_of(layout)
            last_s = self._database.execute("SELECT max(recorded_s) FROM example").fetchone()[0]
            recorded_s = max(self._clock(), last_s or 0.0)
            octets = layout.pack(arrays)
            self._database.execute(
                "INSERT INTO example (layout, recorded_s, held_out, octets) VALUES (?, ?, ?, ?)",
                (number, recorded_s, held_out, octets),
            )
            self._let_go(len(octets), recorded_s)

    def require(self, layout: Layout) -> None:
        """Take only examples of this layout from now on: the model's; older ones of another one are not used."""
        with _naming_errors(self._path), self._database:
            self._database.execute("INSERT OR REPLACE INTO wanted VALUES (0, ?)", (layout.to_text(),))

    def wanted(self) -> Layout | None:
        """Return what is recorded, None before the first example or model."""
        row = self._database.execute("SELECT body FROM wanted").fetchone()
        return None if row is None else Layout.from_text(row[0])

    def __len__(self) -> int:
        """Return how many examples are kept."""
        with _naming_errors(self._path):
            return int(self._database.execute("SELECT count(*) FROM example").fetchone()[0])

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _number_of(self, layout: Layout) -> int:
        body = (layout.to_text(),)
        self._database.execute("INSERT OR IGNORE INTO layout (body) VALUES (?)", body)
        return int(self._database.execute("SELECT id FROM layout WHERE body = ?", body).fetchone()[0])

    def _let_go(self, octets: int, now_s: float) -> None:
        most = _most(self._keep, octets)
        if most is not None:
            self._database.execute(
                "DELETE FROM example WHERE id <= (SELECT id FROM example ORDER BY id DESC LIMIT 1 OFFSET ?)", (most,)
            )
        if self._keep.days and now_s >= SET_CLOCK_S:
            oldest_s = now_s - self._keep.days * DAY_S
            between = "DELETE FROM example WHERE recorded_s >= ? AND recorded_s < ?"
            self._database.execute(between, (SET_CLOCK_S, oldest_s))


def recorded_rows(folder: Path) -> Iterator[Row]:
    """Return what applications recorded, newest first, of the layout that is wanted now.

    Raises:
        UsageError: ``examples-missing``.
        BrokenState: ``examples-damaged``.
    """
    path = folder / RECORDED_FILE
    if not path.exists():
        raise UsageError("examples-missing", f"No application has recorded in {folder}.", "see docs/examples.md")
    with closing(_open(path)) as database, _naming_errors(path):
        wanted = database.execute("SELECT body FROM wanted").fetchone()
        if wanted is None:
            return
        layout = Layout.from_text(wanted[0])
        query = (
            "SELECT example.id, recorded_s, held_out, octets FROM example JOIN layout ON layout.id = example.layout"
            " WHERE layout.body = ? ORDER BY example.id DESC"
        )
        for number, recorded_s, held_out, octets in database.execute(query, (wanted[0],)):
            yield Row(layout.unpack(octets), f"recorded:{number}", recorded_s, _flag(held_out))


def _flag(value: object) -> bool | None:
    return None if value is None else bool(value)


def _most(keep: Keep, octets: int) -> int | None:
    bounds = [keep.newest] if keep.newest else []
    if keep.megabytes and octets:
        bounds.append(max(1, int(keep.megabytes * 1e6 / octets)))
    return min(bounds, default=None)


def _arrays(x: Inputs, y: ArrayLike) -> dict[str, NDArray[Any]]:
    inputs = x if isinstance(x, Mapping) else {"x": x}
    arrays = {name: _plain(np.asarray(values)) for name, values in inputs.items()}
    if not arrays or any(name != "x" and not name.startswith("x_") for name in arrays):
        raise UsageError("examples-shape", "Inputs are named x, or x_ and their name.")
    label = np.asarray(y)
    arrays["y"] = label.astype(np.int32) if label.dtype.kind in "iub" else _plain(label)
    for name, values in arrays.items():
        if values.dtype.kind not in "fiu":
            raise UsageError("examples-shape", f"{name} is no array of numbers.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UsageError("examples-values", f"{name} holds an infinite value or NaN.", "leave this example out")
    return arrays


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _cast(arrays: Mapping[str, NDArray[Any]], wanted: Layout) -> dict[str, NDArray[Any]]:
    """Return numbers in the dtype that is wanted, where no value changes."""
    kinds = {name: np.dtype(dtype) for name, dtype, _ in wanted.arrays}
    cast = {}
    for name, values in arrays.items():
        kind = kinds.get(name, values.dtype)
        other = values.astype(kind)
        cast[name] = other if np.array_equal(other, values) else values
    return cast


def _make(path: Path) -> None:
    """Make the file if it is not there, for its group whatever the umask takes away; SQLite copies that to its own."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        descriptor = os.open(path, os.O_RDWR)
    else:
        os.fchmod(descriptor, FILE_MODE)
    os.close(descriptor)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        with _naming_errors(path):
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _naming_errors(path: Path) -> Iterator[None]:
    """Raise what SQLite says by its name."""
    try:
        yield
    except ValueError as error:
        raise _damaged(path) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise _not_writable(path, str(error)) from error
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise TryLater("examples-busy", f"Somebody else writes to {path}.", "try again") from error
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise TryLater("examples-not-stored", f"{path}: {error}.", "make room on the disk") from error
        raise _damaged(path) from error


def _damaged(path: Path) -> BrokenState:
    return BrokenState("examples-damaged", f"{path} is damaged.", "move it away; applications then begin a new one")


def _not_writable(path: Path, why: str | None) -> UsageError:
    return UsageError("examples-not-writable", f"{path}: {why}.", "let the agent's group write to its folder")

"""``examples.toml``: what a folder of examples holds and how it is read.

Without the file a folder holds ``examples.npz``, or what applications recorded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from shared.errors import UsageError
from shared.examples import EXAMPLES_FILE
from shared.nearest import nearest

DECLARATION_FILE: Final = "examples.toml"
RECORDED_FILE: Final = "recorded.sqlite3"
MAX_DECLARATION_BYTES: Final = 65536

Reader = Literal["npz", "recorded", "csv", "images", "wav"]
_BY_FILE: Final[Mapping[Reader, str]] = {"csv": "**/*.csv", "images": "**/*", "wav": "**/*.wav"}


def _within(least: float, most: float, **default: Any) -> Any:  # noqa: ANN401  # as ``dataclasses.field``
    """Return the field of a number with its bounds, both allowed."""
    return field(metadata={"least": least, "most": most}, **default)


@dataclass(frozen=True)
class Csv:
    """Tables with a line of column names.

    Attributes:
        label: the column of the label.
        inputs: the columns of the inputs, in the model's order.
        window: rows that make one example, f32[window, inputs]; 0 for one row each, f32[inputs].
        step: rows from one example's first to the next one's; the window where it is 0.
    """

    label: str
    inputs: tuple[str, ...]
    window: int = _within(0, 1e6, default=0)
    step: int = _within(0, 1e6, default=0)


@dataclass(frozen=True)
class Images:
    """Pictures in folders that are named like their label.

    Attributes:
        height: in pixels; pictures of another size are scaled.
        width: in pixels.
        channels: 1 for grey, 3 for colours.
        scale: by which the octets 0 to 255 are divided.
    """

    height: int = _within(1, 4096)
    width: int = _within(1, 4096)
    channels: Literal[1, 3] = 3
    scale: float = _within(1e-6, 1e6, default=255.0)


@dataclass(frozen=True)
class Wav:
    """Sounds in folders that are named like their label.

    Attributes:
        rate_hz: samples per second that the files have.
        seconds: that the model hears; longer files are cut, shorter ones end in silence.
    """

    rate_hz: int = _within(100, 384_000)
    seconds: float = _within(0.01, 600)


@dataclass(frozen=True)
class Keep:
    """How much is kept, or used of files, the newest first.

    Attributes:
        newest: examples; 0 for all.
        days: after which an example is not used any more; 0 for never.
        megabytes: of 10^6 octets, as arrays in memory; 0 for no bound.
    """

    newest: int = _within(0, 1e9, default=0)
    days: float = _within(0, 36500, default=0.0)
    megabytes: float = _within(0, 1e6, default=256.0)


@dataclass(frozen=True)
class Declaration:
    """How a folder is read.

    Attributes:
        reader: of the files.
        files: which ones, a pattern below the folder.
        classes: names of the labels, in the model's order; whole numbers without.
        held_out_percent: of the examples, chosen by hash, on which models are judged and never trained.
        keep: how much is used.
    """

    reader: Reader
    files: str = ""
    classes: tuple[str, ...] = ()
    held_out_percent: float = _within(0, 99, default=20.0)
    keep: Keep = field(default_factory=Keep)
    csv: Csv | None = None
    images: Images | None = None
    wav: Wav | None = None

    @property
    def pattern(self) -> str:
        """Which files are read."""
        return self.files or _BY_FILE[self.reader]

    def label(self, text: str) -> int:
        """Return the number of a label.

        Raises:
            ValueError: for one that is no class.
        """
        if not self.classes:
            return int(text)
        if text not in self.classes:
            raise ValueError(f"{text[:40]!r} is none of the classes {', '.join(self.classes)[:200]}")
        return self.classes.index(text)


def read_declaration(folder: Path) -> Declaration:
    """Return how a folder is read.

    Raises:
        UsageError: ``bad-examples-toml``, with the nearest key that there is.
    """
    path = folder / DECLARATION_FILE
    try:
        text = path.read_bytes()[: MAX_DECLARATION_BYTES + 1]
    except FileNotFoundError:
        recorded = (folder / RECORDED_FILE).exists() and not (folder / EXAMPLES_FILE).exists()
        return Declaration("recorded" if recorded else "npz")
    except OSError as error:
        raise _bad(path, f"it cannot be read ({error.strerror})") from error
    try:
        if len(text) > MAX_DECLARATION_BYTES:
            raise _bad(path, f"it has more than {MAX_DECLARATION_BYTES} octets")
        values = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(path, str(error) or "it is nested too deeply") from error
    made = _made(Declaration, values, path, "")
    _require_sane(made, path)
    return made


_Made = TypeVar("_Made")


def _made(kind: type[_Made], values: Mapping[str, Any], path: Path, section: str) -> _Made:
    """Return a dataclass of a table's values, each checked to be what it must be."""
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            meant = nearest(name, known)
            hint = f"; did you mean {meant}?" if meant else f"; it knows {', '.join(known)}"
            raise _bad(path, f"{section}{name} is unknown{hint}")
        given[name] = _value(hints[name], value, path, f"{section}{name}")
        bounds = known[name].metadata
        if bounds and not bounds["least"] <= given[name] <= bounds["most"]:
            raise _bad(path, f"{section}{name} must lie from {bounds['least']:g} to {bounds['most']:g}")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise _bad(path, f"{section}{name} is missing")
    return kind(**given)


_TABLES: Final = (Csv, Images, Wav, Keep)


def _value(hint: Any, value: Any, path: Path, name: str) -> Any:  # noqa: ANN401  # as TOML has it
    for table in _TABLES:
        if hint in (table, table | None):
            if not isinstance(value, dict):
                raise _bad(path, f"{name} must be a table: write [{name}]")
            return _made(table, value, path, f"{name}.")
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise _bad(path, f'{name} must be a list of texts, like ["walk", "run"]')
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise _bad(path, f"{name} must be one of {', '.join(map(str, get_args(hint)))}")
        return value
    if type(value) is not hint:
        what = {str: "a text", int: "a whole number", float: "a number"}[hint]
        raise _bad(path, f"{name} must be {what}")
    return value


def _require_sane(made: Declaration, path: Path) -> None:
    for name in _BY_FILE:
        if (name == made.reader) != (getattr(made, name) is not None):
            raise _bad(path, f'reader = "{name}" and a table [{name}] go together')
    if made.files and (made.files.startswith("/") or ".." in Path(made.files).parts):
        raise _bad(path, "files must be a pattern below the folder")
    if len(set(made.classes)) != len(made.classes):
        raise _bad(path, "classes has a name twice")


def _bad(path: Path, what: str) -> UsageError:
    return UsageError("bad-examples-toml", f"{path}: {what}.", "see docs/examples.md")

"""How a file of vectors is written: one line per vector, octets in hexadecimal, messages as the text that travels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.wire.canonical import Json

Case = dict[str, Json]
Document = dict[str, Json]
DIGITS = 9  # after the point, of numbers whose last bits depend on the order of additions


def to_text(document: Document) -> str:
    """Return the file's text: every entry of the document on lines of its own, every vector in it on one."""
    entries = [f"{json.dumps(name)}: {_entry(value)}" for name, value in document.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _entry(value: Json) -> str:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(" " + json.dumps(item, ensure_ascii=False) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def whole(numbers: Iterable[int]) -> list[Json]:
    """Return whole numbers, of NumPy perhaps, as JSON."""
    return [int(number) for number in numbers]


def real(values: Iterable[float]) -> list[Json]:
    """Return real numbers, rounded; minus zero becomes zero."""
    return [round(float(value), DIGITS) + 0.0 for value in values]


def hexadecimal(parts: Sequence[bytes]) -> list[Json]:
    """Return octet strings as JSON."""
    return [part.hex() for part in parts]


def words_to_hex(words: npt.NDArray[np.uint64]) -> str:
    """Return the octets of words as they travel."""
    return words.astype("<u8").tobytes().hex()


def octets_for(name: str, count: int = 32) -> bytes:
    """Return octets that stand for a key, a hash or a drawn number; always the same for one name."""
    return hashlib.shake_256(f"fedloom vectors: {name}".encode()).digest(count)


@dataclass
class Drawn:
    """A repeatable source of octets that remembers what it gave.

    Attributes:
        name: of the source.
        draws: what was given, in order.
    """

    name: str
    draws: list[bytes] = field(default_factory=list)

    def __call__(self, count: int) -> bytes:
        """Return the next octets."""
        self.draws.append(octets_for(f"{self.name}, draw {len(self.draws)}", count))
        return self.draws[-1]

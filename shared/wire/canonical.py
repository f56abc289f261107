"""One byte string per value (to sign and hash), and one strict way to read bytes that strangers sent.

JSON objects have sorted keys and no white space; octets are base64url without padding. Reading refuses duplicate
keys, NaN, unknown and missing fields, wrong types and wrong sizes, each by name: what is accepted is exactly what
is written here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
import math
from typing import Any, Final, NoReturn, TypeAlias

from shared.errors import UsageError
from shared.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAX_SAFE_INTEGER: Final = 2**53 - 1  # what every JSON reader keeps exactly
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_NESTING: Final = {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", -1)}


def encode(value: Json) -> bytes:
    """Return the canonical bytes of ``value``.

    Raises:
        ValueError: if it contains NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def octets_to_text(octets: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def octets_from_text(text: str) -> bytes:
    """Return the octets of base64url text without padding; there is exactly one text per octet string.

    Raises:
        UsageError: ``bad-octets`` for anything else.
    """
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError("bad-octets", "A field that should hold base64url does not.") from error
    if octets_to_text(octets) != text:
        raise UsageError("bad-octets", "A field holds base64url that is not in its shortest form.")
    return octets


def sha256(*parts: bytes) -> bytes:
    """Return the 32-octet SHA-256 of the parts, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def transcript(domain: str, *fields: bytes | str | int) -> bytes:
    """Return bytes that no other list of fields, and no other purpose, can produce.

    Each field is preceded by its length in 8 octets, so that moving a boundary changes the result; ``domain``
    names the purpose (signatures and keys for one purpose are worthless for another).
    """
    out = bytearray()
    for field in (domain, *fields):
        if isinstance(field, int):
            octets = field.to_bytes(8, "big")
        else:
            octets = field.encode() if isinstance(field, str) else field
        out += len(octets).to_bytes(8, "big") + octets
    return bytes(out)


def decode(data: bytes, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Json]:
    """Return the JSON object in ``data``.

    Raises:
        UsageError: ``body-too-large`` or ``bad-json`` (not UTF-8, not an object, duplicate keys, NaN, too deep,
            integers beyond 2^53, floats beyond their range).
    """
    if len(data) > max_bytes:
        raise UsageError("body-too-large", f"The message has {len(data)} bytes, at most {max_bytes} are read.")
    if _depth(data) > MAX_JSON_DEPTH:
        raise UsageError("bad-json", f"The message is nested more than {MAX_JSON_DEPTH} deep.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_integer,
        )
    except (ValueError, RecursionError) as error:
        raise UsageError("bad-json", "The message is not the JSON that this protocol uses.") from error
    if not isinstance(value, dict):
        raise UsageError("bad-json", f"The message is a JSON {type(value).__name__}, an object was expected.")
    return value


def _depth(data: bytes) -> int:
    """Return an upper bound of the nesting: brackets inside strings count too, which only refuses more."""
    brackets = data.translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_NESTING.__getitem__, brackets), initial=0))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number beyond the range of floats")
    return value


def _bounded_integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        raise ValueError("integer beyond 2^53")
    return int(text)


class Fields:
    """Reads the fields of one JSON object, each exactly once, each with its bounds.

    Example:
        ``fields = Fields(decode(body)); count = fields.integer("count", 1, 10); fields.end()``

    Every reader raises ``UsageError`` with code ``bad-field`` naming the field, what was expected and what came.
    """

    def __init__(self, value: Json, where: str = "message") -> None:
        if not isinstance(value, dict):
            raise UsageError("bad-field", f"{where} should be a JSON object.")
        self._left = dict(value)
        self._where = where

    def _take(self, name: str, kind: str) -> Json:
        if name not in self._left:
            raise UsageError("bad-field", f"{self._where}: {name} is missing ({kind} expected).")
        return self._left.pop(name)

    def _wrong(self, name: str, expected: str) -> NoReturn:
        raise UsageError("bad-field", f"{self._where}: {name} should be {expected}.")

    def has(self, name: str) -> bool:
        """Say whether an optional field is there."""
        return name in self._left

    def text(self, name: str, max_characters: int = 4096) -> str:
        """Return a string of at most ``max_characters`` without control characters."""
        value = self._take(name, "text")
        if not isinstance(value, str) or len(value) > max_characters or not value.isprintable():
            self._wrong(name, f"printable text of at most {max_characters} characters")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``."""
        value = self._take(name, "text")
        if not isinstance(value, str) or value not in choices:
            self._wrong(name, "one of " + ", ".join(choices))
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Return an integer in ``low .. high``, both included."""
        value = self._take(name, "an integer")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self._wrong(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Return a finite number in ``low .. high``, both included."""
        value = self._take(name, "a number")
        if not isinstance(value, int | float) or isinstance(value, bool):
            self._wrong(name, f"a number from {low} to {high}")
        if not (math.isfinite(value) and low <= value <= high):
            self._wrong(name, f"a number from {low} to {high}")
        return float(value)

    def octets(self, name: str, length: int | None = None, max_length: int = MAX_JSON_BYTES) -> bytes:
        """Return the octets of a base64url field, of exactly ``length`` where given."""
        value = self._take(name, "base64url")
        if not isinstance(value, str) or len(value) > max_length * 4 // 3 + 4:
            self._wrong(name, "base64url text")
        octets = octets_from_text(value)
        if length is not None and len(octets) != length:
            self._wrong(name, f"{length} octets, got {len(octets)}")
        return octets

    def items(self, name: str, max_items: int) -> list[Json]:
        """Return a list of at most ``max_items``."""
        value = self._take(name, "a list")
        if not isinstance(value, list) or len(value) > max_items:
            self._wrong(name, f"a list of at most {max_items}")
        return value

    def mapping(self, name: str, max_items: int) -> dict[str, Json]:
        """Return an object of at most ``max_items`` entries."""
        value = self._take(name, "an object")
        if not isinstance(value, dict) or len(value) > max_items:
            self._wrong(name, f"an object of at most {max_items} entries")
        return value

    def end(self) -> None:
        """Refuse fields that nobody asked for."""
        if self._left:
            raise UsageError("bad-field", f"{self._where}: unknown field {min(self._left)[:64]!r}.")

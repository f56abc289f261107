"""What can be wrong with any body, as functions of the right one. Each is refused whatever route it is sent to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

MARKER: Final = "SECRET0123456789SECRET"  # stands for what must not come back
HOSTILE_TEXTS: Final[Mapping[str, str]] = {
    "SQL": f"{MARKER}'; DROP TABLE device; --",
    "HTML": f"<script>{MARKER}</script>",
    "a line for the log": f'{MARKER}\r\n{{"level":"error"}}',
    "a template": f"{{{{{MARKER}}}}}",
    "right-to-left": f"\u202e{MARKER}",
    "NUL": f"{MARKER}\0",
    "a path": f"../../{MARKER}",
    "600 KB": MARKER * 30_000,
    "half a pair": f"{MARKER}\ud800",
}
VALUES: Final[Mapping[str, Any]] = {
    "null": None,
    "a boolean": True,
    "a list": [MARKER],
    "an object": {MARKER: MARKER},
    "a negative number": -2,
    "a fraction": 0.5,
}
RAW_VALUES: Final = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, str(2**53), f"-{2**53}")
Bad = tuple[str, bytes, set[str]]  # what is wrong, the body, the codes that may name it
JSON_ONLY: Final = {"bad-json"}
FIELD: Final = {"bad-field", "bad-octets"}


def bad_json(good: bytes) -> Iterator[Bad]:
    """Return bodies that are wrong for every route that reads JSON.

    Args:
        good: what the route would take.
    """
    yield "empty", b"", JSON_ONLY
    yield "a byte short", good[:-1], JSON_ONLY
    yield "a byte long", good + b"}", JSON_ONLY
    yield "followed by NUL", good + b"\0", JSON_ONLY
    yield "after a byte-order mark", b"\xef\xbb\xbf" + good, JSON_ONLY
    yield "UTF-16", good.decode().encode("utf-16"), JSON_ONLY
    yield "not UTF-8", b'{"\xff\xfe":1}', JSON_ONLY
    yield "a list", b"[" + good + b"]", JSON_ONLY
    yield "a text", json.dumps(MARKER).encode(), JSON_ONLY
    yield "nested 100,000 deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON_ONLY
    yield "nested lists", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON_ONLY
    yield "10 MB", b'{"a":"' + MARKER.encode() * 500_000 + b'"}', {"body-too-large"}
    yield "packed", gzip.compress(bytes(10_000_000)), JSON_ONLY
    fields: dict[str, Any] = json.loads(good)
    yield "an unknown field", _with(fields, MARKER[:6], MARKER), FIELD
    yield "a huge unknown name", _with(fields, "a" * 600_000, MARKER), FIELD
    yield "__proto__", _with(fields, "__proto__", {MARKER: 1}), FIELD
    for name, text in HOSTILE_TEXTS.items():
        yield f"a field's name is {name}", _with(fields, text.replace(MARKER, "x"), 1), FIELD
    for field, given in fields.items():
        yield f"no {field}", json.dumps({key: fields[key] for key in fields if key != field}).encode(), FIELD
        pair = f"{json.dumps(field)}:{json.dumps(given, separators=(',', ':'))}"
        yield f"{field} twice", f"{{{pair},{json.dumps(fields)[1:]}".encode(), JSON_ONLY
        for value in RAW_VALUES:
            yield f"{field} is {value[:20]}", good.replace(pair.encode(), f'"{field}":{value}'.encode()), JSON_ONLY
        for name, value in {**VALUES, **HOSTILE_TEXTS}.items():
            yield f"{field} is {name}", _with(fields, field, value), FIELD


def bad_octets(good: bytes) -> Iterator[Bad]:
    """Return bodies that are wrong for the route that takes a vector of as many words as ``good`` has."""
    wrong = {"wrong-vector-length"}
    yield "empty", b"", wrong
    yield "a byte short", good[:-1], wrong
    yield "a byte long", good + b"\0", wrong
    yield "a word short", good[:-8], wrong
    yield "a word long", good + bytes(8), wrong
    yield "twice", good + good, wrong
    yield "20 MB", MARKER.encode() * 1_000_000, wrong
    yield "packed", gzip.compress(good), wrong


def _with(fields: Mapping[str, Any], name: str, value: object) -> bytes:
    return json.dumps({**fields, name: value}, separators=(",", ":")).encode()


def changes(good: bytes, bad: Callable[[bytes], Iterator[Bad]]) -> list[Bad]:
    """Return what ``bad`` makes of ``good``, each different from it."""
    made = list(bad(good))
    assert all(body != good for _, body, _ in made)
    return made

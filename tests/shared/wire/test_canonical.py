"""One byte string per value, and every other byte string refused."""

from __future__ import annotations

import hashlib
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH
from shared.wire.canonical import (
    MAX_SAFE_INTEGER,
    Fields,
    Json,
    decode,
    encode,
    octets_from_text,
    octets_to_text,
    sha256,
    transcript,
)
from tests.shared.refusals import refused

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values: st.SearchStrategy[Json] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


class TestJson:
    """Reading and writing whole bodies."""

    @given(st.dictionaries(texts, values, max_size=5))
    def test_a_value_has_one_form_and_is_read_back(self, value: dict[str, Json]) -> None:
        body = encode(value)
        assert decode(body) == value
        assert encode(decode(body)) == body
        shuffled = dict(reversed(list(value.items())))
        assert encode(shuffled) == body

    def test_the_form_is_sorted_compact_and_utf_8(self) -> None:
        assert encode({"b": [1, 2.5, None], "a": {"ü": True}}) == '{"a":{"ü":true},"b":[1,2.5,null]}'.encode()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_nan_and_infinity_are_never_written(self, value: float) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            encode({"x": value})

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\0", id="NUL"),
            pytest.param(b"{", id="cut"),
            pytest.param(b"{}x", id="longer"),
            pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
            pytest.param(b"[]", id="list"),
            pytest.param(b"null", id="null"),
            pytest.param(b'"x"', id="string"),
            pytest.param(b"1", id="number"),
            pytest.param(b'{"a":1,"a":1}', id="duplicate key"),
            pytest.param(b'{"a":{"b":1,"b":2}}', id="inner duplicate key"),
            pytest.param(b'{"a":1,"\\u0061":2}', id="duplicate key by an escape"),
            pytest.param(b'{"a":NaN}', id="NaN"),
            pytest.param(b'{"a":Infinity}', id="infinity"),
            pytest.param(b'{"a":-Infinity}', id="minus infinity"),
            pytest.param(b'{"a":\xff}', id="not UTF-8"),
            pytest.param(b'{"a":"\xc0\xaf"}', id="overlong UTF-8"),
            pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
            pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
            pytest.param(b'{"a":9007199254740992}', id="2^53"),
            pytest.param(b'{"a":-9007199254740992}', id="-2^53"),
            pytest.param(b'{"a":' + b"9" * 100_000 + b"}", id="100,000 digits"),
            pytest.param(b'{"a":1e400}', id="beyond floats"),
            pytest.param(b'{"a":01}', id="leading zero"),
            pytest.param(b"{'a':1}", id="single quotes"),
            pytest.param(b'{"a":1,}', id="trailing comma"),
            pytest.param(b'{"a":1}//', id="comment"),
            pytest.param(b'{"a":"\n"}', id="raw line break"),
        ],
    )
    def test_other_bytes_are_refused(self, body: bytes) -> None:
        with refused("bad-json", UsageError):
            decode(body)

    @pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 10**5])
    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")])
    def test_deep_nesting_is_refused_at_once(self, depth: int, opening: bytes, closing: bytes) -> None:
        body = b'{"a":' + opening * depth + closing * depth + b"}"
        started = time.perf_counter()
        with refused("bad-json", UsageError):
            decode(body, max_bytes=10 * MAX_JSON_BYTES)
        assert time.perf_counter() - started < 1.0

    def test_the_deepest_nesting_allowed_is_read(self) -> None:
        inner = MAX_JSON_DEPTH - 1
        assert decode(b'{"a":' + b"[" * inner + b"]" * inner + b"}")

    def test_a_body_beyond_the_largest_is_not_read(self) -> None:
        with refused("body-too-large", UsageError):
            decode(b'{"a":"' + b"x" * MAX_JSON_BYTES + b'"}')
        with refused("body-too-large", UsageError):
            decode(b'{"a":1}', max_bytes=6)
        assert decode(b'{"a":1}', max_bytes=7) == {"a": 1}

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused_by_name(self, body: bytes) -> None:
        outcome: object
        try:
            outcome = json.loads(encode(decode(body)))
        except UsageError as error:
            outcome = error.code
        assert outcome == "bad-json" or isinstance(outcome, dict)


class TestOctets:
    """Base64url without padding."""

    @given(st.binary(max_size=100))
    def test_octets_are_read_back(self, octets: bytes) -> None:
        text = octets_to_text(octets)
        assert octets_from_text(text) == octets
        assert not set(text) & set("+/= \n")

    @pytest.mark.parametrize(
        "text", ["A", "AB", "AAB", "AA==", "AA=", "=", "A+A", "A/A", "A A", "AA\n", "AA ", "ÄÄ", "AAAAA", "\ud800"]
    )
    def test_every_other_text_is_refused(self, text: str) -> None:
        """AB and AAB have bits that the octets do not hold: their shortest forms are AA and AAA."""
        with refused("bad-octets", UsageError):
            octets_from_text(text)

    @given(st.text(st.sampled_from("AQgw-_01+/="), max_size=6))
    def test_no_two_texts_mean_the_same_octets(self, text: str) -> None:
        try:
            octets = octets_from_text(text)
        except UsageError:
            return
        assert octets_to_text(octets) == text


fields_of = st.lists(st.one_of(st.binary(max_size=10), texts, st.integers(0, 2**64 - 1)), max_size=5)


class TestTranscripts:
    """What is signed and hashed."""

    @given(texts, fields_of, texts, fields_of)
    def test_two_transcripts_are_equal_only_if_all_fields_are(
        self, domain: str, fields: list[bytes | str | int], other_domain: str, others: list[bytes | str | int]
    ) -> None:
        same = octets_of([domain, *fields]) == octets_of([other_domain, *others])
        assert (transcript(domain, *fields) == transcript(other_domain, *others)) == same

    @given(st.binary(min_size=1, max_size=20), st.integers(0, 20), st.integers(0, 20))
    def test_moving_a_boundary_changes_the_transcript(self, octets: bytes, first: int, second: int) -> None:
        first, second = first % (len(octets) + 1), second % (len(octets) + 1)
        one, two = transcript("d", octets[:first], octets[first:]), transcript("d", octets[:second], octets[second:])
        assert (one == two) == (first == second)
        assert transcript("d", octets) != one

    def test_the_layout(self) -> None:
        expected = b"\0\0\0\0\0\0\0\x01d" + b"\0\0\0\0\0\0\0\x02ab" + b"\0\0\0\0\0\0\0\x08" + b"\0\0\0\0\0\0\x01\x02"
        assert transcript("d", b"ab", 258) == expected

    @pytest.mark.parametrize("number", [-1, 2**64])
    def test_an_integer_outside_64_bits_has_no_transcript(self, number: int) -> None:
        with pytest.raises(OverflowError):
            transcript("d", number)

    def test_the_hash_of_parts_is_the_hash_of_the_whole(self) -> None:
        assert sha256(b"ab", b"", b"c") == hashlib.sha256(b"abc").digest()


def octets_of(fields: list[bytes | str | int]) -> list[bytes]:
    """Return each field as the octets that a transcript holds; types are fixed by the domain, not by the bytes."""
    return [f.to_bytes(8, "big") if isinstance(f, int) else f.encode() if isinstance(f, str) else f for f in fields]


class TestFields:
    """Reading one object, field by field."""

    @pytest.mark.parametrize("value", [None, 1, "x", [], True])
    def test_of_something_else_than_an_object(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields(value)

    def test_an_unknown_field_is_named(self) -> None:
        fields = Fields({"known": 1, "unknown": 2})
        fields.integer("known", 0, 9)
        with pytest.raises(UsageError, match="'unknown'") as caught:
            fields.end()
        assert caught.value.code == "bad-field"

    def test_a_missing_field_is_named(self) -> None:
        with pytest.raises(UsageError, match="count is missing"):
            Fields({}).integer("count", 0, 9)

    def test_a_field_is_read_once(self) -> None:
        fields = Fields({"x": 1})
        assert fields.has("x")
        fields.integer("x", 0, 9)
        assert not fields.has("x")
        with refused("bad-field", UsageError):
            fields.integer("x", 0, 9)

    def test_the_callers_object_is_left_as_it_is(self) -> None:
        value: dict[str, Json] = {"x": 1}
        Fields(value).integer("x", 0, 9)
        assert value == {"x": 1}

    @pytest.mark.parametrize("value", [None, "1", 1.0, True, False, [], -1, 10])
    def test_integers(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).integer("x", 0, 9)

    @pytest.mark.parametrize("value", [None, "1", True, [], -0.1, 9.1, math.inf, math.nan])
    def test_numbers(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).number("x", 0, 9)

    @pytest.mark.parametrize("value", [None, 1, [], "12345", "a\0", "a\n", "\u202etxt", "\ud800", "\x7f"])
    def test_texts(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).text("x", 4)

    @pytest.mark.parametrize("value", [None, 1, [], "", "maybe", ["yes"]])
    def test_choices(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).choice("x", ("yes", "no"))

    @pytest.mark.parametrize("value", [None, 1, [], "", "AA", "AAAAAA", "A" * 2000])
    def test_octets(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).octets("x", 3, 100)

    @pytest.mark.parametrize("value", [None, 1, {}, "[]", [1, 2, 3]])
    def test_lists(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).items("x", 2)

    @pytest.mark.parametrize("value", [None, 1, [], "{}", {"a": 1, "b": 2, "c": 3}])
    def test_objects(self, value: Json) -> None:
        with refused("bad-field", UsageError):
            Fields({"x": value}).mapping("x", 2)

    def test_bounds_are_included(self) -> None:
        fields = Fields({"i": 9, "n": 0, "t": "1234", "c": "no", "o": "AAAA", "l": [1, 2], "m": {"a": 1, "b": 2}})
        assert (fields.integer("i", 0, 9), fields.number("n", 0, 9), fields.text("t", 4)) == (9, 0.0, "1234")
        assert (fields.choice("c", ("yes", "no")), fields.octets("o", 3)) == ("no", bytes(3))
        assert (fields.items("l", 2), fields.mapping("m", 2)) == ([1, 2], {"a": 1, "b": 2})
        fields.end()

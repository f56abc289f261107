"""Every message: read back as written, and refused in every other shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.secagg.session import SharesMessage, UnmaskAnswer
from shared.wire.canonical import encode, octets_to_text
from shared.wire.messages import (
    Agreements,
    Assignment,
    CheckIn,
    EnrolRequest,
    Meeting,
    Outcome,
    Rendezvous,
    read_answer,
    read_by_index,
    read_indexed,
    read_octets,
    read_release,
    read_shares,
    write_answer,
    write_by_index,
    write_indexed,
    write_octets,
    write_release,
    write_shares,
)
from tests.shared.refusals import refused


@dataclass(frozen=True)
class Case:
    """One message, how it is read, and values that each field must not have."""

    value: Any
    body: bytes
    read: Callable[[bytes], Any]
    bad: dict[str, list[Any]]


def octets(length: int) -> str:
    return octets_to_text(bytes(length))


SHARE, BOX, SIGNATURE = octets(32), octets(80), octets(64)
BAD_INDEXED: list[Any] = [
    None,
    [],
    {"01": SHARE},
    {"-1": SHARE},
    {"": SHARE},
    {"0": octets(31)},
    {"0": 1},
    {"x": SHARE},
]
AGREEMENTS = Agreements({0: b"s" * 64, 5: b"t" * 64}, {5: b"u" * 65})
ANSWER = UnmaskAnswer({0: b"s" * 32, 2: b"t" * 32}, {1: b"m" * 32})
SHARES = SharesMessage(b"c" * 32, {1: b"b" * 80, 10: b"d" * 80})
ENROL = EnrolRequest(b"s" * 20, b"k" * 32, b"p" * 64)

CASES = {
    "enrolment": Case(
        ENROL,
        ENROL.to_bytes(),
        EnrolRequest.from_bytes,
        {
            "secret": [octets(100), None],
            "identity_key": [octets(31), octets(33), ""],
            "proof": [octets(63), octets(65), 0],
        },
    ),
    "check-in": Case(
        CheckIn(-1, 512, 3, 2),
        CheckIn(-1, 512, 3, 2).to_bytes(),
        CheckIn.from_bytes,
        {
            "version": [-2, 2**53, 1.5, "1", None],
            "memory_mib": [-1, 2**20 + 1, 1.5, "1", None],
            "declined": [-1, None],
            "declined_evaluation": [-1, None],
        },
    ),
    "assignment": Case(
        Assignment("wait", 3, 4, 500, "too-soon", 6, 1),
        Assignment("wait", 3, 4, 500, "too-soon", 6, 1).to_bytes(),
        Assignment.from_bytes,
        {
            "action": ["", "TRAIN", None, 1],
            "version": [-1, 2**53],
            "round": [-1, 0.5],
            "retry_after_ms": [-1, 86_400_001],
            "reason": ["no", None, 1],
            "decision": [-1, None, "1"],
            "release_key": [-1, None, "1"],
        },
    ),
    "meeting": Case(
        Meeting("cohort-1", 1_800_000_000),
        Meeting("cohort-1", 1_800_000_000).to_bytes(),
        Meeting.from_bytes,
        {"cohort": ["x" * 65, "a\0", 1], "expires_at_s": [-1, 253_402_300_800]},
    ),
    "rendezvous": Case(
        Rendezvous(7, "evaluation"),
        Rendezvous(7, "evaluation").to_bytes(),
        Rendezvous.from_bytes,
        {"version": [-1, 2**53, True, "7"], "purpose": ["", "TRAINING", None, 1]},
    ),
    "shares": Case(
        SHARES,
        write_shares(SHARES),
        read_shares,
        {
            "commitment": [octets(31), octets(33)],
            "boxes": [None, [], {"1": octets(79)}, {"1": octets(81)}, {"01": BOX}, {"-1": BOX}, {"+1": BOX}],
        },
    ),
    "inbox": Case(
        {0: b"b" * 80},
        write_indexed("boxes", {0: b"b" * 80}),
        lambda body: read_indexed(body, "boxes", 80),
        {"boxes": [None, [], {"0": octets(79)}, {" 0": BOX}]},
    ),
    "agreements": Case(
        AGREEMENTS,
        AGREEMENTS.to_bytes(),
        Agreements.from_bytes,
        {
            "signatures": [None, [], {"0": octets(63)}, {"1e1": SIGNATURE}],
            "inboxes": [None, [], {"0": 1}, {"00": SIGNATURE}, {"0": "?"}],
        },
    ),
    "survivors": Case(
        b"\x1f",
        write_octets("bitmap", b"\x1f"),
        lambda body: read_octets(body, "bitmap", 1),
        {"bitmap": ["", octets(2), 31, None]},
    ),
    "answer": Case(ANSWER, write_answer(ANSWER), read_answer, {"self_mask": BAD_INDEXED, "mask_key": BAD_INDEXED}),
    "outcome": Case(
        Outcome(counted=True), Outcome(counted=True).to_bytes(), Outcome.from_bytes, {"counted": [True, ""]}
    ),
    "release": Case(
        (b"body", b"s" * 64),
        write_release(b"body", b"s" * 64),
        read_release,
        {"release": [None, "="], "signature": [octets(63), octets(65)]},
    ),
}
BAD_FIELDS = [
    pytest.param(case, field, value, id=f"{name}-{field}-{json.dumps(value)[:24]}")
    for name, case in CASES.items()
    for field, values in case.bad.items()
    for value in values
]


@pytest.mark.parametrize("name", CASES)
def test_a_message_is_read_back_as_it_was_written(name: str) -> None:
    case = CASES[name]
    assert case.read(case.body) == case.value
    assert encode(json.loads(case.body)) == case.body


@pytest.mark.parametrize("name", CASES)
def test_a_cut_a_longer_and_an_empty_message_are_refused(name: str) -> None:
    case = CASES[name]
    for body in (b"", case.body[:-1], case.body + b"}", case.body[1:]):
        with refused("bad-json", UsageError):
            case.read(body)


@pytest.mark.parametrize("name", CASES)
def test_a_missing_or_an_unknown_field_is_refused(name: str) -> None:
    case = CASES[name]
    fields = json.loads(case.body)
    with refused("bad-field", UsageError):
        case.read(encode({**fields, "extra": 1}))
    for field in fields:
        with refused("bad-field", UsageError):
            case.read(encode({key: value for key, value in fields.items() if key != field}))


@pytest.mark.parametrize(("case", "field", "value"), BAD_FIELDS)
def test_a_field_out_of_its_bounds_is_refused(case: Case, field: str, value: Any) -> None:  # noqa: ANN401  # any JSON
    body = encode({**json.loads(case.body), field: value})
    with pytest.raises(UsageError) as caught:
        case.read(body)
    assert caught.value.code in {"bad-field", "bad-octets", "bad-json"}


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=40), st.integers(0, 200))
def test_any_damage_is_read_or_refused_by_name(name: str, noise: bytes, place: int) -> None:
    case = CASES[name]
    place %= len(case.body)
    damaged = case.body[:place] + noise + case.body[place + len(noise) :]
    try:
        case.read(damaged)
        code = "read"
    except UsageError as error:
        code = error.code
    assert code in {"read", "bad-json", "bad-field", "bad-octets"}


@given(st.dictionaries(st.integers(0, 99_999), st.binary(min_size=4, max_size=4), max_size=20))
def test_octets_by_index_are_read_back(values: dict[int, bytes]) -> None:
    assert read_by_index(write_by_index(values), 4) == values


@pytest.mark.parametrize(
    "key", ["01", "-1", "+1", "1.0", "", " 1", "1 ", "1_0", "0x1", "\u0661", "\u00b2", "1" * 10, "9" * 5000]
)
def test_an_index_has_one_spelling(key: str) -> None:
    with refused("bad-field", UsageError):
        read_by_index({key: octets(4)}, 4)


def test_an_answer_with_both_shares_of_one_member_is_refused() -> None:
    both = UnmaskAnswer({0: b"s" * 32, 1: b"t" * 32}, {1: b"m" * 32})
    with refused("bad-field", UsageError):
        read_answer(write_answer(both))

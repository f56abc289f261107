"""What devices are told to use: a decision that they must not follow, one reason per test, and who is in a stage."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decision import PLACES, Decision, Use, place_of, sign_decision, verify_decision
from shared.errors import Refused, Unauthenticated
from shared.release import Release, key_id
from shared.wire.canonical import sha256
from shared.wire.signed import Signed, SigningKey
from tests.shared.refusals import refused

KEY, THIEF = SigningKey(sha256(b"release key")), SigningKey(sha256(b"thief"))
DECISION = Decision("activity", 7, 3, 5, PLACES // 2, None, 1_800_000_000, 1_807_776_000)


def accept(signed: Signed, *, task: str = "activity", min_sequence: int = 7, now_s: float = 1_807_776_000) -> Decision:
    return verify_decision(signed, public_key=KEY.public, task=task, min_sequence=min_sequence, now_s=now_s)


def test_a_decision_comes_back_as_it_was_signed() -> None:
    assert accept(sign_decision(DECISION, KEY)) == dataclasses.replace(DECISION, key_id=key_id(KEY.public))


def test_an_old_one_is_refused_and_a_new_one_may_go_back() -> None:
    with refused("decision-replayed", Refused):
        accept(sign_decision(DECISION, KEY), min_sequence=8)
    back = dataclasses.replace(DECISION, sequence=8, released=1, candidate=None, limit=0)
    assert accept(sign_decision(back, KEY)).use("device-1") == Use(1, "released")


def test_a_strangers_another_tasks_and_an_expired_one_are_refused() -> None:
    with refused("bad-signature", Unauthenticated):
        accept(sign_decision(DECISION, THIEF))
    with refused("wrong-task", Refused):
        accept(sign_decision(DECISION, KEY), task="digits")
    with refused("decision-expired", Refused):
        accept(sign_decision(DECISION, KEY), now_s=1_807_776_001)


def test_the_name_of_another_key_is_refused() -> None:
    body = dataclasses.replace(DECISION, key_id=key_id(THIEF.public)).to_bytes()
    with refused("wrong-key", Refused):
        accept(Signed.make(KEY, "fedloom/1/decision", body))


def test_a_release_document_is_no_decision() -> None:
    body = Release("activity", 3, 0, 1_900_000_000, {}, key_id(KEY.public), "0" * 64).to_bytes()
    with refused("bad-signature", Unauthenticated):
        accept(Signed(body, KEY.sign(body)))


def test_an_altered_one_is_refused_whatever_was_altered() -> None:
    signed = sign_decision(DECISION, KEY)
    for place in range(0, len(signed.body), 5):
        body = bytearray(signed.body)
        body[place] ^= 1
        with refused("bad-signature", Unauthenticated):
            accept(Signed(bytes(body), signed.signature))


@given(limits=st.lists(st.integers(0, PLACES), min_size=2, max_size=5), number=st.integers(0, 10**6))
def test_stages_are_nested_and_the_same_for_whoever_asks(limits: list[int], number: int) -> None:
    device = f"device-{number}"
    inside = [dataclasses.replace(DECISION, limit=limit).includes(device) for limit in sorted(limits)]
    assert inside == sorted(inside)  # once in, always in
    assert inside == [dataclasses.replace(DECISION, limit=limit).includes(device) for limit in sorted(limits)]
    assert dataclasses.replace(DECISION, limit=PLACES).includes(device)
    assert not dataclasses.replace(DECISION, limit=0).includes(device)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_share_of_the_places_is_that_share_of_the_devices_and_others_for_another_version(share: float) -> None:
    def chosen(version: int) -> set[int]:
        return {n for n in range(10_000) if place_of("activity", version, f"device-{n}") < share * PLACES}

    first, second = chosen(5), chosen(6)
    assert len(first) / 10_000 == pytest.approx(share, rel=0.3)
    assert len(first & second) / len(first) == pytest.approx(share, abs=0.1)


def test_pinned_comes_before_everything() -> None:
    pinned = dataclasses.replace(DECISION, pinned=2, limit=PLACES)
    assert pinned.use("device-1") == Use(2, "pinned")
    assert dataclasses.replace(pinned, pinned=None).use("device-1") == Use(5, "candidate")

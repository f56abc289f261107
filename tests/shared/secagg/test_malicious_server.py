"""A server that lies to devices, one attack per test: the device refuses by name and reveals nothing more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from shared.errors import FedloomError, ProtocolAbort, Unauthenticated, UsageError
from shared.secagg.floors import DeviceFloors
from shared.secagg.keys import KeyPair
from shared.secagg.masking import Words
from shared.secagg.parameters import CohortRules
from shared.secagg.roster import CohortBinding, Member, Roster, make_member, to_bitmap
from shared.secagg.session import Phase, agreement_message
from shared.wire.canonical import Json, sha256
from shared.wire.signed import SigningKey
from tests.shared.cohort_simulation import (
    EXPIRES_AT_S,
    NOW_S,
    CohortSimulation,
    Identity,
    binding_for,
    new_session,
)
from tests.shared.refusals import refused

# n = 5 gives t = 4, at least 4 survivors, and a quorum of 4.
RULES = CohortRules(min_survivors=3, largest=8, corrupt_share=0.2, dropout_share=0.2)
VICTIM = 0


def words() -> Words:
    return np.zeros(8, dtype=np.uint64)


def cohort_after(step: str, devices: int = 5) -> CohortSimulation:
    simulation = CohortSimulation(devices, RULES)
    simulation.run_to(step)
    return simulation


def member_of(
    number: int,
    binding: CohortBinding | None = None,
    *,
    identity: Identity | None = None,
    channel: bytes | None = None,
    mask: bytes | None = None,
) -> Member:
    """Return a well-signed roster entry with the given keys."""
    who = identity or Identity.enrolled(number)
    seed = number.to_bytes(4, "big")
    return make_member(
        who.key,
        who.certificate,
        binding or binding_for(),
        channel_key=channel or KeyPair.of(sha256(b"other channel", seed)).public,
        mask_key=mask or KeyPair.of(sha256(b"other mask", seed)).public,
    )


def roster_with(simulation: CohortSimulation, *entries: Member, without: tuple[int, ...] = ()) -> Json:
    """Return the roster that travels, with entries left out and others added."""
    kept = [member for number, member in simulation.joined.items() if number not in without]
    return {"members": [member.to_json() for member in (*kept, *entries)]}


def refuses_roster(simulation: CohortSimulation, roster: Json, code: str, kind: type[FedloomError]) -> None:
    """Assert that the victim refuses ``roster``, and the honest one afterwards: the session is over."""
    victim = simulation.sessions[VICTIM]
    with refused(code, kind):
        victim.share(roster, NOW_S)
    with refused("out-of-order", ProtocolAbort):
        victim.share(simulation.roster.to_json(), NOW_S)


class TestRosters:
    """Step share."""

    @pytest.mark.parametrize(
        ("binding", "code"),
        [
            (dataclasses.replace(binding_for(), plan_sha256=sha256(b"weaker plan")), "other-plan"),
            (dataclasses.replace(binding_for(), model_sha256=sha256(b"suppresses gradients")), "other-model"),
            (dataclasses.replace(binding_for(), cohort="cohort-b"), "other-cohort"),
            (dataclasses.replace(binding_for(), task="other"), "other-cohort"),
            (dataclasses.replace(binding_for(), expires_at_s=EXPIRES_AT_S - 1), "other-cohort"),
        ],
        ids=["plan", "model", "cohort", "task", "expiry"],
    )
    def test_with_a_member_that_signed_for_something_else(self, binding: CohortBinding, code: str) -> None:
        simulation = cohort_after("join")
        stranger = member_of(4, binding)
        refuses_roster(simulation, roster_with(simulation, stranger, without=(4,)), code, ProtocolAbort)

    def test_with_a_member_of_another_task(self) -> None:
        simulation = cohort_after("join")
        stranger = member_of(4, identity=Identity.enrolled(4, task="other"))
        refuses_roster(simulation, roster_with(simulation, stranger, without=(4,)), "other-task", ProtocolAbort)

    def test_with_a_certificate_of_another_authority(self) -> None:
        simulation = cohort_after("join")
        sybil = member_of(4, identity=Identity.enrolled(4, authority=SigningKey(sha256(b"the server itself"))))
        refuses_roster(simulation, roster_with(simulation, sybil, without=(4,)), "bad-signature", Unauthenticated)

    def test_with_a_join_message_signed_by_another_member(self) -> None:
        simulation = cohort_after("join")
        forged = member_of(4, identity=Identity(Identity.enrolled(3).key, Identity.enrolled(4).certificate))
        refuses_roster(simulation, roster_with(simulation, forged, without=(4,)), "bad-signature", Unauthenticated)

    def test_with_a_join_message_under_a_certificate_of_another_name(self) -> None:
        simulation = cohort_after("join")
        key, certificate = Identity.enrolled(4).key, Identity.enrolled(4).certificate
        renamed = dataclasses.replace(certificate, device="device-003")
        entry = dataclasses.replace(member_of(4, identity=Identity(key, renamed)), certificate=certificate)
        refuses_roster(simulation, roster_with(simulation, entry, without=(4,)), "wrong-device", ProtocolAbort)

    def test_with_an_expired_certificate(self) -> None:
        simulation = cohort_after("join")
        expired = member_of(4, identity=Identity.enrolled(4, expires_at_s=NOW_S - 1))
        refuses_roster(simulation, roster_with(simulation, expired, without=(4,)), "expired-certificate", ProtocolAbort)

    def test_after_the_cohort_expired(self) -> None:
        simulation = cohort_after("join")
        with refused("expired-certificate", ProtocolAbort):
            simulation.sessions[VICTIM].share(simulation.roster.to_json(), EXPIRES_AT_S + 1)

    def test_with_one_member_twice(self) -> None:
        simulation = cohort_after("join")
        doubled = roster_with(simulation, simulation.joined[4])
        refuses_roster(simulation, doubled, "duplicate-member", ProtocolAbort)

    def test_with_one_device_under_two_join_messages(self) -> None:
        simulation = cohort_after("join")
        refuses_roster(simulation, roster_with(simulation, member_of(4)), "duplicate-member", ProtocolAbort)

    @pytest.mark.parametrize("copied", ["channel_key", "mask_key"])
    @pytest.mark.parametrize("place", ["channel", "mask"])
    def test_with_a_member_that_copied_a_key_of_another(self, copied: str, place: str) -> None:
        simulation = cohort_after("join")
        key: bytes = getattr(simulation.joined[VICTIM], copied)
        parrot = member_of(4, channel=key) if place == "channel" else member_of(4, mask=key)
        refuses_roster(simulation, roster_with(simulation, parrot, without=(4,)), "duplicate-member", ProtocolAbort)

    def test_with_a_member_that_copied_a_key_in_another_encoding(self) -> None:
        simulation = cohort_after("join")
        key = simulation.joined[VICTIM].mask_key
        parrot = member_of(4, mask=key[:-1] + bytes([key[-1] | 0x80]))  # RFC 7748 ignores this bit
        refuses_roster(simulation, roster_with(simulation, parrot, without=(4,)), "bad-public-key", ProtocolAbort)

    def test_with_a_member_whose_two_keys_are_the_same(self) -> None:
        simulation = cohort_after("join")
        key = KeyPair.of(sha256(b"one for both")).public
        lazy = member_of(4, channel=key, mask=key)
        refuses_roster(simulation, roster_with(simulation, lazy, without=(4,)), "same-keys", ProtocolAbort)

    @pytest.mark.parametrize("place", ["channel", "mask"])
    @pytest.mark.parametrize("low_order", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
    def test_with_a_key_of_low_order(self, place: str, low_order: bytes) -> None:
        simulation = cohort_after("join")
        weak = member_of(4, channel=low_order) if place == "channel" else member_of(4, mask=low_order)
        refuses_roster(simulation, roster_with(simulation, weak, without=(4,)), "bad-public-key", ProtocolAbort)

    def test_that_omits_the_device(self) -> None:
        simulation = cohort_after("join")
        refuses_roster(simulation, roster_with(simulation, without=(VICTIM,)), "not-in-roster", ProtocolAbort)

    def test_that_replaces_the_devices_own_keys(self) -> None:
        simulation = cohort_after("join")
        older = new_session(VICTIM, RULES, seed=9).join()  # an earlier message of the same device
        replaced = roster_with(simulation, older, without=(VICTIM,))
        refuses_roster(simulation, replaced, "not-in-roster", ProtocolAbort)

    def test_that_is_too_small(self) -> None:
        simulation = cohort_after("join")
        refuses_roster(simulation, roster_with(simulation, without=(2, 3, 4)), "cohort-size", ProtocolAbort)

    def test_that_is_too_large(self) -> None:
        simulation = cohort_after("join", devices=9)
        refuses_roster(simulation, simulation.roster.to_json(), "cohort-size", ProtocolAbort)

    def test_of_a_size_without_safe_thresholds(self) -> None:
        simulation = cohort_after("join")
        rules = dataclasses.replace(RULES, min_survivors=2, dropout_share=0.5)
        victim = new_session(VICTIM, rules)
        victim.join()
        with refused("unsafe-cohort", ProtocolAbort):
            victim.share(simulation.roster.to_json(), NOW_S)

    @pytest.mark.parametrize("roster", [None, [], {}, {"members": {}}, {"members": [1]}, {"members": [], "x": 1}])
    def test_that_is_not_a_roster(self, roster: Json) -> None:
        simulation = cohort_after("join")
        refuses_roster(simulation, roster, "bad-field", UsageError)

    @pytest.mark.parametrize("part", ["join", "certificate"])
    @pytest.mark.parametrize("field", ["body", "signature"])
    def test_with_one_flipped_bit(self, part: str, field: str) -> None:
        simulation = cohort_after("join")
        original = simulation.joined[4]
        signed = original.join if part == "join" else original.certificate.signed
        octets = bytearray(getattr(signed, field))
        octets[20] ^= 1
        flipped = dataclasses.replace(signed, **{field: bytes(octets)})
        if part == "join":
            entry = dataclasses.replace(original, join=flipped)
        else:
            entry = dataclasses.replace(original, certificate=dataclasses.replace(original.certificate, signed=flipped))
        refuses_roster(simulation, roster_with(simulation, entry, without=(4,)), "bad-signature", Unauthenticated)


Tamper = Callable[[CohortSimulation, dict[int, bytes]], dict[int, bytes]]


def swap_two(_: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 1: inbox[2], 2: inbox[1]}


def for_another_receiver(simulation: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 1: simulation.shares[1].boxes[2]}


def the_victims_own_back(simulation: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 1: simulation.shares[VICTIM].boxes[1]}


def from_another_cohort(_: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    # The same identities and, as the seed is the same only by name, other keys and another roster.
    other = CohortSimulation(5, RULES, binding=binding_for("cohort-b"))
    other.run_to("share")
    return {**inbox, 1: other.inbox(VICTIM)[1]}


def one_flipped_bit(_: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 3: inbox[3][:7] + bytes([inbox[3][7] ^ 1]) + inbox[3][8:]}


def a_cut_box(_: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 3: inbox[3][:-1]}


def an_empty_box(_: CohortSimulation, inbox: dict[int, bytes]) -> dict[int, bytes]:
    return {**inbox, 3: b""}


class TestInboxes:
    """Step mask."""

    @pytest.mark.parametrize(
        "tamper",
        [
            swap_two,
            for_another_receiver,
            the_victims_own_back,
            from_another_cohort,
            one_flipped_bit,
            a_cut_box,
            an_empty_box,
        ],
    )
    def test_with_a_box_that_was_not_sealed_for_this_pair_and_cohort(self, tamper: Tamper) -> None:
        simulation = cohort_after("share")
        victim, inbox = simulation.sessions[VICTIM], simulation.inbox(VICTIM)
        with refused("bad-sealed-share", ProtocolAbort):
            victim.mask(tamper(simulation, inbox), words())
        with refused("out-of-order", ProtocolAbort):
            victim.mask(inbox, words())

    @pytest.mark.parametrize("index", [VICTIM, 5, -1])
    def test_with_a_sender_that_cannot_be(self, index: int) -> None:
        simulation = cohort_after("share")
        inbox = simulation.inbox(VICTIM)
        with refused("bad-inbox", ProtocolAbort):
            simulation.sessions[VICTIM].mask({**inbox, index: inbox[1]}, words())

    @pytest.mark.parametrize("senders", [0, 1, 2])
    def test_with_too_few_senders_to_recover_anything(self, senders: int) -> None:
        simulation = cohort_after("share")
        inbox = dict(list(simulation.inbox(VICTIM).items())[:senders])
        with refused("too-few-shares", ProtocolAbort):
            simulation.sessions[VICTIM].mask(inbox, words())

    def test_a_refusal_leaves_the_update_unmasked_and_unsent(self) -> None:
        simulation = cohort_after("share")
        update = np.arange(8, dtype=np.uint64)
        with refused("bad-sealed-share", ProtocolAbort):
            simulation.sessions[VICTIM].mask(a_cut_box(simulation, simulation.inbox(VICTIM)), update)
        assert list(update) == list(range(8))


class TestSurvivors:
    """Step agree."""

    def test_that_list_this_device_dead(self) -> None:
        simulation = cohort_after("mask")
        with refused("listed-dead", ProtocolAbort):
            simulation.sessions[VICTIM].agree(to_bitmap(frozenset({1, 2, 3, 4}), 5))

    def test_that_are_too_few(self) -> None:
        simulation = cohort_after("mask")
        with refused("too-few-survivors", ProtocolAbort):
            simulation.sessions[VICTIM].agree(to_bitmap(frozenset({0, 1, 2}), 5))

    def test_that_are_this_device_alone(self) -> None:
        simulation = cohort_after("mask")
        with refused("too-few-survivors", ProtocolAbort):
            simulation.sessions[VICTIM].agree(to_bitmap(frozenset({0}), 5))

    def test_with_one_that_never_shared_its_keys(self) -> None:
        simulation = CohortSimulation(5, RULES)
        simulation.run_to("join")
        simulation.drop({4})
        simulation.run_to("mask")
        with refused("unknown-survivor", ProtocolAbort):
            simulation.sessions[VICTIM].agree(to_bitmap(frozenset(range(5)), 5))

    @pytest.mark.parametrize("bitmap", [b"", b"\x1f\x00", b"\x3f", b"\x9f", b"\xff"])
    def test_that_do_not_fit_the_roster(self, bitmap: bytes) -> None:
        simulation = cohort_after("mask")
        with refused("bad-bitmap", ProtocolAbort):
            simulation.sessions[VICTIM].agree(bitmap)


class TestAgreement:
    """Step unmask: what another bitmap, another cohort or an outsider signs does not count."""

    def test_on_different_bitmaps_isolates_nobody(self) -> None:
        simulation = cohort_after("mask")
        everyone, without_4 = frozenset(range(5)), frozenset(range(4))
        shown = {0: without_4, 1: without_4, 2: everyone, 3: everyone, 4: everyone}
        signatures = {i: simulation.sessions[i].agree(to_bitmap(shown[i], 5)) for i in shown}
        for session in simulation.sessions:
            with refused("no-agreement", ProtocolAbort):
                session.unmask(signatures, simulation.inboxes)

    def test_by_one_member_fewer_than_the_quorum(self) -> None:
        simulation = cohort_after("agree")
        three = {index: simulation.signatures[index] for index in (0, 1, 2)}
        with refused("no-agreement", ProtocolAbort):
            simulation.sessions[VICTIM].unmask(three, simulation.inboxes)

    def test_by_exactly_the_quorum(self) -> None:
        simulation = cohort_after("agree")
        four = {index: simulation.signatures[index] for index in (0, 1, 2, 4)}
        assert set(simulation.sessions[VICTIM].unmask(four, simulation.inboxes).self_mask) == set(range(5))

    def test_by_one_member_under_many_indices(self) -> None:
        simulation = cohort_after("agree")
        with refused("no-agreement", ProtocolAbort):
            simulation.sessions[VICTIM].unmask(dict.fromkeys(range(5), simulation.signatures[1]), simulation.inboxes)

    def test_by_a_member_outside_the_survivors(self) -> None:
        simulation = CohortSimulation(5, RULES)
        simulation.run_to("share")
        simulation.drop({4})
        simulation.run_to("agree")
        session = simulation.sessions[VICTIM]
        # Device 4 dropped out before masking; the server, which colludes with it, has it sign all the same.
        outsider = Identity.enrolled(4).key.sign(agreement_message(simulation.roster.sid, simulation.bitmap))
        three = {index: simulation.signatures[index] for index in (0, 1, 2)}
        with refused("no-agreement", ProtocolAbort):
            session.unmask({**three, 4: outsider}, simulation.inboxes)

    @pytest.mark.parametrize("index", [5, -1, 10**9])
    def test_by_nobody_in_the_roster(self, index: int) -> None:
        simulation = cohort_after("agree")
        three = {i: simulation.signatures[i] for i in (0, 1, 2)}
        with refused("no-agreement", ProtocolAbort):
            simulation.sessions[VICTIM].unmask({**three, index: simulation.signatures[3]}, simulation.inboxes)

    def test_from_another_cohort(self) -> None:
        simulation = cohort_after("agree")
        other = CohortSimulation(5, RULES, binding=binding_for("cohort-b"))
        other.run_to("agree")
        assert other.bitmap == simulation.bitmap
        with refused("no-agreement", ProtocolAbort):
            simulation.sessions[VICTIM].unmask(other.signatures, simulation.inboxes)

    @pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(65)])
    def test_by_malformed_signatures(self, signature: bytes) -> None:
        simulation = cohort_after("agree")
        three = {i: simulation.signatures[i] for i in (0, 1, 2)}
        with refused("no-agreement", ProtocolAbort):
            simulation.sessions[VICTIM].unmask({**three, 3: signature, 4: signature}, simulation.inboxes)


class TestSignedInboxes:
    """Step unmask: no share of a self mask goes out where its owner did not sign whom it masked towards."""

    @pytest.mark.parametrize(
        ("lie", "reason"),
        [
            ("missing", "no-signed-inbox"),
            ("a smaller one", "bad-signature"),
            ("another member's", "bad-signature"),
            ("of another cohort", "bad-signature"),
            ("short", "bad-signed-inbox"),
            ("long", "bad-signed-inbox"),
            ("empty", "bad-signed-inbox"),
        ],
    )
    def test_that_the_owner_did_not_sign(self, lie: str, reason: str) -> None:
        simulation = cohort_after("agree")
        good = simulation.inboxes[1]
        other = CohortSimulation(5, RULES, binding=binding_for("cohort-b"))
        other.run_to("mask")
        lies = {
            "a smaller one": bytes([good[0] ^ 8]) + good[1:],
            "another member's": simulation.inboxes[2],
            "of another cohort": other.inboxes[1],
            "short": good[1:],
            "long": b"\0" + good,
            "empty": b"",
        }
        shown = {index: signed for index, signed in simulation.inboxes.items() if index != 1}
        shown |= {1: lies[lie]} if lie in lies else {}
        session = simulation.sessions[VICTIM]
        answer = session.unmask(simulation.signatures, shown)
        assert set(answer.self_mask) == {0, 2, 3, 4}
        assert session.withheld == {1: reason}
        assert session._held == {}

    def test_in_which_the_owner_left_the_holder_out(self) -> None:
        simulation = CohortSimulation(5, RULES)
        simulation.run_to("share")
        inbox = simulation.inbox
        simulation.inbox = lambda index: {s: box for s, box in inbox(index).items() if {s, index} != {VICTIM, 1}}  # type: ignore[method-assign]
        simulation.drop({VICTIM})
        simulation.run("mask")
        simulation.inbox = inbox  # type: ignore[method-assign]
        simulation.masked[VICTIM] = simulation.sessions[VICTIM].mask(inbox(VICTIM), words())
        victim = simulation.sessions[VICTIM]
        bitmap = to_bitmap(frozenset(range(5)), 5)
        signatures = {i: simulation.sessions[i].agree(bitmap) for i in (0, 2, 3, 4)}
        answer = victim.unmask(signatures, simulation.inboxes)
        assert set(answer.self_mask) == {0, 2, 3, 4}
        assert victim.withheld == {1: "masked-without"}

    def test_are_needed_for_no_share_of_a_mask_key(self) -> None:
        simulation = CohortSimulation(5, RULES)
        simulation.run_to("share")
        simulation.drop({4})
        simulation.run_to("agree")
        session = simulation.sessions[VICTIM]
        answer = session.unmask(simulation.signatures, {})
        assert set(answer.self_mask) == {VICTIM}
        assert set(answer.mask_key) == {4}
        assert set(session.withheld) == {1, 2, 3}


class TestReplay:
    """No step runs twice, and a refused or repeated step ends the session."""

    def test_of_the_roster_makes_no_second_shares(self) -> None:
        simulation = cohort_after("share")
        with refused("out-of-order", ProtocolAbort):
            simulation.sessions[VICTIM].share(simulation.roster.to_json(), NOW_S)

    def test_of_the_inbox_masks_no_second_input(self) -> None:
        simulation = cohort_after("mask")
        with refused("out-of-order", ProtocolAbort):
            simulation.sessions[VICTIM].mask(simulation.inbox(VICTIM), words())

    def test_of_the_survivors_is_not_signed_again(self) -> None:
        simulation = cohort_after("agree")
        session = simulation.sessions[VICTIM]
        with refused("out-of-order", ProtocolAbort):
            session.agree(to_bitmap(frozenset({0, 1, 2, 3}), 5))
        with refused("out-of-order", ProtocolAbort):
            session.unmask(simulation.signatures, simulation.inboxes)

    def test_of_the_signatures_reveals_no_second_answer(self) -> None:
        simulation = cohort_after("unmask")
        session = simulation.sessions[VICTIM]
        with refused("out-of-order", ProtocolAbort):
            session.unmask(simulation.signatures, simulation.inboxes)
        assert session._held == {}

    @pytest.mark.parametrize("done", ["join", "share", "mask", "agree", "unmask"])
    @pytest.mark.parametrize("asked", ["join", "share", "mask", "agree", "unmask"])
    def test_of_any_step_out_of_order_ends_the_session(self, done: str, asked: str) -> None:
        steps = ["join", "share", "mask", "agree", "unmask"]
        if steps.index(asked) == steps.index(done) + 1:
            simulation = cohort_after(asked)
            assert simulation.sessions[VICTIM].phase is Phase(steps.index(asked) + 1)
            return
        simulation = cohort_after(done)
        with refused("out-of-order", ProtocolAbort):
            ask(simulation, asked)
        for step in steps:
            with refused("out-of-order", ProtocolAbort):
                ask(simulation, step)


def ask(simulation: CohortSimulation, step: str) -> None:
    """Ask the victim for ``step`` with the best material that there is."""
    session = simulation.sessions[VICTIM]
    if step == "join":
        session.join()
    elif step == "share":
        session.share(simulation.roster.to_json(), NOW_S)
    elif step == "mask":
        session.mask(simulation.inbox(VICTIM), words())
    elif step == "agree":
        session.agree(to_bitmap(frozenset(range(5)), 5))
    else:
        session.unmask(simulation.signatures, simulation.inboxes)


def test_a_plan_below_the_owners_floors_is_refused() -> None:
    floors = DeviceFloors(min_survivors=10, max_l2_norm=2.0)
    with refused("floor-cohort-size", ProtocolAbort):
        floors.check(CohortRules(9, 64, 0.05, 0.1), max_l2_norm=1.0)
    with refused("floor-clip-norm", ProtocolAbort):
        floors.check(CohortRules(10, 64, 0.05, 0.1), max_l2_norm=2.5)
    with refused("floor-adversary", ProtocolAbort):
        floors.check(CohortRules(10, 500, 0.05, 0.1, "semi-honest"), max_l2_norm=1.0)
    dataclasses.replace(floors, semi_honest=True).check(CohortRules(10, 500, 0.05, 0.1, "semi-honest"), max_l2_norm=1.0)
    floors.check(CohortRules(10, 64, 0.05, 0.1), max_l2_norm=2.0)
    with refused("floor-corrupt-share", ProtocolAbort):
        dataclasses.replace(floors, min_corrupt_share=0.06).check(CohortRules(10, 64, 0.05, 0.1), max_l2_norm=2.0)


def test_the_order_in_which_the_server_lists_members_changes_nothing() -> None:
    simulation = cohort_after("join")
    listed = list(simulation.joined.values())
    assert Roster.of(simulation.binding, listed[::-1]).sid == simulation.roster.sid


def test_one_more_member_changes_the_session() -> None:
    simulation = cohort_after("join")
    smaller = Roster.of(simulation.binding, list(simulation.joined.values())[:-1])
    assert smaller.sid != simulation.roster.sid

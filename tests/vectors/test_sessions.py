"""Whole sessions: from its draws and what it is told, a device sends what is in the file; the sum is right."""

from __future__ import annotations

import numpy as np
import pytest

from shared.secagg.masking import MaskedUpdate, Words, add_into
from shared.secagg.parameters import thresholds
from shared.secagg.recovery import Fates, unmask_sum
from shared.wire.messages import read_answer, read_octets, read_shares
from tests.vectors.reading import Case, read, rules_of, words_of
from tests.vectors.replay import Device, encoding_of, joined_text, messages_for, roster_of

SESSIONS = ["session-aes-256-ctr.json", "session-chacha20.json"]
CASES = [(name, index) for name in SESSIONS for index in range(5)]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_device_sends_what_is_in_the_file(name: str, index: int) -> None:
    document = read(name)
    device, mine, messages = Device(document, index), document["devices"][index], messages_for(document, index)
    assert joined_text(device) == mine["join"]
    assert device.step("share", messages).decode() == mine["shares"]
    assert device.session.sid.hex() == document["sid"]
    if "vector" not in mine:
        return
    words = device.words()
    assert MaskedUpdate(words).to_bytes().hex() == mine["words"]
    assert device.step("mask", messages, words).hex() == mine["vector"]
    assert device.step("agree", messages).decode() == mine["agreement"]
    assert device.step("unmask", messages).decode() == mine["answer"]


@pytest.mark.parametrize("name", SESSIONS)
def test_the_roster_is_what_everything_hangs_on(name: str) -> None:
    document = read(name)
    roster = roster_of(document)
    assert [member.leaf.hex() for member in roster.members] == document["leaves"]
    assert (roster.root.hex(), roster.sid.hex()) == (document["roster_root"], document["sid"])
    limits = thresholds(len(roster.members), rules_of(document["rules"]))
    assert vars(limits) == document["thresholds"]


@pytest.mark.parametrize("name", SESSIONS)
def test_the_aggregator_finds_the_sum(name: str) -> None:
    document = read(name)
    devices = dict(enumerate(document["devices"]))
    survivors = {index: device for index, device in devices.items() if "vector" in device}
    assert len(survivors) == 4
    roster, encoding = roster_of(document), encoding_of(document)
    total = np.zeros(encoding.words, dtype=np.uint64)
    for device in survivors.values():
        add_into(total, words_of(device["vector"]))
    assert MaskedUpdate(total).to_bytes().hex() == document["masked_sum"]
    plain = unmask_sum(
        total,
        roster,
        Fates(frozenset(devices), frozenset(survivors)),
        {index: read_shares(device["shares"].encode()).commitment for index, device in devices.items()},
        {index: read_answer(device["answer"].encode()) for index, device in survivors.items()},
        limits=thresholds(len(devices), rules_of(document["rules"])),
        cipher=document["cohort"]["cipher"],
    )
    assert MaskedUpdate(plain).to_bytes().hex() == document["sum"]
    words = [words_of(device["words"]) for device in survivors.values()]
    assert np.array_equal(plain, np.sum(words, axis=0, dtype=np.uint64))
    assert_decoded(document, plain)


def assert_decoded(document: Case, plain: Words) -> None:
    decoded = encoding_of(document).decode(plain, survivors=4, sid=bytes.fromhex(document["sid"]))
    expected, judged = document["decoded"], decoded.evaluation
    np.testing.assert_allclose(decoded.values, expected["values"], atol=1e-8)
    np.testing.assert_allclose(decoded.statistics, expected["statistics"], atol=1e-8)
    counts = [decoded.weight_sum, decoded.clipped, judged.loss_sum, judged.correct, judged.count]
    assert counts == [expected[name] for name in ("weight", "clipped", "loss_sum", "correct", "evaluated")]


@pytest.mark.parametrize("name", SESSIONS)
def test_the_sum_is_that_of_the_survivors_contributions(name: str) -> None:
    """Clipped, weighted, and right to one step of the grid per device."""
    document = read(name)
    cohort, encoding = document["cohort"], encoding_of(document)
    total = np.zeros(cohort["dimension"])
    for device in document["devices"]:
        if "vector" in device:
            mine = device["contribution"]
            update, weight = np.array(mine["update"]), min(mine["examples"], cohort["max_weight"])
            scale = min(1.0, cohort["max_l2_norm"] / np.linalg.norm(update))
            total += update * scale * weight / cohort["max_weight"]
    block = 2.0 ** np.ceil(np.log2(cohort["dimension"])) if cohort["rotated"] else 1.0
    error = np.abs(total - document["decoded"]["values"]).max()
    assert error < 4 * encoding.update.grid.step * np.sqrt(block)
    assert read_octets(document["survivors"].encode(), "bitmap") == bytes([0b10111])

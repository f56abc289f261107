"""Every bad vector is refused at its step, with its code, by the code that devices and the aggregator run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from shared.errors import ProtocolAbort, Unauthenticated, UnmaskingFailed, UsageError
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.keys import require_public_key
from shared.secagg.masking import add_into
from shared.secagg.parameters import thresholds
from shared.secagg.recovery import Fates, unmask_sum
from shared.wire.canonical import decode, octets_from_text
from shared.wire.messages import read_answer, read_shares
from shared.wire.signed import Certificate, Signed, verify
from tests.shared.refusals import refused
from tests.vectors.reading import Case, cases, octets, read, rules_of, words_of
from tests.vectors.replay import Device, encoding_of, messages_for, roster_of

STEPS = ("share", "mask", "agree", "unmask")
FILE = "refused-values.json"
SESSION = read(read("refused-sessions.json")["session"])
DEVICES = cases("refused-sessions.json", "devices")


def comments(found: list[Case]) -> list[str]:
    return [case["comment"] for case in found]


def messages_of(case: Case) -> dict[str, Any]:
    """Return what the server says: the session's messages, but for those that the case replaces."""
    messages = messages_for(SESSION, case["device"])
    messages |= {name: case[name] for name in messages.keys() & case.keys()}
    if "roster" in case:
        entries = json.loads(SESSION["roster"])["members"]
        members = [entries[entry] if isinstance(entry, int) else entry for entry in case["roster"]["members"]]
        messages["roster"] = {**case["roster"], "members": members}
    return messages


@pytest.mark.parametrize("case", DEVICES, ids=comments(DEVICES))
def test_a_device_refuses(case: Case) -> None:
    device, messages = Device(SESSION, case["device"]), messages_of(case)
    *before, last = case["steps"]
    for step in before:
        device.step(step, messages)
    with refused(case["code"]) as caught:
        device.step(last, messages)
    if isinstance(caught.value, ProtocolAbort | Unauthenticated):
        for step in STEPS:  # nothing more comes out of this session, whatever it is told
            with refused("out-of-order", ProtocolAbort):
                device.step(step, messages_for(SESSION, case["device"]))


def test_a_device_refuses_at_every_step_and_by_every_name() -> None:
    """The codes of the specification's table, but for those that need a larger cohort."""
    assert {case["steps"][-1] for case in DEVICES} == set(STEPS)
    codes = {case["code"] for case in DEVICES}
    assert codes >= {
        "out-of-order", "bad-signature", "wrong-device", "other-task", "other-plan", "other-model", "other-cohort",
        "expired-certificate", "same-keys", "bad-public-key", "duplicate-member", "no-graph-seed", "not-in-roster",
        "cohort-size", "bad-field", "bad-inbox", "too-few-shares", "bad-sealed-share", "bad-bitmap", "listed-dead",
        "unknown-survivor", "too-few-survivors", "no-agreement",
    }  # fmt: skip


@pytest.mark.parametrize("case", cases("refused-sessions.json", "aggregator"), ids=lambda case: case["comment"])
def test_the_aggregator_gives_no_sum(case: Case) -> None:
    devices = SESSION["devices"]
    total = np.zeros(encoding_of(SESSION).words, dtype=np.uint64)
    for index in case["survivors"]:
        add_into(total, words_of(devices[index]["vector"]))
    with refused(case["code"], UnmaskingFailed):
        unmask_sum(
            total,
            roster_of(SESSION),
            Fates(frozenset(range(len(devices))), frozenset(case["survivors"])),
            {i: read_shares(device["shares"].encode()).commitment for i, device in enumerate(devices)},
            {int(index): read_answer(text.encode()) for index, text in case["answers"].items()},
            limits=thresholds(len(devices), rules_of(SESSION["rules"])),
            cipher=SESSION["cohort"]["cipher"],
        )


@pytest.mark.parametrize("case", cases(FILE, "public_keys"), ids=lambda case: case["comment"])
def test_public_keys(case: Case) -> None:
    with refused(case["code"], ProtocolAbort):
        require_public_key(bytes.fromhex(case["key"]))


@pytest.mark.parametrize("case", cases(FILE, "signatures"), ids=lambda case: case["comment"])
def test_signatures(case: Case) -> None:
    public, message, signature = octets(case, "public", "message", "signature")
    with refused(case["code"], Unauthenticated):
        verify(public, message, signature, "a message")


def signed(case: Case) -> Signed:
    return Signed(case["body"].encode(), bytes.fromhex(case["signature"]))


@pytest.mark.parametrize("case", cases(FILE, "certificates"), ids=lambda case: case["comment"])
def test_certificates(case: Case) -> None:
    with refused(case["code"]):
        Certificate.verified(signed(case), bytes.fromhex(case["authority_key"]))


@pytest.mark.parametrize("case", cases(FILE, "graph_seeds"), ids=lambda case: case["comment"])
def test_graph_seeds(case: Case) -> None:
    authority, root = octets(case, "authority_key", "roster_root")
    with refused(case["code"]):
        GraphSeed.verified(signed(case), authority, cohort=case["cohort"], roster_root=root)


@pytest.mark.parametrize("case", cases(FILE, "json"), ids=lambda case: case["comment"])
def test_json(case: Case) -> None:
    with refused(case["code"], UsageError):
        decode(case["text"].encode())


@pytest.mark.parametrize("case", cases(FILE, "base64url"), ids=lambda case: case["comment"])
def test_base64url(case: Case) -> None:
    with refused(case["code"], UsageError):
        octets_from_text(case["text"])


@pytest.mark.parametrize("case", cases(FILE, "answers"), ids=lambda case: case["comment"])
def test_answers(case: Case) -> None:
    with refused(case["code"], UsageError):
        read_answer(case["text"].encode())


@pytest.mark.parametrize("case", cases(FILE, "sums"), ids=lambda case: case["comment"])
def test_sums(case: Case) -> None:
    document = read(read(FILE)["session"])
    with refused(case["code"], UnmaskingFailed):
        encoding_of(document).decode(
            words_of(case["sum"]), survivors=case["survivors"], sid=bytes.fromhex(document["sid"])
        )

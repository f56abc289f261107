"""One device's part in a sparse cohort, by the implementation and by the specification alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import ProtocolAbort
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.keys import KeyPair
from shared.secagg.parameters import thresholds
from shared.secagg.roster import Roster, make_member
from shared.secagg.session import DeviceSession
from shared.wire.canonical import Json, octets_to_text
from shared.wire.signed import Certificate, Signed, SigningKey
from tests.shared.refusals import refused
from tests.vectors.reading import Case, cases, octets, read, rules_of, words_of
from tests.vectors.replay import binding_of, do_step
from tests.vectors.test_by_hand import PRIME, h, hkdf, keystream, merkle, t, text, to_words, x25519

FILE = "session-sparse.json"
DOCUMENT = read(FILE)
INDEX, MEMBERS = DOCUMENT["index"], DOCUMENT["members"]
SID = bytes.fromhex(DOCUMENT["sid"])


def certificate_of(member: Case) -> Certificate:
    return Certificate.issue(
        SigningKey(bytes.fromhex(DOCUMENT["authority_secret"])),
        task=DOCUMENT["cohort"]["task"],
        device=member["device"],
        identity_key=SigningKey(bytes.fromhex(member["identity_secret"])).public,
        expires_at_s=DOCUMENT["certificates_expire_at_s"],
    )


@cache
def roster() -> Roster:
    """Return the roster that follows from the members' secrets."""
    entries = []
    for member in MEMBERS:
        identity, channel, mask = octets(member, "identity_secret", "channel_secret", "mask_secret")
        keys = {"channel_key": KeyPair.of(channel).public, "mask_key": KeyPair.of(mask).public}
        entries.append(make_member(SigningKey(identity), certificate_of(member), binding_of(DOCUMENT), **keys))
    return Roster.of(binding_of(DOCUMENT), entries)


def signed(case: Case) -> Signed:
    return Signed(case["body"].encode(), bytes.fromhex(case["signature"]))


def session() -> DeviceSession:
    """Return the device's session with the draws of the file, joined."""
    mine = MEMBERS[INDEX]
    names = "channel_secret", "mask_secret", "self_mask_seed"
    coefficients = DOCUMENT["self_mask_coefficients"], DOCUMENT["mask_secret_coefficients"]
    drawn = map(bytes.fromhex, itertools.chain((mine[name] for name in names), *coefficients))
    made = DeviceSession(
        identity=SigningKey(bytes.fromhex(mine["identity_secret"])),
        certificate=certificate_of(mine),
        binding=binding_of(DOCUMENT),
        rules=rules_of(DOCUMENT["rules"]),
        authority_key=bytes.fromhex(DOCUMENT["authority_key"]),
        random_bytes=lambda _: next(drawn),
        cipher=DOCUMENT["cohort"]["cipher"],
    )
    assert made.join() == roster().members[INDEX]
    return made


def messages(seed: Case | None = DOCUMENT["graph_seed"]) -> dict[str, Any]:
    """Return what the server says."""
    names = "now_s", "inbox", "survivors", "agreements"
    sent: dict[str, Json] = {"members": [member.to_json() for member in roster().members]}
    if seed is not None:
        sent["seed"] = signed(seed).to_json()
    return {**{name: DOCUMENT[name] for name in names}, "roster": sent}


def test_the_device_sends_what_is_in_the_file() -> None:
    device, said = session(), messages()
    assert do_step(device, "share", said).decode() == DOCUMENT["shares"]
    assert device.sid == SID
    assert do_step(device, "mask", said, words_of(DOCUMENT["words"])).hex() == DOCUMENT["vector"]
    assert octets_to_text(device.signed_inbox) == DOCUMENT["signed_inbox"]
    assert do_step(device, "agree", said).decode() == DOCUMENT["agreement"]
    assert do_step(device, "unmask", said).decode() == DOCUMENT["answer"]


@pytest.mark.parametrize("case", cases(FILE, "withheld"), ids=lambda case: case["comment"])
def test_the_device_withholds_a_share(case: Case) -> None:
    device, said = session(), messages()
    do_step(device, "share", said)
    do_step(device, "mask", said, words_of(DOCUMENT["words"]))
    do_step(device, "agree", said)
    assert do_step(device, "unmask", {**said, "agreements": case["agreements"]}).decode() == case["answer"]
    assert device.withheld == {case["survivor"]: case["reason"]}


def test_the_graph_follows_from_the_seed() -> None:
    limits = thresholds(len(MEMBERS), rules_of(DOCUMENT["rules"]))
    assert vars(limits) == DOCUMENT["thresholds"]
    authority = bytes.fromhex(DOCUMENT["authority_key"])
    cohort, root = DOCUMENT["cohort"]["cohort"], bytes.fromhex(DOCUMENT["roster_root"])
    seed = GraphSeed.verified(signed(DOCUMENT["graph_seed"]), authority, cohort=cohort, roster_root=root)
    graph = replace(roster(), seed=seed).graph(limits.neighbours)
    assert list(graph.ring) == DOCUMENT["ring"]
    assert list(graph.neighbours_of(INDEX)) == DOCUMENT["neighbours"]


@pytest.mark.parametrize("case", cases(FILE, "refused"), ids=lambda case: case["comment"])
def test_the_device_refuses(case: Case) -> None:
    device, said = session(), messages()
    if "graph_seed" in case:
        said = messages(case["graph_seed"])
    said |= {name: case[name] for name in said.keys() & case.keys()}
    *before, last = case["steps"]
    for step in before:
        do_step(device, step, said)
    with refused(case["code"]):
        do_step(device, last, said)
    for step in ("share", "mask", "agree", "unmask"):
        with refused("out-of-order", ProtocolAbort):
            do_step(device, step, messages())


def test_by_hand_the_session_id_binds_the_seed() -> None:
    root = merkle([bytes.fromhex(member["leaf"]) for member in MEMBERS])
    assert root.hex() == DOCUMENT["roster_root"]
    body, signature = DOCUMENT["graph_seed"]["body"].encode(), bytes.fromhex(DOCUMENT["graph_seed"]["signature"])
    authority = Ed25519PublicKey.from_public_bytes(bytes.fromhex(DOCUMENT["authority_key"]))
    authority.verify(signature, t("fedloom/1/graph-seed", body))
    drawn = json.loads(body)
    assert text(drawn["roster_root"]) == root
    plan, model = octets(DOCUMENT["cohort"], "plan_sha256", "model_sha256")
    assert h(t("fedloom/1/session", plan, model, root, text(drawn["seed"]))) == SID


def test_by_hand_neighbours_stand_beside_the_device() -> None:
    ring, k = DOCUMENT["ring"], DOCUMENT["thresholds"]["neighbours"]
    place = ring.index(INDEX)
    around = [ring[(place + step) % len(ring)] for step in range(-k // 2, k // 2 + 1) if step]
    assert sorted(around) == DOCUMENT["neighbours"]


def test_by_hand_the_shares_are_at_the_neighbours_places() -> None:
    """The i-th neighbour in ascending order holds the share at i + 1; the device keeps none."""
    mine, boxes = MEMBERS[INDEX], json.loads(DOCUMENT["shares"])["boxes"]
    assert sorted(map(int, boxes)) == DOCUMENT["neighbours"]
    for x, neighbour in enumerate(DOCUMENT["neighbours"], start=1):
        ours, theirs = bytes.fromhex(mine["channel_secret"]), bytes.fromhex(MEMBERS[neighbour]["channel_secret"])
        key = hkdf(x25519(ours, KeyPair.of(theirs).public), SID, "fedloom/1/seal", INDEX, neighbour)
        context = t("fedloom/1/sealed-shares", SID, INDEX, neighbour)
        pair = AESGCM(key).decrypt(bytes(12), text(boxes[str(neighbour)]), context)
        for share, constant, others in (
            (pair[:32], mine["self_mask_seed"], DOCUMENT["self_mask_coefficients"]),
            (pair[32:], mine["mask_secret"], DOCUMENT["mask_secret_coefficients"]),
        ):
            coefficients = [int(number, 16) for number in (constant, *others)]
            value = sum(c * x**power for power, c in enumerate(coefficients)) % PRIME
            assert int.from_bytes(share, "big") == value


def test_by_hand_it_masks_with_the_neighbours_that_sent_shares() -> None:
    mine = MEMBERS[INDEX]
    words = to_words(bytes.fromhex(DOCUMENT["words"]))
    streams = [(1, hkdf(bytes.fromhex(mine["self_mask_seed"]), SID, "fedloom/1/self-mask", INDEX))]
    for other in map(int, json.loads(DOCUMENT["inbox"])["boxes"]):
        secret = bytes.fromhex(MEMBERS[other]["mask_secret"])
        shared = x25519(bytes.fromhex(mine["mask_secret"]), KeyPair.of(secret).public)
        key = hkdf(shared, SID, "fedloom/1/pair-mask", min(INDEX, other), max(INDEX, other))
        streams.append((1 if other > INDEX else -1, key))
    assert len(streams) == len(DOCUMENT["neighbours"])
    for sign, key in streams:
        stream = keystream(key, "aes-256-ctr", len(words))
        words = [(word + sign * mask) % 2**64 for word, mask in zip(words, stream, strict=True)]
    assert words == to_words(bytes.fromhex(DOCUMENT["vector"]))


def test_by_hand_it_reveals_one_share_of_each_neighbour_that_sent_some() -> None:
    answer = json.loads(DOCUMENT["answer"])
    silent, *others = DOCUMENT["neighbours"]
    assert sorted(map(int, answer["mask_key"])) == others[:2]
    assert sorted(map(int, answer["self_mask"])) == others[2:]
    assert str(silent) not in {**answer["mask_key"], **answer["self_mask"]}

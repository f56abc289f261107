"""The files against the specification alone: written from PROTOCOL.md, with nothing of the implementation.

Whoever implements the protocol in another language has no more than that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tests.vectors.reading import Case, cases, octets, read

PRIME = 2**256 - 189
SESSIONS = ["session-aes-256-ctr.json", "session-chacha20.json"]
AEADS: dict[str, type[AESGCM | ChaCha20Poly1305]] = {"aes-256-ctr": AESGCM, "chacha20": ChaCha20Poly1305}


def h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def t(domain: str, *fields: bytes | int) -> bytes:
    parts = [domain.encode(), *(field.to_bytes(8, "big") if isinstance(field, int) else field for field in fields)]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def hkdf(secret: bytes, sid: bytes, role: str, *indices: int) -> bytes:
    extracted = hmac.digest(sid, secret, hashlib.sha256)
    return hmac.digest(extracted, t(role, *indices) + b"\x01", hashlib.sha256)


def x25519(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def keystream(key: bytes, cipher: str, words: int) -> list[int]:
    algorithm = Cipher(ChaCha20(key, bytes(16)), None) if cipher == "chacha20" else Cipher(AES(key), CTR(bytes(16)))
    return to_words(algorithm.encryptor().update(bytes(8 * words)))


def to_words(data: bytes) -> list[int]:
    return [int.from_bytes(data[start : start + 8], "little") for start in range(0, len(data), 8)]


def text(value: str) -> bytes:
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1."""
    if len(leaves) < 2:
        return h(b"\x00" + leaves[0]) if leaves else h(b"")
    split = max(2**power for power in range(16) if 2**power < len(leaves))
    return h(b"\x01" + merkle(leaves[:split]) + merkle(leaves[split:]))


def at_zero(shares: dict[int, int]) -> int:
    """Lagrange's formula."""
    total = 0
    for x, share in shares.items():
        term = share
        for other in shares:
            if other != x:
                term = term * other * pow(other - x, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


class Session:
    """A session file, read as an aggregator in another language would."""

    def __init__(self, name: str) -> None:
        document = read(name)
        self.sid, self.cipher = bytes.fromhex(document["sid"]), document["cohort"]["cipher"]
        self.document, self.devices = document, document["devices"]
        self.entries = [self._entry(entry) for entry in json.loads(document["roster"])["members"]]
        bitmap = text(json.loads(document["survivors"])["bitmap"])
        self.survivors = [i for i in range(len(self.devices)) if bitmap[i // 8] >> i % 8 & 1]

    @staticmethod
    def _entry(entry: Case) -> dict[str, Any]:
        parts = [text(entry[kind][part]) for kind in ("join", "certificate") for part in ("body", "signature")]
        return {"parts": parts, "join": json.loads(parts[0]), "certificate": json.loads(parts[2])}

    def key(self, member: int, kind: str) -> bytes:
        return text(self.entries[member]["join"][kind])

    def secret(self, member: int, kind: str) -> bytes:
        return bytes.fromhex(self.devices[member]["random"][kind])

    def message(self, member: int, kind: str, field: str) -> dict[int, bytes]:
        return {int(i): text(value) for i, value in json.loads(self.devices[member][kind])[field].items()}

    def pair_key(self, secret: bytes, own: int, other: int) -> bytes:
        shared = x25519(secret, self.key(other, "mask_key"))
        return hkdf(shared, self.sid, "fedloom/1/pair-mask", min(own, other), max(own, other))


@pytest.fixture(params=SESSIONS)
def session(request: pytest.FixtureRequest) -> Session:
    return Session(request.param)


def test_the_session_id(session: Session) -> None:
    leaves = [h(t("fedloom/1/roster-leaf", *entry["parts"])) for entry in session.entries]
    assert [leaf.hex() for leaf in leaves] == session.document["leaves"]
    root = merkle(leaves)
    assert root.hex() == session.document["roster_root"]
    plan, model = octets(session.document["cohort"], "plan_sha256", "model_sha256")
    assert h(t("fedloom/1/session", plan, model, root, b"")) == session.sid


def test_every_signature(session: Session) -> None:
    authority = Ed25519PublicKey.from_public_bytes(bytes.fromhex(session.document["authority_key"]))
    agreements, lists = (json.loads(session.document["agreements"])[name] for name in ("signatures", "inboxes"))
    bitmap = text(json.loads(session.document["survivors"])["bitmap"])
    for index, entry in enumerate(session.entries):
        join, join_signature, certificate, certificate_signature = entry["parts"]
        authority.verify(certificate_signature, t("fedloom/1/certificate", certificate))
        identity = Ed25519PublicKey.from_public_bytes(text(entry["certificate"]["identity_key"]))
        identity.verify(join_signature, t("fedloom/1/join", join))
        if str(index) in agreements:
            identity.verify(text(agreements[str(index)]), t("fedloom/1/agreement", session.sid, h(bitmap)))
            signed = text(session.devices[index]["signed_inbox"])
            assert signed[:-64] == b"\x0f"  # all four others shared their keys
            identity.verify(signed[-64:], t("fedloom/1/inbox", session.sid, index, signed[:-64]))
            assert lists[str(index)] == session.devices[index]["signed_inbox"]
    assert len(agreements) == len(session.survivors) == 4


def test_every_box_holds_the_shares_of_its_polynomials(session: Session) -> None:
    for sender, device in enumerate(session.devices):
        drawn = device["random"]
        for receiver, box in session.message(sender, "shares", "boxes").items():
            shared = x25519(session.secret(receiver, "channel_secret"), session.key(sender, "channel_key"))
            key = hkdf(shared, session.sid, "fedloom/1/seal", sender, receiver)
            context = t("fedloom/1/sealed-shares", session.sid, sender, receiver)
            pair = AEADS[session.cipher](key).decrypt(bytes(12), box, context)
            for share, secret, others in (
                (pair[:32], "self_mask_seed", "self_mask_coefficients"),
                (pair[32:], "mask_secret", "mask_secret_coefficients"),
            ):
                coefficients = [int(drawn[secret], 16), *(int(number, 16) for number in drawn[others])]
                value = sum(c * (receiver + 1) ** power for power, c in enumerate(coefficients)) % PRIME
                assert int.from_bytes(share, "big") == value


def test_every_masked_vector(session: Session) -> None:
    for own in session.survivors:
        device = session.devices[own]
        words = to_words(bytes.fromhex(device["words"]))
        seed = session.secret(own, "self_mask_seed")
        streams = [(1, hkdf(seed, session.sid, "fedloom/1/self-mask", own))]
        for other in session.message(own, "inbox", "boxes"):
            sign = 1 if own < other else -1
            streams.append((sign, session.pair_key(session.secret(own, "mask_secret"), own, other)))
        for sign, key in streams:
            stream = keystream(key, session.cipher, len(words))
            words = [(word + sign * mask) % 2**64 for word, mask in zip(words, stream, strict=True)]
        assert words == to_words(bytes.fromhex(device["vector"]))


def test_the_sum_from_what_the_aggregator_saw(session: Session) -> None:
    """Shares of the answers give secrets, those open commitments and public keys, and masks come off the sum."""
    vectors = [to_words(bytes.fromhex(session.devices[i]["vector"])) for i in session.survivors]
    total = [sum(column) % 2**64 for column in zip(*vectors, strict=True)]
    for owner in range(len(session.devices)):
        alive = owner in session.survivors
        kind = "self_mask" if alive else "mask_key"
        answers = {i: session.message(i, "answer", kind) for i in session.survivors}
        shares = {i + 1: int.from_bytes(answer[owner], "big") for i, answer in answers.items()}
        secret = at_zero(shares).to_bytes(32, "big")
        if alive:
            committed = text(json.loads(session.devices[owner]["shares"])["commitment"])
            assert h(t("fedloom/1/self-mask-commitment", session.sid, owner, secret)) == committed
            streams = [(-1, hkdf(secret, session.sid, "fedloom/1/self-mask", owner))]
        else:
            assert public_of(secret) == session.key(owner, "mask_key")
            # A survivor added its mask towards the drop-out if its own index is the lower one.
            streams = [(-1 if i < owner else 1, session.pair_key(secret, owner, i)) for i in session.survivors]
        for sign, key in streams:
            stream = keystream(key, session.cipher, len(total))
            total = [(word + sign * mask) % 2**64 for word, mask in zip(total, stream, strict=True)]
    assert total == to_words(bytes.fromhex(session.document["sum"]))


def test_the_sum_in_lanes() -> None:
    """Of the session without rotation."""
    session = Session(SESSIONS[0])
    cohort, decoded = session.document["cohort"], session.document["decoded"]
    bits, survivors = cohort["lane_bits"], len(session.survivors)
    levels = (2**bits - 1) // (2 * len(session.devices))
    words, lanes = to_words(bytes.fromhex(session.document["sum"])), 64 // bits
    values = [word >> bits * lane & 2**bits - 1 for word in words[:-5] for lane in range(lanes)]
    steps = [value - survivors * levels for value in values]
    first, both = cohort["dimension"], cohort["dimension"] + cohort["statistics"]
    updates = [step * cohort["max_l2_norm"] / levels for step in steps[:first]]
    statistics = [step * cohort["statistics_max_l2_norm"] / levels for step in steps[first:both]]
    assert updates == pytest.approx(decoded["values"], abs=1e-8)
    assert statistics == pytest.approx(decoded["statistics"], abs=1e-8)
    names = "weight", "loss_sum", "correct", "evaluated", "clipped"
    assert words[-5:] == [decoded[name] * (2**16 if name == "loss_sum" else 1) for name in names]


@pytest.mark.parametrize("case", [case for case in cases("graphs.json", "graphs") if case["ring"]])
def test_a_sparse_graph(case: Case) -> None:
    """Fisher and Yates on a keystream."""
    members, k = case["members"], case["neighbours"]
    key = hkdf(bytes.fromhex(case["seed"]), bytes.fromhex(case["sid"]), "fedloom/1/graph")
    ring, words = list(range(members)), iter(keystream(key, "aes-256-ctr", 2 * members))
    for i in range(members - 1, 0, -1):
        word = next(word for word in words if word < 2**64 - 2**64 % (i + 1))
        j = word % (i + 1)
        ring[i], ring[j] = ring[j], ring[i]
    assert ring == case["ring"]
    for member, neighbours in case["neighbours_of"].items():
        place = ring.index(int(member))
        around = [ring[(place + step) % members] for step in range(-k // 2, k // 2 + 1) if step]
        assert sorted(around) == neighbours


@pytest.mark.parametrize("case", cases("rotations.json", "rotations"))
def test_a_rotation(case: Case) -> None:
    """Signs by the bits of a keystream, then Sylvester's matrix: entry (i, j) is minus one to the ones of i and j."""
    sid, values, rotated = bytes.fromhex(case["sid"]), case["values"], case["rotated"]
    size = len(rotated)
    block = next(2**power for power in count() if 2**power >= len(values))
    assert size == block  # these are small enough for one block
    key = hkdf(sid, sid, "fedloom/1/rotation", case["group"])
    stream = keystream(key, "aes-256-ctr", size // 64 + 1)
    signed = [-value if stream[i // 64] >> i % 64 & 1 else value for i, value in enumerate(values)]
    for i in range(size):
        total = sum(-value if (i & j).bit_count() % 2 else value for j, value in enumerate(signed))
        assert total / size**0.5 == pytest.approx(rotated[i], abs=1e-8)


@pytest.mark.parametrize("case", cases("numbers.json", "noised_sums"))
def test_a_noised_sum(case: Case) -> None:
    """Words are one number in base 2^b, from which the survivors' offsets and the lowest lane are taken."""
    bits, most = case["lane_bits"], case["measure_levels"]
    lanes, steps = 64 // bits, []
    for word in to_words(bytes.fromhex(case["sum"])):
        lifted = word + sum(2 ** (bits - 2) << bits * lane for lane in range(lanes))  # more than any tail here
        steps += [(lifted >> bits * lane & 2**bits - 1) - 2 ** (bits - 2) for lane in range(lanes)]
    steps = [step - case["survivors"] * case["offset"] for step in steps[: len(case["steps"])]]
    assert steps == case["steps"]
    clipped, evaluated, _, loss = (min(max(step / most, 0), case["survivors"]) for step in steps[-4:])
    assert (round(clipped), round(evaluated)) == (case["clipped"], case["evaluated"])
    assert loss * 10 == pytest.approx(case["loss_sum"])


@pytest.mark.parametrize("case", cases("numbers.json", "packings"))
def test_a_packing(case: Case) -> None:
    bits = case["lane_bits"]
    lanes = 64 // bits
    for row, words in zip(case["rows"], case["words"], strict=True):
        shifted = [step + case["levels"] for step in row]
        groups = [shifted[start : start + lanes] for start in range(0, len(row), lanes)]
        packed = [sum(value << bits * lane for lane, value in enumerate(group)) for group in groups]
        assert packed == to_words(bytes.fromhex(words))

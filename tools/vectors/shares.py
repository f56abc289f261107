"""Shares of secrets, and the boxes in which they travel."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import FedloomError
from shared.secagg.keys import KeyPair, agree, derive
from shared.secagg.masking import CIPHERS, CipherName
from shared.secagg.sealing import SharePair, seal
from shared.secagg.shares import PRIME, SECRET_BYTES, recover, split
from tools.vectors.document import Case, Document, Drawn, hexadecimal, octets_for, whole

_EDGES = {"zero": bytes(SECRET_BYTES), "largest": (PRIME - 1).to_bytes(SECRET_BYTES, "big")}


def shares() -> Document:
    """Return the file's content."""
    return {
        "prime": str(PRIME),
        "sharings": [
            _sharing("one", octets_for("secret"), 1, 2),
            _sharing("usual", octets_for("secret"), 4, 5),
            _sharing("zero", _EDGES["zero"], 3, 5),
            _sharing("largest", _EDGES["largest"], 3, 5),
            _sharing("many", octets_for("secret"), 34, 64),
        ],
        "recoveries": [
            _recovery("none wrong", 4, 6, {}),
            _recovery("one wrong", 4, 6, {2: octets_for("wrong share")}),
            _recovery("two wrong", 4, 6, {1: octets_for("wrong share"), 6: bytes(SECRET_BYTES)}),
            _recovery("one outside the field", 4, 6, {3: b"\xff" * SECRET_BYTES}),
            _recovery("too many wrong", 4, 6, {x: octets_for(f"wrong share {x}") for x in (1, 3, 5)}),
            _recovery("too few", 4, 6, {}, missing=(1, 2, 6)),
            _recovery("too few in the field", 4, 6, {3: PRIME.to_bytes(SECRET_BYTES, "big")}, missing=(1, 2)),
        ],
    }


def _sharing(name: str, secret: bytes, threshold: int, holders: int) -> Case:
    source = Drawn(f"sharing {name}")
    points = range(1, holders + 1)
    made = split(secret, threshold, points, source)
    return {
        "secret": secret.hex(),
        "threshold": threshold,
        "coefficients": hexadecimal(source.draws),
        "shares": {str(x): share.hex() for x, share in made.items()},
    }


def _recovery(name: str, threshold: int, holders: int, wrong: dict[int, bytes], missing: Sequence[int] = ()) -> Case:
    secret = octets_for("recovered secret")
    given = split(secret, threshold, range(1, holders + 1), Drawn("recovery")) | wrong
    given = {x: share for x, share in given.items() if x not in missing}
    case: Case = {
        "comment": name,
        "threshold": threshold,
        "secret": secret.hex(),
        "shares": {str(x): share.hex() for x, share in given.items()},
    }
    try:
        _, liars = recover(given, threshold, secret.__eq__, "a member")
    except FedloomError as error:
        return {**case, "refused": error.code}
    return {**case, "wrong": whole(sorted(liars))}


def sealed_boxes() -> Document:
    """Return the file's content."""
    return {"boxes": [_box(cipher, *ends) for cipher in CIPHERS for ends in ((0, 1), (1, 0), (300, 4))]}


def _box(cipher: CipherName, sender: int, receiver: int) -> Case:
    ours, theirs = (KeyPair.of(octets_for(f"channel secret {member}")) for member in (sender, receiver))
    pair, sid = SharePair(octets_for("share of a seed"), octets_for("share of a mask secret")), octets_for("sid")
    box = seal(pair, secret=ours.secret, public=theirs.public, sid=sid, sender=sender, receiver=receiver, cipher=cipher)
    return {
        "cipher": cipher,
        "sid": sid.hex(),
        "sender": sender,
        "receiver": receiver,
        "sender_secret": ours.secret.hex(),
        "sender_key": ours.public.hex(),
        "receiver_secret": theirs.secret.hex(),
        "receiver_key": theirs.public.hex(),
        "self_mask_share": pair.self_mask.hex(),
        "mask_key_share": pair.mask_key.hex(),
        "key": derive(agree(ours.secret, theirs.public), sid, "fedloom/1/seal", sender, receiver).hex(),
        "box": box.hex(),
    }

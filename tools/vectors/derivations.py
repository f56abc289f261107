"""Transcripts, hashes and keys: everything that follows from octets alone."""

from __future__ import annotations

from typing import Final

import numpy as np

from shared.secagg.keys import Exchange, KeyPair, Role, agree, derive
from shared.secagg.masking import CIPHERS, CipherName, Mask, apply_masks, keystream, pair_mask, self_mask
from shared.secagg.roster import merkle_root, to_bitmap
from shared.secagg.session import agreement_message, commitment
from shared.wire.canonical import Json, encode, octets_to_text, sha256, transcript
from tools.vectors.document import Case, Document, hexadecimal, octets_for, words_to_hex

_SID: Final = octets_for("sid")
_ROLES: Final[tuple[tuple[Role, tuple[int, ...]], ...]] = (
    ("fedloom/1/seal", (1, 0)),
    ("fedloom/1/seal", (0, 1)),
    ("fedloom/1/pair-mask", (0, 1)),
    ("fedloom/1/self-mask", (4095,)),
    ("fedloom/1/graph", ()),
    ("fedloom/1/rotation", (0,)),
    ("fedloom/1/rotation", (1,)),
)
_OBJECTS: Final[tuple[Json, ...]] = (
    {},
    {"b": [1, -2.5, True, None], "a": "Zürich\n", "B": {"z": 0, "y": 2**53 - 1}},
)
_STREAM_OCTETS: Final = 300_001  # longer than any piece that an implementation makes at once


def derivations() -> Document:
    """Return the file's content."""
    return {
        "transcripts": [
            _transcript("fedloom/1/test"),
            _transcript("fedloom/1/test", ""),
            _transcript("fedloom/1/test", b"\x00\xff", "Zürich", 0),
            _transcript("fedloom/1/test", 1, 2**63),
        ],
        "canonical_json": [
            {"text": encode(value).decode(), "sha256": sha256(encode(value)).hex()} for value in _OBJECTS
        ],
        "base64url": [
            {"octets": octets.hex(), "text": octets_to_text(octets)}
            for octets in (b"", b"\xfb", b"\xfb\xff", b"\xfb\xff\xfe", octets_for("base64url", 20))
        ],
        "x25519": [_x25519("a", "b"), _x25519("b", "a"), _x25519("a", "c")],
        "hkdf": [_hkdf(role, indices) for role, indices in _ROLES],
        "merkle_roots": [_merkle(leaves) for leaves in (0, 1, 2, 3, 4, 5, 7, 8, 9)],
        "session_ids": [_sid(b""), _sid(octets_for("graph seed"))],
        "commitments": [
            {
                "sid": _SID.hex(),
                "member": member,
                "seed": seed.hex(),
                "commitment": commitment(_SID, member, seed).hex(),
            }
            for member, seed in ((0, octets_for("seed 0")), (65, octets_for("seed 65")))
        ],
        "bitmaps": [_bitmap(5, (0, 1, 3)), _bitmap(8, (7,)), _bitmap(9, (0, 8)), _bitmap(70, tuple(range(0, 70, 3)))],
    }


def keystreams() -> Document:
    """Return the file's content."""
    return {
        "streams": [_stream(cipher, name) for cipher in CIPHERS for name in ("stream 1", "stream 2")],
        "masks": [_masks(cipher, own) for cipher in CIPHERS for own in (0, 2)],
    }


def _transcript(domain: str, *fields: bytes | str | int) -> Case:
    kinds: list[Case] = [
        {"octets": field.hex()}
        if isinstance(field, bytes)
        else {"text": field}
        if isinstance(field, str)
        else {"integer": str(field)}
        for field in fields
    ]
    return {"domain": domain, "fields": [*kinds], "transcript": transcript(domain, *fields).hex()}


def _x25519(own: str, other: str) -> Case:
    pair, peer = KeyPair.of(octets_for(f"x25519 {own}")), KeyPair.of(octets_for(f"x25519 {other}"))
    return {
        "secret": pair.secret.hex(),
        "public": pair.public.hex(),
        "other_public": peer.public.hex(),
        "shared": agree(pair.secret, peer.public).hex(),
    }


def _hkdf(role: Role, indices: tuple[int, ...]) -> Case:
    secrets: dict[Role, bytes] = {"fedloom/1/graph": octets_for("graph seed"), "fedloom/1/rotation": _SID}
    secret = secrets.get(role, octets_for("hkdf secret"))
    return {
        "secret": secret.hex(),
        "sid": _SID.hex(),
        "role": role,
        "indices": list(indices),
        "key": derive(secret, _SID, role, *indices).hex(),
    }


def _merkle(count: int) -> Case:
    leaves = [octets_for(f"leaf {number}") for number in range(count)]
    return {"leaves": hexadecimal(leaves), "root": merkle_root(leaves).hex()}


def _sid(seed: bytes) -> Case:
    fields = octets_for("plan"), octets_for("model"), octets_for("roster root"), seed
    names = "plan_sha256", "model_sha256", "roster_root", "seed"
    named = {name: field.hex() for name, field in zip(names, fields, strict=True)}
    return {**named, "sid": sha256(transcript("fedloom/1/session", *fields)).hex()}


def _bitmap(members: int, survivors: tuple[int, ...]) -> Case:
    bitmap = to_bitmap(frozenset(survivors), members)
    return {
        "members": members,
        "survivors": list(survivors),
        "bitmap": bitmap.hex(),
        "sid": _SID.hex(),
        "agreement_message": agreement_message(_SID, bitmap).hex(),
    }


def _stream(cipher: CipherName, name: str) -> Case:
    key = octets_for(name)
    octets = keystream(key, cipher).update(bytes(_STREAM_OCTETS))
    return {
        "cipher": cipher,
        "key": key.hex(),
        "first_octets": octets[:80].hex(),
        "octets": _STREAM_OCTETS,
        "sha256": sha256(octets).hex(),
    }


def _masks(cipher: CipherName, own: int) -> Case:
    """Return one vector that is masked with its own seed and for member 1, which comes before or after it."""
    pair, other = KeyPair.of(octets_for(f"mask secret {own}")), KeyPair.of(octets_for("mask secret 1"))
    seed, words = octets_for(f"seed {own}"), np.array([0, 1, 2**64 - 1], dtype=np.uint64)
    masks = [self_mask(seed, _SID, own), pair_mask(Exchange(pair.secret), other.public, _SID, own=own, other=1)]
    masked = words.copy()
    apply_masks(masked, masks, cipher)
    return {
        "cipher": cipher,
        "sid": _SID.hex(),
        "own": own,
        "other": 1,
        "seed": seed.hex(),
        "mask_secret": pair.secret.hex(),
        "mask_key_of_other": other.public.hex(),
        "masks": [_mask(mask) for mask in masks],
        "words": words_to_hex(words),
        "masked": words_to_hex(masked),
    }


def _mask(mask: Mask) -> Case:
    return {"key": mask.key.hex(), "sign": "-" if mask.negative else "+"}

"""What must be refused outside a session: keys, signed documents, texts, shares and sums."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from shared.secagg.graph_seed import GraphSeed
from shared.secagg.session import UnmaskAnswer
from shared.wire.canonical import encode, transcript
from shared.wire.messages import write_answer
from shared.wire.signed import CERTIFICATE_DOMAIN, Signed, SigningKey
from tools.vectors.cohort import AUTHORITY, PLAIN, Cohort, certificate_of, identity_of
from tools.vectors.document import Case, Document, octets_for, words_to_hex
from tools.vectors.refused_rosters import FIELD_PRIME, LONG_FORMS, LOW_ORDER
from tools.vectors.session import signed_to_json

_ORDER: Final = 2**252 + 27742317777372353535851937790883648493  # of the Ed25519 group


def refused_values() -> Document:
    """Return the file's content."""
    return {
        "session": f"session-{PLAIN.cipher}.json",
        "public_keys": [
            {"comment": comment, "code": "bad-public-key", "key": coordinate.to_bytes(32, "little").hex()}
            for comment, coordinate in {**LOW_ORDER, **LONG_FORMS}.items()
        ],
        "signatures": [*_signatures()],
        "certificates": [*_certificates()],
        "graph_seeds": [*_graph_seeds()],
        "json": [*_texts()],
        "base64url": [
            {"comment": comment, "code": "bad-octets", "text": text}
            for comment, text in {
                "padded": "-_8=",
                "the other alphabet": "+/8",
                "bits beyond the last octet": "-_9",
                "one character too many": "AAAAA",
                "white space": "AA AA",
            }.items()
        ],
        "answers": [*_answers()],
        "sums": [*_sums()],
    }


def _signatures() -> Iterator[Case]:
    key, message = identity_of(0), transcript("fedloom/1/test", b"a message")
    good = key.sign(message)
    scalar = int.from_bytes(good[32:], "little") + _ORDER
    changes = {
        "S beyond the group's order": (key, message, good[:32] + scalar.to_bytes(32, "little")),
        "another key": (identity_of(1), message, good),
        "another message": (key, message + b"\0", good),
        "another domain": (key, transcript("fedloom/1/join", b"a message"), good),
        "of 63 octets": (key, message, good[:-1]),
        "empty": (key, message, b""),
    }
    for comment, (signer, signed, signature) in changes.items():
        yield _signature(comment, signer.public, signed, signature)
    # 0 times the base point is the identity, so R = identity and S = 0 satisfy the equation for any message.
    anyones, zero = (1).to_bytes(32, "little"), bytes(32)
    yield _signature("a key for which anyone can sign", anyones, message, anyones + zero)
    second = (FIELD_PRIME + 1).to_bytes(32, "little")
    yield _signature("that key in its second form", second, message, anyones + zero)


def _signature(comment: str, public: bytes, message: bytes, signature: bytes) -> Case:
    case: Case = {"comment": comment, "code": "bad-signature"}
    return {**case, "public": public.hex(), "message": message.hex(), "signature": signature.hex()}


def _certificates() -> Iterator[Case]:
    good = certificate_of(0)
    body: Case = json.loads(good.signed.body)
    server = SigningKey(octets_for("the server itself"))
    respaced = Signed(json.dumps(body).encode(), good.signed.signature)
    for comment, code, signed in (
        ("by another authority", "bad-signature", certificate_of(0, authority=server).signed),
        ("signed for another purpose", "bad-signature", Signed.make(AUTHORITY, "fedloom/1/join", good.signed.body)),
        ("written again, with white space", "bad-signature", respaced),
        ("of a later format", "bad-field", _certified({**body, "format": "fedloom-certificate-2"})),
        ("with an unknown field", "bad-field", _certified({**body, "role": "admin"})),
        ("without expiry", "bad-field", _certified({k: v for k, v in body.items() if k != "expires_at_s"})),
        ("whose serial is written though it is 0", "bad-field", _certified({**body, "serial": 0})),
        ("of a task whose name is a path", "bad-name", _certified({**body, "task": "../x"})),
    ):
        yield {"comment": comment, "code": code, "authority_key": AUTHORITY.public.hex(), **signed_to_json(signed)}


def _certified(body: Case) -> Signed:
    return Signed.make(AUTHORITY, CERTIFICATE_DOMAIN, encode(body))


def _graph_seeds() -> Iterator[Case]:
    root, seed = octets_for("roster root"), octets_for("graph seed")
    server = SigningKey(octets_for("the server itself"))
    for comment, code, drawn in (
        ("of another cohort", "other-cohort", GraphSeed.issue(AUTHORITY, cohort="z", roster_root=root, seed=seed)),
        ("of another roster", "other-roster", GraphSeed.issue(AUTHORITY, cohort="a", roster_root=seed, seed=seed)),
        ("by the server", "bad-signature", GraphSeed.issue(server, cohort="a", roster_root=root, seed=seed)),
        ("of 16 octets", "bad-field", GraphSeed.issue(AUTHORITY, cohort="a", roster_root=root, seed=seed[:16])),
    ):
        expected: Case = {"cohort": "a", "roster_root": root.hex(), "authority_key": AUTHORITY.public.hex()}
        yield {"comment": comment, "code": code, **expected, **signed_to_json(drawn.signed)}


def _texts() -> Iterator[Case]:
    for comment, text in {
        "a key twice": '{"a":1,"a":1}',
        "NaN": '{"a":NaN}',
        "infinity": '{"a":-Infinity}',
        "a number beyond the range of floats": '{"a":1e999}',
        "an integer beyond 2^53 - 1": '{"a":9007199254740992}',
        "no object": "[1]",
        "nested too deep": '{"a":' + "[" * 32 + "]" * 32 + "}",
        "cut off": '{"a":1',
        "more after the end": '{"a":1}{}',
    }.items():
        yield {"comment": comment, "code": "bad-json", "text": text}


def _answers() -> Iterator[Case]:
    share = octets_for("a share")
    both = write_answer(UnmaskAnswer({1: share}, {1: share})).decode()
    good = write_answer(UnmaskAnswer({1: share}, {2: share})).decode()
    for comment, text in {
        "both shares of one member": both,
        "an index with a leading zero": good.replace('"1"', '"01"'),
        "a negative index": good.replace('"1"', '"-1"'),
        "a share of 31 octets": write_answer(UnmaskAnswer({1: share[:31]}, {})).decode(),
        "a field missing": '{"self_mask":{}}',
        "an unknown field": good.replace("{", '{"also":1,', 1),
    }.items():
        yield {"comment": comment, "code": "bad-field", "text": text}


def _sums() -> Iterator[Case]:
    """Yield sums of the first session that honest devices cannot have produced."""
    form, good = PLAIN, Cohort.run(PLAIN).plain_sum()
    levels = form.encoding.update.grid.levels
    highest = 2 * 4 * levels
    words = good.size
    for comment, code, place, value in (
        ("a lane beyond all members' levels", "implausible-lanes", 0, highest + 1),
        ("updates all at the edge", "implausible-norm", None, highest),
        ("a weight of nobody", "implausible-counts", words - 5, 3),
        ("a weight beyond the largest", "implausible-counts", words - 5, 4 * form.max_weight + 1),
        ("a loss beyond the largest", "implausible-counts", words - 4, 2**63),
        ("more correct than evaluated", "implausible-counts", words - 3, int(good[words - 2]) + 1),
        ("more clipped than members", "implausible-counts", words - 1, 5),
    ):
        changed = good.copy()
        if place is None:
            changed[:2] = sum(value << (form.lane_bits * lane) for lane in range(3))
        else:
            changed[place] = value
        yield {"comment": comment, "code": code, "survivors": 4, "sum": words_to_hex(changed)}

"""A device of a session file: the real session, with the draws and the messages that are in the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation, Group
from shared.numeric.encoding import Encoding
from shared.numeric.quantization import Grid
from shared.numeric.rotation import spread
from shared.secagg.masking import Words
from shared.secagg.roster import CohortBinding, Member, Roster
from shared.secagg.sealing import SEALED_BYTES
from shared.secagg.session import DeviceSession
from shared.wire.canonical import decode, encode
from shared.wire.messages import Agreements, read_indexed, read_octets, write_answer, write_octets, write_shares
from shared.wire.signed import Certificate, Signed, SigningKey
from tests.vectors.reading import Case, octets, rules_of


def binding_of(document: Case) -> CohortBinding:
    """Return what the members sign."""
    cohort = document["cohort"]
    plan, model = octets(cohort, "plan_sha256", "model_sha256")
    return CohortBinding(cohort["task"], cohort["cohort"], plan, model, cohort["expires_at_s"])


def roster_of(document: Case) -> Roster:
    """Return the verified roster."""
    authority = bytes.fromhex(document["authority_key"])
    return Roster.verified(decode(document["roster"].encode()), binding_of(document), authority, document["now_s"])


def encoding_of(document: Case) -> Encoding:
    """Return how the members write numbers."""
    cohort, members = document["cohort"], len(document["devices"])

    def group(dimension: str, norm: str) -> Group:
        size, share = cohort[dimension], spread(cohort[dimension]) if cohort["rotated"] else 1.0
        grid = Grid.for_cohort(members, lane_bits=cohort["lane_bits"], max_l2_norm=cohort[norm], spread=share)
        return Group(size, grid)

    groups = group("dimension", "max_l2_norm"), group("statistics", "statistics_max_l2_norm")
    return Encoding(*groups, cohort["max_weight"], cohort["rotated"])


def _draws(random: Case) -> Iterator[bytes]:
    values = [value if isinstance(value, list) else [value] for value in random.values()]
    return map(bytes.fromhex, itertools.chain.from_iterable(values))


@dataclass
class Device:
    """One device on its way through the steps.

    Attributes:
        document: the session's file.
        index: in the roster.
    """

    document: Case
    index: int

    def __post_init__(self) -> None:
        mine = self.document["devices"][self.index]
        authority = bytes.fromhex(self.document["authority_key"])
        drawn = _draws(mine["random"])
        self.random_bytes = lambda _: next(drawn)
        signed = Signed(mine["certificate"]["body"].encode(), bytes.fromhex(mine["certificate"]["signature"]))
        self.session = DeviceSession(
            identity=SigningKey(bytes.fromhex(mine["identity_secret"])),
            certificate=Certificate.verified(signed, authority),
            binding=binding_of(self.document),
            rules=rules_of(self.document["rules"]),
            authority_key=authority,
            random_bytes=self.random_bytes,
            cipher=self.document["cohort"]["cipher"],
        )
        self.member: Member = self.session.join()

    def words(self) -> Words:
        """Return what the device masks, from its contribution."""
        cohort, mine = self.document["cohort"], self.document["devices"][self.index]["contribution"]
        update, statistics = (
            clip(
                LocalUpdate(np.array(mine[name], dtype=np.float32), mine["examples"]),
                max_l2_norm=cohort[norm],
                max_weight=cohort["max_weight"],
            )
            for name, norm in (("update", "max_l2_norm"), ("statistics", "statistics_max_l2_norm"))
        )
        return encoding_of(self.document).encode(
            update,
            statistics,
            Evaluation(mine["loss_sum"], mine["correct"], mine["evaluated"]),
            sid=self.session.sid,
            random_bytes=self.random_bytes,
        )

    def step(self, name: str, messages: dict[str, Any], words: Words | None = None) -> bytes:
        """Do one step, see ``do_step``."""
        return do_step(self.session, name, messages, words)


def do_step(session: DeviceSession, name: str, messages: dict[str, Any], words: Words | None = None) -> bytes:
    """Do one step on the messages that travel, and return what the device sends.

    Args:
        session: the device's.
        name: ``share``, ``mask``, ``agree`` or ``unmask``.
        messages: ``roster`` (parsed), ``now_s``, ``inbox``, ``survivors`` and ``agreements``.
        words: to be masked; zeros unless given.
    """
    if name == "share":
        return write_shares(session.share(messages["roster"], messages["now_s"]))
    if name == "mask":
        boxes = read_indexed(messages["inbox"].encode(), "boxes", SEALED_BYTES)
        return session.mask(boxes, np.zeros(4, np.uint64) if words is None else words).to_bytes()
    if name == "agree":
        return write_octets("signature", session.agree(read_octets(messages["survivors"].encode(), "bitmap")))
    agreed = Agreements.from_bytes(messages["agreements"].encode())
    return write_answer(session.unmask(agreed.signatures, agreed.inboxes))


def messages_for(document: Case, index: int) -> dict[str, Any]:
    """Return what the server says to a member in the session of the file."""
    names = "now_s", "survivors", "agreements"
    mine = document["devices"][index]
    return {
        **{name: document[name] for name in names},
        "roster": decode(document["roster"].encode()),
        "inbox": mine.get("inbox"),
    }


def joined_text(device: Device) -> str:
    """Return the join message as it travels."""
    return encode(device.member.to_json()).decode()

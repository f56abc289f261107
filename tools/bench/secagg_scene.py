"""A cohort as the aggregator sees it after every step, made without running every device's side."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shared.secagg.graph import Graph
from shared.secagg.keys import KeyPair
from shared.secagg.masking import Words
from shared.secagg.parameters import CohortRules, Thresholds, thresholds
from shared.secagg.recovery import Fates, unmask_sum
from shared.secagg.roster import CohortBinding, Roster, make_member, to_bitmap
from shared.secagg.session import DeviceSession, UnmaskAnswer, agreement_message, commitment
from shared.secagg.shares import random_secret, split
from shared.secagg.signed_inbox import sign_inbox
from shared.wire.signed import Certificate, SigningKey

_TASK = "bench"
_EXPIRES_AT_S = 4_000_000_000
_NOW_S = 1_800_000_000.0


@dataclass(frozen=True)
class Scene:
    """What unmasking takes, see ``shared.secagg.recovery.unmask_sum``, and how many masks are left in the sum."""

    roster: Roster
    fates: Fates
    commitments: Mapping[int, bytes]
    answers: Mapping[int, UnmaskAnswer]
    limits: Thresholds
    masks: int

    def unmask(self, total: Words, workers: int) -> Words:
        """Recover every secret from its shares and take all masks off ``total``."""
        return unmask_sum(
            total,
            self.roster,
            self.fates,
            self.commitments,
            self.answers,
            limits=self.limits,
            cipher="aes-256-ctr",
            workers=workers,
        )


def make_scene(members: int, dropped: int, limits: Thresholds) -> Scene:
    """Return a cohort of which the last ``dropped`` members vanished after they shared their keys."""
    authority = SigningKey.generate(os.urandom)
    pairs = [(KeyPair.generate(os.urandom), KeyPair.generate(os.urandom)) for _ in range(members)]
    entries = []
    for number, (channel, mask) in enumerate(pairs):
        identity, certificate = _identity(authority, number)
        entries.append(make_member(identity, certificate, _binding(), channel_key=channel.public, mask_key=mask.public))
    roster = Roster.of(_binding(), entries)
    graph, sid = roster.graph(limits.neighbours), roster.sid
    survivors = frozenset(range(members - dropped))
    seeds, keys = ({index: dict[int, bytes]() for index in survivors} for _ in range(2))  # by holder, then by owner
    commitments, masks = {}, 0
    for index, (_, mask) in enumerate(pairs):
        seed, holders = random_secret(os.urandom), graph.holders_of(index)
        commitments[index] = commitment(sid, index, seed)
        alive = index in survivors
        shares = split(seed if alive else mask.secret, limits.threshold, range(1, len(holders) + 1), os.urandom)
        for x, holder in enumerate(holders, start=1):
            if holder in survivors:
                (seeds if alive else keys)[holder][index] = shares[x]
        masks += 1 if alive else len(survivors.intersection(graph.neighbours_of(index)))
    answers = {index: UnmaskAnswer(seeds[index], keys[index]) for index in survivors}
    return Scene(roster, Fates(frozenset(range(members)), survivors), commitments, answers, limits, masks)


def key_steps_s(members: int) -> float:
    """Return how long one device's own work in all steps takes, seconds, with an empty vector."""
    authority = SigningKey.generate(os.urandom)
    rules = CohortRules(2, members, 0.05, 0.1)
    sessions, keys = [], []
    for number in range(members):
        identity, certificate = _identity(authority, number)
        keys.append(identity)
        sessions.append(
            DeviceSession(
                identity=identity,
                certificate=certificate,
                binding=_binding(),
                rules=rules,
                authority_key=authority.public,
                random_bytes=os.urandom,
            )
        )
    began, spent = time.perf_counter(), 0.0
    first = sessions[0].join()
    spent += time.perf_counter() - began
    roster = Roster.of(_binding(), [first, *(session.join() for session in sessions[1:])]).to_json()
    began = time.perf_counter()
    sessions[0].share(roster, _NOW_S)
    spent += time.perf_counter() - began
    inbox = {number: session.share(roster, _NOW_S).boxes[0] for number, session in enumerate(sessions) if number}
    began = time.perf_counter()
    sessions[0].mask(inbox, np.zeros(0, np.uint64))
    bitmap, sid = to_bitmap(frozenset(range(members)), members), sessions[0].sid
    sessions[0].agree(bitmap)
    spent += time.perf_counter() - began
    graph, everybody = Graph(members), range(members)
    quorum = thresholds(members, rules).quorum
    signatures = {number: keys[number].sign(agreement_message(sid, bitmap)) for number in range(quorum)}
    lists = {
        number: sign_inbox(keys[number], sid, number, graph.neighbours_of(number), everybody)
        for number in range(1, members)
    }
    began = time.perf_counter()
    sessions[0].unmask(signatures, lists)
    return spent + time.perf_counter() - began


def _identity(authority: SigningKey, number: int) -> tuple[SigningKey, Certificate]:
    key = SigningKey.generate(os.urandom)
    # In the order of numbers, so that a member's index is its number.
    issued = Certificate.issue(
        authority, task=_TASK, device=f"device-{number:05}", identity_key=key.public, expires_at_s=_EXPIRES_AT_S
    )
    return key, issued


def _binding() -> CohortBinding:
    return CohortBinding(_TASK, "bench", bytes(32), bytes(32), _EXPIRES_AT_S)

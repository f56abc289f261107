"""A whole cohort in memory: real device sessions, and a server that carries their messages as an honest one would.

    simulation = CohortSimulation(5, RULES)
    simulation.drop({1})                 device 1 vanishes before the next step
    simulation.run_to("unmask")
    simulation.total().values            one-hot sums: coordinate i says how often device i was counted

Device ``i`` contributes coordinate ``i`` alone, at full scale, and weight ``i + 1``. A device that refuses a step
counts as gone from then on; ``refusals`` keeps its reason. ``fork`` makes an independent copy in the middle of a
session, so that every continuation of one beginning can be tried without repeating the beginning.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.errors import FedloomError
from shared.numeric.contribution_vector import AggregateSum, Evaluation, from_words, to_words, vector_words
from shared.numeric.quantization import Grid, QuantizedUpdate
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.masking import CipherName, MaskedUpdate, Words, add_into
from shared.secagg.parameters import CohortRules, Thresholds, is_sparse, thresholds
from shared.secagg.recovery import Fates, unmask_sum
from shared.secagg.roster import CohortBinding, Member, Roster, to_bitmap
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import sha256
from shared.wire.signed import Certificate, SigningKey

STEPS: Final = ("join", "share", "mask", "agree", "unmask")
TASK: Final = "activity"
NOW_S: Final = 1_800_000_000
EXPIRES_AT_S: Final = NOW_S + 3600
AUTHORITY: Final = SigningKey(sha256(b"authority"))


def binding_for(cohort: str = "cohort-a") -> CohortBinding:
    """Return what the members of ``cohort`` sign."""
    return CohortBinding(TASK, cohort, sha256(b"plan"), sha256(b"model"), EXPIRES_AT_S)


@dataclass
class Randomness:
    """A repeatable source of octets that can be copied in the middle of its stream.

    Attributes:
        seed: names the stream.
        draws: how many calls were answered.
    """

    seed: str
    draws: int = 0

    def __call__(self, octets: int) -> bytes:
        """Return the next ``octets``."""
        self.draws += 1
        return hashlib.shake_256(f"{self.draws} {self.seed}".encode()).digest(octets)


@dataclass(frozen=True)
class Identity:
    """An enrolled device: its signing key and the authority's certificate."""

    key: SigningKey
    certificate: Certificate

    @classmethod
    def enrolled(
        cls,
        number: int,
        *,
        authority: SigningKey = AUTHORITY,
        task: str = TASK,
        expires_at_s: int = EXPIRES_AT_S,
    ) -> Identity:
        """Return device ``number``, always with the same key and name."""
        key = SigningKey(sha256(b"identity", number.to_bytes(4, "big")))
        certificate = Certificate.issue(
            authority, task=task, device=f"device-{number:03}", identity_key=key.public, expires_at_s=expires_at_s
        )
        return cls(key, certificate)


def new_session(
    number: int,
    rules: CohortRules,
    binding: CohortBinding | None = None,
    *,
    seed: int = 0,
    cipher: CipherName = "aes-256-ctr",
) -> DeviceSession:
    """Return a session of device ``number`` whose keys follow from ``seed``."""
    identity = Identity.enrolled(number)
    chosen = binding or binding_for()
    return DeviceSession(
        identity=identity.key,
        certificate=identity.certificate,
        binding=chosen,
        rules=rules,
        authority_key=AUTHORITY.public,
        random_bytes=Randomness(f"{seed} {number} {chosen.cohort}"),
        cipher=cipher,
    )


def drawn_seed(roster: Roster, seed: bytes = sha256(b"graph")) -> GraphSeed:
    """Return what the authority draws for ``roster``."""
    return GraphSeed.issue(AUTHORITY, cohort=roster.binding.cohort, roster_root=roster.root, seed=seed)


def one_hot_words(number: int, dimension: int, grid: Grid) -> Words:
    """Return u64[m] of device ``number``: one coordinate at full scale, weight ``number + 1``, one right answer."""
    steps = np.zeros(dimension, dtype=np.int32)
    steps[number] = grid.levels
    return to_words(QuantizedUpdate(steps, grid, number + 1, clipped=True), Evaluation(0.5, 1, 1))


@dataclass
class CohortSimulation:
    """One cohort on its way through the protocol.

    Attributes:
        devices: how many are enrolled; their numbers are 0 .. devices - 1.
        rules: the plan's.
        binding: what the members sign.
        seed: of every device's randomness.
        lane_bits: bits per coordinate of the sum.
        cipher: of masks and sealed shares.
        active: numbers of the devices that are still there.
        refusals: the errors of devices that refused a step, by number.
        joined: join messages by number.
        shares: by roster index.
        masked: masked vectors by roster index.
        signatures: over the survivors, by roster index.
        answers: by roster index.
        blamed: holders of wrong shares that were in the way, each with the owners of these shares.
    """

    devices: int
    rules: CohortRules
    binding: CohortBinding = field(default_factory=binding_for)
    seed: int = 0
    lane_bits: int = 21
    cipher: CipherName = "aes-256-ctr"
    active: set[int] = field(init=False)
    refusals: dict[int, FedloomError] = field(default_factory=dict)
    joined: dict[int, Member] = field(default_factory=dict)
    shares: dict[int, SharesMessage] = field(default_factory=dict)
    masked: dict[int, MaskedUpdate] = field(default_factory=dict)
    inboxes: dict[int, bytes] = field(default_factory=dict)
    signatures: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, UnmaskAnswer] = field(default_factory=dict)
    blamed: dict[str, list[str]] = field(default_factory=dict)
    steps_done: int = 0

    def __post_init__(self) -> None:
        self.active = set(range(self.devices))
        self.sessions = [
            new_session(i, self.rules, self.binding, seed=self.seed, cipher=self.cipher) for i in range(self.devices)
        ]

    def fork(self) -> CohortSimulation:
        """Return a copy that goes on by itself; every step is a function of the state, so it loses nothing."""
        other = copy.copy(self)
        for name in ("active", "refusals", "joined", "shares", "masked", "inboxes", "signatures", "answers"):
            setattr(other, name, copy.copy(getattr(self, name)))
        other.sessions = []
        for session in self.sessions:
            twin = copy.copy(session)
            twin._held = dict(session._held)
            twin._random_bytes = copy.copy(session._random_bytes)
            other.sessions.append(twin)
        return other

    def drop(self, numbers: Collection[int]) -> None:
        """Let devices vanish before the next step."""
        self.active -= set(numbers)

    @property
    def roster(self) -> Roster:
        """The roster that an honest server makes of the join messages, with the authority's draw if it needs one."""
        roster = Roster.of(self.binding, list(self.joined.values()))
        return dataclasses.replace(roster, seed=drawn_seed(roster)) if is_sparse(len(self.joined)) else roster

    @property
    def thresholds(self) -> Thresholds:
        """The cohort's k, t, fewest survivors and quorum."""
        return thresholds(len(self.joined), self.rules)

    @property
    def indices(self) -> dict[int, int]:
        """Roster index by device number."""
        return {number: index for index, number in enumerate(sorted(self.joined))}

    @property
    def grid(self) -> Grid:
        """The quantization grid of this cohort."""
        return Grid.for_cohort(max(1, len(self.joined)), lane_bits=self.lane_bits, max_l2_norm=1.0)

    @property
    def bitmap(self) -> bytes:
        """The survivors that an honest server shows to everyone."""
        return to_bitmap(frozenset(self.masked), len(self.joined))

    def inbox(self, index: int) -> dict[int, bytes]:
        """Return the boxes that others sealed for the member at ``index``."""
        return {sender: message.boxes[index] for sender, message in self.shares.items() if index in message.boxes}

    def run(self, step: str) -> None:
        """Let every active device do ``step``; who refuses is gone."""
        if step == "join":
            for number in sorted(self.active):
                self.joined[number] = self.sessions[number].join()
        else:
            self._run_in_roster(step)
        self.steps_done += 1

    def run_to(self, last: str) -> None:
        """Run the remaining steps up to and including ``last``."""
        for step in STEPS[self.steps_done : STEPS.index(last) + 1]:
            self.run(step)

    def _run_in_roster(self, step: str) -> None:
        roster_json = self.roster.to_json()
        bitmap, signatures = self.bitmap, dict(self.signatures)
        for number in sorted(self.active):
            session, index = self.sessions[number], self.indices[number]
            try:
                if step == "share":
                    self.shares[index] = session.share(roster_json, NOW_S)
                elif step == "mask":
                    words = one_hot_words(number, self.devices, self.grid)
                    self.masked[index] = session.mask(self.inbox(index), words)
                    self.inboxes[index] = session.signed_inbox
                elif step == "agree":
                    self.signatures[index] = session.agree(bitmap)
                else:
                    self.answers[index] = session.unmask(signatures, self.inboxes)
            except FedloomError as error:
                self.active.discard(number)
                self.refusals[number] = error

    def total(self, workers: int = 1) -> AggregateSum:
        """Return the decoded sum of the survivors, as an honest server computes it.

        Raises:
            FedloomError: with the reason why there is no output.
        """
        limits = self.thresholds
        masked_sum = np.zeros(vector_words(self.devices, self.lane_bits), dtype=np.uint64)
        for vector in self.masked.values():
            add_into(masked_sum, vector.words)
        plain = unmask_sum(
            masked_sum,
            self.roster,
            Fates(frozenset(self.shares), frozenset(self.masked)),
            {index: message.commitment for index, message in self.shares.items()},
            self.answers,
            limits=limits,
            cipher=self.cipher,
            workers=workers,
            blame=lambda holder, owners: self.blamed.update({holder: list(owners)}),
        )
        return from_words(
            plain, dimension=self.devices, grid=self.grid, survivors=len(self.masked), max_weight=self.devices
        )

    def counted(self) -> list[int]:
        """Return how often each device is in ``total``; a device's own coordinate proves it."""
        total = self.total()
        return [int(times) for times in np.rint(total.values)]

"""Five devices that go through a whole session, one of them until it has shared its keys; everything is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.numeric.clipping import LocalUpdate, clip
from shared.numeric.contribution_vector import AggregateSum, Evaluation, Group
from shared.numeric.encoding import Encoding
from shared.numeric.quantization import Grid
from shared.numeric.rotation import spread
from shared.secagg.masking import CipherName, MaskedUpdate, Words, add_into
from shared.secagg.parameters import CohortRules, Thresholds, thresholds
from shared.secagg.recovery import Fates, unmask_sum
from shared.secagg.roster import CohortBinding, Member, Roster, to_bitmap
from shared.secagg.session import DeviceSession, SharesMessage, UnmaskAnswer
from shared.wire.canonical import encode
from shared.wire.signed import Certificate, SigningKey
from tools.vectors.document import Drawn, octets_for
from tools.vectors.numbers import small_numbers

TASK: Final = "activity"
NOW_S: Final = 1_800_000_000
EXPIRES_AT_S: Final = NOW_S + 3600
CERTIFIED_UNTIL_S: Final = NOW_S + 90 * 86_400
AUTHORITY: Final = SigningKey(octets_for("authority"))
MEMBERS: Final = 5
DROPPED: Final = 3  # sends shares, and nothing after them
RULES: Final = CohortRules(min_survivors=3, largest=8, corrupt_share=0.2, dropout_share=0.2)


@dataclass(frozen=True)
class Form:
    """What differs between the sessions: cipher, lanes, rotation, and how many coordinates there are."""

    cohort: str
    cipher: CipherName
    lane_bits: int
    rotated: bool
    dimension: int
    statistics: int
    max_l2_norm: float = 0.75
    statistics_max_l2_norm: float = 2.0
    max_weight: int = 20

    @property
    def binding(self) -> CohortBinding:
        """What the members sign."""
        return CohortBinding(TASK, self.cohort, octets_for("plan"), octets_for("model"), EXPIRES_AT_S)

    @property
    def encoding(self) -> Encoding:
        """How they write their numbers."""
        return Encoding(
            self._group(self.dimension, self.max_l2_norm),
            self._group(self.statistics, self.statistics_max_l2_norm),
            self.max_weight,
            self.rotated,
        )

    def _group(self, dimension: int, norm: float) -> Group:
        share = spread(dimension) if self.rotated else 1.0
        return Group(dimension, Grid.for_cohort(MEMBERS, lane_bits=self.lane_bits, max_l2_norm=norm, spread=share))


PLAIN: Final = Form("cohort-a", "aes-256-ctr", 21, rotated=False, dimension=6, statistics=2)
ROTATED: Final = Form("cohort-b", "chacha20", 16, rotated=True, dimension=70, statistics=3)


def identity_of(number: int) -> SigningKey:
    """Return the key of device ``number``."""
    return SigningKey(octets_for(f"identity {number}"))


def certificate_of(
    number: int, *, authority: SigningKey = AUTHORITY, task: str = TASK, expires_at_s: int = CERTIFIED_UNTIL_S
) -> Certificate:
    """Return the certificate of device ``number``."""
    return Certificate.issue(
        authority,
        task=task,
        device=f"device-{number:03}",
        identity_key=identity_of(number).public,
        expires_at_s=expires_at_s,
    )


@dataclass(frozen=True)
class Contribution:
    """What a device learned: f32[d] and f32[s] before clipping, on how many examples, and how its model did."""

    update: LocalUpdate
    statistics: LocalUpdate
    evaluation: Evaluation

    @classmethod
    def of(cls, number: int, form: Form) -> Contribution:
        """Return the one of device ``number``; device 0 is clipped."""
        size = 1.0 if number == 0 else 0.0625
        update = small_numbers(form.dimension, f"update {number}").astype(np.float32) * np.float32(size)
        statistics = small_numbers(form.statistics, f"statistics {number}").astype(np.float32)
        examples = 8 * (number + 1)
        return cls(
            LocalUpdate(update, examples),
            LocalUpdate(statistics, examples),
            Evaluation(1.25 * number, number, number + 2),
        )


@dataclass
class Participant:
    """One device: its session, what it drew, and what it sent."""

    number: int
    form: Form
    source: Drawn
    session: DeviceSession
    member: Member
    contribution: Contribution

    @classmethod
    def joined(cls, number: int, form: Form) -> Participant:
        """Return the device after it joined."""
        source = Drawn(f"{form.cohort} device {number}")
        session = DeviceSession(
            identity=identity_of(number),
            certificate=certificate_of(number),
            binding=form.binding,
            rules=RULES,
            authority_key=AUTHORITY.public,
            random_bytes=source,
            cipher=form.cipher,
        )
        return cls(number, form, source, session, session.join(), Contribution.of(number, form))

    def words(self) -> Words:
        """Return what it will mask."""
        form, mine = self.form, self.contribution
        return form.encoding.encode(
            clip(mine.update, max_l2_norm=form.max_l2_norm, max_weight=form.max_weight),
            clip(mine.statistics, max_l2_norm=form.statistics_max_l2_norm, max_weight=form.max_weight),
            mine.evaluation,
            sid=self.session.sid,
            random_bytes=self.source,
        )


@dataclass
class Cohort:
    """All that was said. Everything is by roster index, which is the device's number.

    Attributes:
        form: what differs between sessions.
        devices: all of them.
        roster: the cohort's.
        shares: what each sent after the roster.
        words: plain vectors, u64[m].
        masked: masked vectors.
        inboxes: whose boxes each used, signed.
        signatures: over the survivors.
        answers: of the survivors.
    """

    form: Form
    devices: list[Participant]
    roster: Roster
    shares: dict[int, SharesMessage] = field(default_factory=dict)
    words: dict[int, Words] = field(default_factory=dict)
    masked: dict[int, MaskedUpdate] = field(default_factory=dict)
    inboxes: dict[int, bytes] = field(default_factory=dict)
    signatures: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, UnmaskAnswer] = field(default_factory=dict)

    @classmethod
    def run(cls, form: Form) -> Cohort:
        """Let five devices do every step, but for the one that vanishes."""
        devices = [Participant.joined(number, form) for number in range(MEMBERS)]
        cohort = cls(form, devices, Roster.of(form.binding, [device.member for device in devices]))
        for device in devices:
            cohort.shares[device.number] = device.session.share(cohort.roster.to_json(), NOW_S)
        for device in cohort.survivors:
            cohort.words[device.number] = device.words()
            words = cohort.words[device.number].copy()
            cohort.masked[device.number] = device.session.mask(cohort.inbox(device.number), words)
            cohort.inboxes[device.number] = device.session.signed_inbox
        for device in cohort.survivors:
            cohort.signatures[device.number] = device.session.agree(cohort.bitmap)
        for device in cohort.survivors:
            cohort.answers[device.number] = device.session.unmask(cohort.signatures, cohort.inboxes)
        return cohort

    @property
    def survivors(self) -> list[Participant]:
        """The devices that send a vector."""
        return [device for device in self.devices if device.number != DROPPED]

    @property
    def bitmap(self) -> bytes:
        """The survivors as a bitmap."""
        return to_bitmap(frozenset(self.masked), MEMBERS)

    @property
    def limits(self) -> Thresholds:
        """What follows from five members."""
        return thresholds(MEMBERS, RULES)

    @property
    def roster_text(self) -> str:
        """The roster as it travels."""
        return encode(self.roster.to_json()).decode()

    def inbox(self, receiver: int) -> dict[int, bytes]:
        """Return the boxes for ``receiver`` by sender."""
        return {sender: sent.boxes[receiver] for sender, sent in self.shares.items() if sender != receiver}

    def masked_sum(self) -> Words:
        """Return the sum of the masked vectors."""
        total = np.zeros(self.form.encoding.words, dtype=np.uint64)
        for vector in self.masked.values():
            add_into(total, vector.words)
        return total

    def plain_sum(self) -> Words:
        """Return the sum without masks."""
        return unmask_sum(
            self.masked_sum(),
            self.roster,
            Fates(frozenset(self.shares), frozenset(self.masked)),
            {index: message.commitment for index, message in self.shares.items()},
            self.answers,
            limits=self.limits,
            cipher=self.form.cipher,
        )

    def decoded(self) -> AggregateSum:
        """Return what the sum says."""
        return self.form.encoding.decode(self.plain_sum(), survivors=len(self.masked), sid=self.roster.sid)

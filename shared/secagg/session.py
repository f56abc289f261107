"""One device's side of a cohort: bytes in, bytes out, or a named refusal. No network, disk or clock.

The order is fixed by ``phase`` alone. Every method runs once; after a refusal or a second call nothing more comes
out of the session, so no message can make it mask twice or reveal both shares of one member.

    session = DeviceSession(...)         fresh keys
    member   = session.join()            -> signed join message
    shares   = session.share(roster)     -> commitment and sealed shares for every neighbour
    masked   = session.mask(inbox, words)-> the masked vector; session.signed_inbox says whose boxes it used
    signature = session.agree(bitmap)    -> signature over the survivors
    answer   = session.unmask(signatures, inboxes)-> one share per neighbour, by that bitmap

What is refused: a roster that is too small, has duplicates, foreign plans, models or certificates; thresholds that
are unsafe; a seed that the authority did not draw for this very roster; shares of anybody but neighbours, or of fewer
than t; survivors that omit this device, are neighbours that sent no shares, or are too few, in all or among those whose
shares it holds; too few signatures over the very same bitmap. Not revealed, and named in ``withheld``: a share of the
self mask of a survivor that did not sign that it masked towards all survivors around it. Not handled here: what the sum
itself reveals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.errors import ProtocolAbort, Unauthenticated, UsageError
from shared.secagg.keys import Exchange, KeyPair
from shared.secagg.masking import CipherName, MaskedUpdate, Words, apply_masks, pair_mask, self_mask
from shared.secagg.parameters import CohortRules, Thresholds, thresholds
from shared.secagg.roster import CohortBinding, Member, Roster, from_bitmap, make_member
from shared.secagg.sealing import SharePair, open_sealed, seal
from shared.secagg.shares import random_secret, split
from shared.secagg.signed_inbox import sign_inbox, verified_inbox
from shared.wire.canonical import Json, sha256, transcript
from shared.wire.signed import Certificate, SigningKey, verify

AGREEMENT_DOMAIN: Final = "fedloom/1/agreement"
COMMITMENT_DOMAIN: Final = "fedloom/1/self-mask-commitment"


class Phase(IntEnum):
    """How far a session has come; each step needs exactly the one before."""

    NEW = 0
    JOINED = 1
    SHARED = 2
    MASKED = 3
    AGREED = 4
    ANSWERED = 5
    ABORTED = 6


@dataclass(frozen=True)
class SharesMessage:
    """What a device sends after seeing the roster.

    Attributes:
        commitment: 32 octets that the recovered self-mask seed must match.
        boxes: sealed share pairs by the receiver's index.
    """

    commitment: bytes
    boxes: Mapping[int, bytes]


@dataclass(frozen=True)
class UnmaskAnswer:
    """One share per member, by that member's fate.

    Attributes:
        self_mask: shares of survivors' self-mask seeds, by index.
        mask_key: shares of drop-outs' mask secrets, by index.
    """

    self_mask: Mapping[int, bytes]
    mask_key: Mapping[int, bytes]


def commitment(sid: bytes, member: int, seed: bytes) -> bytes:
    """Return what a device publishes of its self-mask seed: 32 octets that bind it and do not tell it."""
    return sha256(transcript(COMMITMENT_DOMAIN, sid, member, seed))


def agreement_message(sid: bytes, bitmap: bytes) -> bytes:
    """Return the bytes that members sign once they accept ``bitmap`` as the survivors."""
    return transcript(AGREEMENT_DOMAIN, sid, sha256(bitmap))


class DeviceSession:
    """One device in one cohort, from fresh keys to its only answer.

    Args:
        identity: the device's signing key.
        certificate: the authority's word on it.
        binding: what every member must have in common.
        rules: the plan's cohort rules.
        authority_key: Ed25519 public key that certifies members.
        random_bytes: the operating system's randomness.
        cipher: of masks and sealed shares; the plan's.
        see_certificates: is given every member's certificate once all are verified, and refuses what must not go on.
    """

    def __init__(
        self,
        *,
        identity: SigningKey,
        certificate: Certificate,
        binding: CohortBinding,
        rules: CohortRules,
        authority_key: bytes,
        random_bytes: Callable[[int], bytes],
        cipher: CipherName = "aes-256-ctr",
        see_certificates: Callable[[Sequence[Certificate]], None] = lambda _certificates: None,
    ) -> None:
        self.phase = Phase.NEW
        self._see_certificates = see_certificates
        self._cipher = cipher
        self._identity = identity
        self._certificate = certificate
        self._binding = binding
        self._rules = rules
        self._authority_key = authority_key
        self._random_bytes = random_bytes
        self._channel = KeyPair.generate(random_bytes)
        self._mask = KeyPair.generate(random_bytes)
        self._seed = random_secret(random_bytes)
        self._held: dict[int, SharePair] = {}
        self._signed_inbox = b""
        self.withheld: dict[int, str] = {}

    @property
    def members(self) -> int:
        """How many are in the roster; known after ``share``."""
        return len(self._roster.members)

    @property
    def signed_inbox(self) -> bytes:
        """Whose boxes ``mask`` used, signed: sent with the vector. Empty before."""
        return self._signed_inbox

    def name_of(self, index: int) -> str:
        """Return the pseudonym of a member; known after ``share``."""
        return self._roster.members[index].device

    @property
    def sid(self) -> bytes:
        """The session's id, 32 octets; known after ``share``."""
        return self._sid

    def _step(self, before: Phase, after: Phase) -> None:
        if self.phase is not before:
            done = self.phase.name
            self.phase = Phase.ABORTED
            raise ProtocolAbort("out-of-order", f"Step {after.name} was asked for in phase {done}.")
        # Set before any work: whatever goes wrong from here on, the step cannot run again.
        self.phase = Phase.ABORTED

    def join(self) -> Member:
        """Return the signed message that joins the cohort, with two fresh public keys."""
        self._step(Phase.NEW, Phase.JOINED)
        self._own = make_member(
            self._identity,
            self._certificate,
            self._binding,
            channel_key=self._channel.public,
            mask_key=self._mask.public,
        )
        self.phase = Phase.JOINED
        return self._own

    def share(self, roster_json: Json, now_s: float) -> SharesMessage:
        """Verify the roster; return the commitment and a sealed pair of shares for every neighbour.

        Args:
            roster_json: the roster as it came.
            now_s: seconds since the epoch, for the expiry of certificates.

        Raises:
            ProtocolAbort, Unauthenticated, UsageError: see the module's list; nothing was revealed.
        """
        self._step(Phase.JOINED, Phase.SHARED)
        self._roster = self._read_roster(roster_json, now_s)
        self._index = self._roster.index_of(self._certificate.device)
        if self._roster.members[self._index].leaf != self._own.leaf:
            raise ProtocolAbort("not-in-roster", "The roster holds another join message for this device.")
        self._see_certificates([member.certificate for member in self._roster.members])
        self._thresholds = self._safe_thresholds()
        self._graph = self._roster.graph(self._thresholds.neighbours)
        self._neighbours = frozenset(self._graph.neighbours_of(self._index))
        self._sid = self._roster.sid
        boxes = self._sealed_shares(self._graph.holders_of(self._index))
        self.phase = Phase.SHARED
        return SharesMessage(commitment(self._sid, self._index, self._seed), boxes)

    def _read_roster(self, roster_json: Json, now_s: float) -> Roster:
        return Roster.verified(roster_json, self._binding, self._authority_key, now_s)

    def _safe_thresholds(self) -> Thresholds:
        try:
            return thresholds(self.members, self._rules)
        except UsageError as error:
            raise ProtocolAbort(error.code, error.message, error.remedy) from error

    def _sealed_shares(self, holders: Sequence[int]) -> dict[int, bytes]:
        points = range(1, len(holders) + 1)
        seeds = split(self._seed, self._thresholds.threshold, points, self._random_bytes)
        keys = split(self._mask.secret, self._thresholds.threshold, points, self._random_bytes)
        pairs = {holder: SharePair(seeds[x], keys[x]) for x, holder in zip(points, holders, strict=True)}
        if self._index in pairs:
            self._held[self._index] = pairs.pop(self._index)
        return {
            index: seal(
                pair,
                secret=self._channel.secret,
                public=self._roster.members[index].channel_key,
                sid=self._sid,
                sender=self._index,
                receiver=index,
                cipher=self._cipher,
            )
            for index, pair in pairs.items()
        }

    def mask(self, inbox: Mapping[int, bytes], words: Words) -> MaskedUpdate:
        """Open the shares that arrived and mask ``words`` with every neighbour that sent some.

        Args:
            inbox: sealed share pairs by the sender's index.
            words: u64[m]; overwritten.

        Raises:
            ProtocolAbort: ``too-few-shares``, ``bad-sealed-share``, ``bad-inbox``.
        """
        self._step(Phase.SHARED, Phase.MASKED)
        if not inbox.keys() <= self._neighbours:
            raise ProtocolAbort("bad-inbox", "The inbox holds shares of a member that cannot have sent them.")
        shared = len(inbox) + len(self._held)  # with its own where it keeps one
        if shared < self._thresholds.threshold:
            raise ProtocolAbort(
                "too-few-shares",
                f"{shared} neighbours shared their keys, {self._thresholds.threshold} are needed.",
                "too many members vanished; the device joins the next cohort with the same update",
            )
        for sender, box in inbox.items():
            self._held[sender] = open_sealed(
                box,
                secret=self._channel.secret,
                public=self._roster.members[sender].channel_key,
                sid=self._sid,
                sender=sender,
                receiver=self._index,
                cipher=self._cipher,
            )
        exchange = Exchange(self._mask.secret)
        masks = [self_mask(self._seed, self._sid, self._index)]
        masks += [
            pair_mask(
                exchange,
                self._roster.members[other].mask_key,
                self._sid,
                own=self._index,
                other=other,
            )
            for other in inbox
        ]
        apply_masks(words, masks, self._cipher)
        neighbours = self._graph.neighbours_of(self._index)
        self._signed_inbox = sign_inbox(self._identity, self._sid, self._index, neighbours, inbox.keys())
        self.phase = Phase.MASKED
        return MaskedUpdate(words)

    def agree(self, bitmap: bytes) -> bytes:
        """Return the signature with which this device accepts ``bitmap`` as the survivors, once.

        Raises:
            ProtocolAbort: ``bad-bitmap``, ``listed-dead``, ``unknown-survivor``, ``too-few-survivors``.
        """
        self._step(Phase.MASKED, Phase.AGREED)
        survivors = from_bitmap(bitmap, self.members)
        if self._index not in survivors:
            raise ProtocolAbort("listed-dead", "The server lists this device as dropped out; it reveals nothing.")
        if not survivors & self._neighbours <= self._held.keys():
            raise ProtocolAbort("unknown-survivor", "A listed survivor never shared its keys with this device.")
        self._require_enough(survivors)
        self._bitmap, self._survivors = bitmap, survivors
        self.phase = Phase.AGREED
        return self._identity.sign(agreement_message(self._sid, bitmap))

    def _require_enough(self, survivors: frozenset[int]) -> None:
        limits = self._thresholds
        # Fewer than t of those whose shares it holds, itself included on the complete graph, cannot open its sum.
        counts = (len(survivors), limits.survivors), (len(survivors & self._held.keys()), limits.threshold)
        for alive, needed in counts:
            if alive < needed:
                raise ProtocolAbort(
                    "too-few-survivors",
                    f"{alive} devices survived, this device unmasks for at least {needed}.",
                    "too many members vanished; the device trains anew for the next cohort",
                )

    def unmask(self, signatures: Mapping[int, bytes], inboxes: Mapping[int, bytes]) -> UnmaskAnswer:
        """Return one share per neighbour after a quorum signed the very bitmap that this device signed.

        Every share that is not in the answer is erased before it is returned. ``withheld`` then says of which survivors
        none is in it, by index, and why: ``no-signed-inbox``, ``bad-signed-inbox``, ``bad-signature``, or
        ``masked-without`` where it did not mask towards all survivors around it.

        Args:
            signatures: by index; invalid ones do not count.
            inboxes: what survivors signed of whose boxes they used, by index.

        Raises:
            ProtocolAbort: ``no-agreement`` with fewer than the quorum.
        """
        self._step(Phase.AGREED, Phase.ANSWERED)
        accepted = (1 for index, signature in signatures.items() if self._accepts(index, signature))
        agreed = sum(itertools.islice(accepted, self._thresholds.quorum))
        if agreed < self._thresholds.quorum:
            raise ProtocolAbort(
                "no-agreement",
                f"{agreed} members signed these survivors, {self._thresholds.quorum} are needed:"
                " the server may show different survivors to different members.",
            )
        held, self._held = self._held, {}
        doubts = {index: self._doubt(index, inboxes.get(index)) for index in held if index in self._survivors}
        self.withheld = {index: reason for index, reason in doubts.items() if reason}
        answer = UnmaskAnswer(
            {index: held[index].self_mask for index, reason in doubts.items() if not reason},
            {index: pair.mask_key for index, pair in held.items() if index not in self._survivors},
        )
        self.phase = Phase.ANSWERED
        return answer

    def _doubt(self, survivor: int, signed: bytes | None) -> str:
        """Say why a survivor may have masked without another one; empty if it did not."""
        if survivor == self._index:
            return ""  # ``agree`` looked at that
        if signed is None:
            return "no-signed-inbox"
        key, neighbours = self._roster.members[survivor].certificate.identity_key, self._graph.neighbours_of(survivor)
        try:
            used = verified_inbox(signed, key, self._sid, survivor, neighbours)
        except (Unauthenticated, UsageError) as error:
            return error.code
        # That this device is among them would not do: see decision 0020.
        return "" if self._survivors.intersection(neighbours) <= used else "masked-without"

    def _accepts(self, index: int, signature: bytes) -> bool:
        if index not in self._survivors:
            return False
        key = self._roster.members[index].certificate.identity_key
        try:
            verify(key, agreement_message(self._sid, self._bitmap), signature, "an agreement")
        except Unauthenticated:
            return False
        return True

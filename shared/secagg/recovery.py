"""The aggregator's side of unmasking: from the members' shares to the masks that are left in the sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from shared.errors import UnmaskingFailed
from shared.secagg.keys import KeyPair
from shared.secagg.masking import CipherName, Mask, Words, apply_masks, pair_mask, self_mask
from shared.secagg.roster import Roster
from shared.secagg.session import UnmaskAnswer, commitment
from shared.secagg.shares import recover


@dataclass(frozen=True)
class Fates:
    """What became of the members, frozen before anything is revealed.

    Attributes:
        sharers: indices that shared their keys; pair masks exist among them.
        survivors: indices whose masked vector is in the sum; a subset of ``sharers``.
    """

    sharers: frozenset[int]
    survivors: frozenset[int]

    @property
    def dropped(self) -> frozenset[int]:
        """Indices whose pair masks are left in the sum."""
        return self.sharers - self.survivors


def masks_in_sum(
    roster: Roster,
    fates: Fates,
    commitments: Mapping[int, bytes],
    answers: Mapping[int, UnmaskAnswer],
    threshold: int,
) -> Iterator[Mask]:
    """Yield every mask that the survivors' sum still holds.

    Args:
        roster: the cohort.
        fates: who shared and who survived.
        commitments: of the survivors' self-mask seeds, by index.
        answers: unmask answers by the answering member's index.
        threshold: t.

    Raises:
        UnmaskingFailed: ``too-few-shares`` or ``bad-shares``; a wrong share alone is worked around.
    """
    sid = roster.sid

    def opens_commitment(seed: bytes, index: int) -> bool:
        return commitment(sid, index, seed) == commitments[index]

    def is_mask_secret(secret: bytes, index: int) -> bool:
        return KeyPair.of(secret).public == roster.members[index].mask_key

    for index in sorted(fates.survivors):
        held = {holder + 1: answer.self_mask[index] for holder, answer in answers.items() if index in answer.self_mask}
        seed, _ = recover(held, threshold, partial(opens_commitment, index=index), _name(roster, index))
        yield self_mask(seed, sid, index)
    for index in sorted(fates.dropped):
        held = {holder + 1: answer.mask_key[index] for holder, answer in answers.items() if index in answer.mask_key}
        secret, _ = recover(held, threshold, partial(is_mask_secret, index=index), _name(roster, index))
        for other in sorted(fates.survivors):
            public = roster.members[other].mask_key
            # What the survivor added is this member's own mask towards it, inverted.
            yield pair_mask(secret, public, sid, own=index, other=other).inverse()


def _name(roster: Roster, index: int) -> str:
    return f"member {index} ({roster.members[index].device})"


def unmask_sum(
    total: Words,
    roster: Roster,
    fates: Fates,
    commitments: Mapping[int, bytes],
    answers: Mapping[int, UnmaskAnswer],
    *,
    threshold: int,
    min_survivors: int,
    cipher: CipherName = "aes-256-ctr",
) -> Words:
    """Return u64[m], the plain sum of the survivors' vectors.

    Args:
        total: u64[m], modular sum of the survivors' masked vectors; left as it is.
        roster: the cohort.
        fates: who shared and who survived.
        commitments: of the survivors' self-mask seeds, by index.
        answers: unmask answers by index.
        threshold: t.
        min_survivors: fewer give no output.
        cipher: of the masks.

    Raises:
        UnmaskingFailed: ``too-few-survivors``, ``too-few-shares`` or ``bad-shares``; there is no output then.
    """
    if len(fates.survivors) < min_survivors:
        raise UnmaskingFailed(
            "too-few-survivors",
            f"{len(fates.survivors)} devices survived, a sum is revealed for at least {min_survivors}.",
            "the round goes on with a new cohort",
        )
    plain = total.copy()
    masks = list(masks_in_sum(roster, fates, commitments, answers, threshold))
    apply_masks(plain, (mask.inverse() for mask in masks), cipher)
    return plain

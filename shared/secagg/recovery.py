"""The aggregator's side of unmasking: from the members' shares to the masks that are left in the sum."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np

from shared.errors import FedloomError, UnmaskingFailed
from shared.limits import MASK_BYTES_PER_WORKER
from shared.secagg.keys import Exchange, KeyPair
from shared.secagg.masking import WORD_BYTES, CipherName, Mask, Words, add_into, apply_masks, pair_mask, self_mask
from shared.secagg.parameters import Thresholds
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


@dataclass(frozen=True)
class Recovered:
    """A member's secret, and what it left in the sum.

    Attributes:
        index: the member's.
        secret: 32 octets: a survivor's self-mask seed or a drop-out's mask secret.
        others: of a drop-out, its surviving neighbours' mask keys by index; empty for a survivor.
        doubtful: indices of holders whose shares of it did not fit: the holder sent another share, or this member dealt
            it a wrong one. Which of the two, nobody can tell: dealing is secret.
    """

    index: int
    secret: bytes = field(repr=False)
    others: Mapping[int, bytes] = field(default_factory=dict)
    doubtful: frozenset[int] = frozenset()

    def masks(self, sid: bytes) -> Iterator[Mask]:
        """Yield the masks that take this member's part out of the sum."""
        if not self.others:
            yield self_mask(self.secret, sid, self.index).inverse()
        exchange = Exchange(self.secret)
        for other, public in self.others.items():
            # What the survivor added is this member's own mask towards it, inverted.
            yield pair_mask(exchange, public, sid, own=self.index, other=other)


def recover_secrets(
    roster: Roster,
    fates: Fates,
    commitments: Mapping[int, bytes],
    answers: Mapping[int, UnmaskAnswer],
    limits: Thresholds,
) -> Iterator[Recovered]:
    """Yield every survivor's seed, and the mask secret of every drop-out with a surviving neighbour.

    Args:
        roster: the cohort.
        fates: who shared and who survived.
        commitments: of the survivors' self-mask seeds, by index.
        answers: unmask answers by the answering member's index; only those of an owner's holders are looked at.
        limits: k and t.

    Raises:
        UnmaskingFailed: ``too-few-shares`` or ``bad-shares``; a wrong share alone is worked around.
    """
    graph, sid = roster.graph(limits.neighbours), roster.sid

    def opens_commitment(seed: bytes, index: int) -> bool:
        return commitment(sid, index, seed) == commitments[index]

    def is_mask_secret(secret: bytes, index: int) -> bool:
        return KeyPair.of(secret).public == roster.members[index].mask_key

    def shares(index: int, kind: Literal["self_mask", "mask_key"]) -> dict[int, bytes]:
        holders = enumerate(graph.holders_of(index), start=1)
        revealed = {x: getattr(answers[holder], kind) for x, holder in holders if holder in answers}
        return {x: by_owner[index] for x, by_owner in revealed.items() if index in by_owner}

    def recovered(index: int, kind: Literal["self_mask", "mask_key"], fits: Callable[[bytes, int], bool]) -> Recovered:
        name = _name(roster, index)
        secret, wrong = recover(shares(index, kind), limits.threshold, lambda found: fits(found, index), name)
        holders = graph.holders_of(index)
        return Recovered(index, secret, doubtful=frozenset(holders[x - 1] for x in wrong))

    for index in sorted(fates.survivors):
        yield recovered(index, "self_mask", opens_commitment)
    for index in sorted(fates.dropped):
        others = {i: roster.members[i].mask_key for i in graph.neighbours_of(index) if i in fates.survivors}
        if not others:
            continue
        yield replace(recovered(index, "mask_key", is_mask_secret), others=others)


def _name(roster: Roster, index: int) -> str:
    return f"member {index} ({roster.members[index].device})"


Blame = Callable[[str, Sequence[str]], None]  # is told a holder, and the owners of the shares that did not fit


def ignore(_holder: str, _owners: Sequence[str]) -> None:
    """Tell nobody."""


def unmask_sum(
    total: Words,
    roster: Roster,
    fates: Fates,
    commitments: Mapping[int, bytes],
    answers: Mapping[int, UnmaskAnswer],
    *,
    limits: Thresholds,
    cipher: CipherName,
    workers: int = 1,
    blame: Blame = ignore,
) -> Words:
    """Return u64[m], the plain sum of the survivors' vectors.

    Args:
        total: u64[m], modular sum of the survivors' masked vectors; left as it is.
        roster: the cohort.
        fates: who shared and who survived.
        commitments: of the survivors' self-mask seeds, by index.
        answers: unmask answers by index.
        limits: k, t and the fewest survivors; fewer give no output.
        cipher: of the masks.
        workers: how many processes may work on it, each with one vector in memory.
        blame: is told, in pseudonyms, each holder of wrong shares that were worked around, and whose they are: either
            the holder sent them, or these owners dealt them.

    Raises:
        UnmaskingFailed: ``too-few-survivors``, ``too-few-shares`` or ``bad-shares``; there is no output then.
        FedloomError: ``worker-died``.
    """
    if len(fates.survivors) < limits.survivors:
        raise UnmaskingFailed(
            "too-few-survivors",
            f"{len(fates.survivors)} devices survived, a sum is revealed for at least {limits.survivors}.",
            "the round goes on with a new cohort",
        )
    # All secrets first: without one of them there is no output, and no mask was worked on in vain.
    recovered = list(recover_secrets(roster, fates, commitments, answers, limits))
    for holder in sorted(frozenset[int]().union(*(one.doubtful for one in recovered))):
        owners = [roster.members[one.index].device for one in recovered if holder in one.doubtful]
        blame(roster.members[holder].device, owners)
    return add_all_masks(total, recovered, roster.sid, cipher, workers)


def add_all_masks(total: Words, recovered: Sequence[Recovered], sid: bytes, cipher: CipherName, workers: int) -> Words:
    """Return ``total`` with every mask of ``recovered`` added, using processes where that pays.

    Making keystreams holds Python's lock, so threads would take turns. Each process gets every w-th member, adds its
    masks into an accumulator of its own, and returns that alone.

    Raises:
        FedloomError: ``worker-died`` when one was killed, for want of memory perhaps.
    """
    masks = sum(max(1, len(one.others)) for one in recovered)
    used = max(1, min(workers, len(recovered), masks * total.nbytes // MASK_BYTES_PER_WORKER))
    processes = [_Worker(recovered[i::used], sid, cipher, total.size) for i in range(1, used)]
    plain = total.copy()
    try:
        _add_masks(plain, recovered[::used], sid, cipher)
        for process in processes:
            add_into(plain, process.result())
    finally:
        for process in processes:
            process.end()
    return plain


def _add_masks(words: Words, recovered: Sequence[Recovered], sid: bytes, cipher: CipherName) -> None:
    apply_masks(words, itertools.chain.from_iterable(one.masks(sid) for one in recovered), cipher)


class _Worker:
    """One process with its own accumulator."""

    def __init__(self, recovered: Sequence[Recovered], sid: bytes, cipher: CipherName, words: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the caller's database connections
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_send_masks, args=(sender, recovered, sid, cipher, words), daemon=True)
        self._process.start()
        sender.close()
        self._words = words

    def result(self) -> Words:
        """Wait for the sum of its masks, u64[m]."""
        try:
            return np.frombuffer(self._receiver.recv_bytes(self._words * WORD_BYTES), dtype=np.uint64)
        except (EOFError, OSError) as error:
            raise FedloomError(
                "worker-died", "A process that recovers masks ended early.", "give the machine more memory"
            ) from error

    def end(self) -> None:
        """Stop it, whether it is done or not."""
        self._process.terminate()
        self._process.join()
        self._receiver.close()


def _send_masks(sender: Connection, recovered: Sequence[Recovered], sid: bytes, cipher: CipherName, words: int) -> None:
    accumulator = np.zeros(words, dtype=np.uint64)
    _add_masks(accumulator, recovered, sid, cipher)
    sender.send_bytes(accumulator.data)

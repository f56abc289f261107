"""What a cohort does next: ``(state, what was seen) -> (state, effect)``, without I/O, so that it can be tested whole.

    forming -> sharing -> collecting -> agreeing -> unmasking -> summed
       |          |            |           |            |
       +----------+------------+-----------+------------+------> failed

A cohort with a sparse graph is ``seeding`` between the first two, until the authority has drawn the graph's seed.

A phase ends when everybody who can still act has acted, or at its deadline with enough of them. ``sharers`` and
``survivors`` are frozen when their phase ends and never change again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from shared.errors import UsageError
from shared.plan import Deadlines
from shared.secagg.parameters import CohortRules, Thresholds, is_sparse, thresholds


class Phase(StrEnum):
    """Where a cohort stands."""

    FORMING = "forming"
    SEEDING = "seeding"
    SHARING = "sharing"
    COLLECTING = "collecting"
    AGREEING = "agreeing"
    UNMASKING = "unmasking"
    SUMMED = "summed"
    FAILED = "failed"


CLOCK_SLACK_S = 60.0  # by which the clocks of several machines may differ
OVER = frozenset({Phase.SUMMED, Phase.FAILED})


class Effect(StrEnum):
    """What the driver does in the transaction that saves the new state; before it for ``DRAW_SEED`` and ``UNMASK``."""

    NONE = "none"
    FIX_ROSTER = "fix-roster"
    DRAW_SEED = "draw-seed"
    FREEZE_SHARERS = "freeze-sharers"
    FREEZE_SURVIVORS = "freeze-survivors"
    UNMASK = "unmask"
    FAIL = "fail"


@dataclass(frozen=True)
class CohortState:
    """A cohort between two looks.

    Attributes:
        phase: where it stands.
        since_s: when the phase began.
        members: size of the roster, 0 while forming.
        sharers: frozen when sharing ends.
        survivors: frozen when collecting ends.
        failure: code and message once failed.
    """

    phase: Phase
    since_s: float
    members: int = 0
    sharers: frozenset[int] = frozenset()
    survivors: frozenset[int] = frozenset()
    failure: str = ""


@dataclass(frozen=True)
class Seen:
    """What members have sent so far.

    Attributes:
        now_s: the time.
        joined: how many joined.
        last_join_s: when the last one did.
        shared: indices whose shares arrived.
        uploaded: indices whose masked vector arrived.
        agreed: indices whose signature over the survivors arrived.
        answered: indices whose unmask answer arrived.
        holders_answered: how many of them hold a share of the secret that the fewest hold one of; None where everybody
            holds one of each.
        unmask_failed: how many answers there were when unmasking was last tried in vain.
    """

    now_s: float
    joined: int = 0
    last_join_s: float = 0.0
    shared: frozenset[int] = frozenset()
    uploaded: frozenset[int] = frozenset()
    agreed: frozenset[int] = frozenset()
    answered: frozenset[int] = frozenset()
    holders_answered: int | None = None
    unmask_failed: int = 0


def advance(state: CohortState, seen: Seen, rules: CohortRules, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    """Return the next state and the one effect that belongs to the step; the same state when nothing is due."""
    if state.phase in OVER:
        return state, Effect.NONE
    if seen.now_s < state.since_s - CLOCK_SLACK_S:
        # The clock was ahead and was set back: the phase's time begins now, else it would last until then.
        return replace(state, since_s=seen.now_s), Effect.NONE
    if state.phase is Phase.FORMING:
        return _forming(state, seen, rules, deadlines)
    limits = thresholds(state.members, rules)
    step = {
        Phase.SEEDING: _seeding,
        Phase.SHARING: _sharing,
        Phase.COLLECTING: _collecting,
        Phase.AGREEING: _agreeing,
        Phase.UNMASKING: _unmasking,
    }[state.phase]
    return step(state, seen, limits, deadlines)


def _forming(state: CohortState, seen: Seen, rules: CohortRules, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    full = seen.joined >= rules.largest
    waited_s = seen.now_s - seen.last_join_s  # negative where the clock was ahead and was set back
    quiet = seen.joined > 0 and not -CLOCK_SLACK_S <= waited_s < deadlines.forming_s
    if not (full or quiet):
        return state, Effect.NONE
    try:
        thresholds(seen.joined, rules)
    except UsageError:
        # Too few, or no safe threshold for this size: more devices may still come.
        return state, Effect.NONE
    following = Phase.SEEDING if is_sparse(seen.joined) else Phase.SHARING
    return replace(state, phase=following, since_s=seen.now_s, members=seen.joined), Effect.FIX_ROSTER


def _seeding(state: CohortState, seen: Seen, limits: Thresholds, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    if seen.now_s - state.since_s >= deadlines.sharing_s:
        return _failed(state, seen, "no-graph-seed", state.members, limits)
    return replace(state, phase=Phase.SHARING, since_s=seen.now_s), Effect.DRAW_SEED


def _sharing(state: CohortState, seen: Seen, limits: Thresholds, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    if len(seen.shared) < state.members and seen.now_s - state.since_s < deadlines.sharing_s:
        return state, Effect.NONE
    if len(seen.shared) < max(limits.threshold, limits.survivors):
        return _failed(state, seen, "too-few-shares", len(seen.shared), limits)
    return (
        replace(state, phase=Phase.COLLECTING, since_s=seen.now_s, sharers=seen.shared),
        Effect.FREEZE_SHARERS,
    )


def _collecting(state: CohortState, seen: Seen, limits: Thresholds, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    if seen.uploaded < state.sharers and seen.now_s - state.since_s < deadlines.collecting_s:
        return state, Effect.NONE
    if len(seen.uploaded) < max(limits.threshold, limits.survivors):
        return _failed(state, seen, "too-few-survivors", len(seen.uploaded), limits)
    return (
        replace(state, phase=Phase.AGREEING, since_s=seen.now_s, survivors=seen.uploaded),
        Effect.FREEZE_SURVIVORS,
    )


def _agreeing(state: CohortState, seen: Seen, limits: Thresholds, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    # A quorum is enough for everybody; late signatures are still taken while unmasking.
    if len(seen.agreed) >= limits.quorum:
        return replace(state, phase=Phase.UNMASKING, since_s=seen.now_s), Effect.NONE
    if seen.now_s - state.since_s < deadlines.agreeing_s:
        return state, Effect.NONE
    return _failed(state, seen, "no-agreement", len(seen.agreed), limits)


def _unmasking(state: CohortState, seen: Seen, limits: Thresholds, deadlines: Deadlines) -> tuple[CohortState, Effect]:
    answers = len(seen.answered)
    enough = answers if seen.holders_answered is None else seen.holders_answered
    if enough >= limits.threshold and answers > seen.unmask_failed:
        return replace(state, phase=Phase.SUMMED, since_s=seen.now_s), Effect.UNMASK
    all_in = seen.answered >= state.survivors
    if not all_in and seen.now_s - state.since_s < deadlines.unmasking_s:
        return state, Effect.NONE
    return _failed(state, seen, "too-few-answers", enough, limits)


def _failed(state: CohortState, seen: Seen, code: str, count: int, limits: Thresholds) -> tuple[CohortState, Effect]:
    needed = max(limits.threshold, limits.survivors)
    reasons = {
        "no-graph-seed": f"the authority drew no seed for a graph of {count} members in time",
        "too-few-shares": f"{count} of {state.members} members shared their keys, {needed} are needed",
        "too-few-survivors": f"{count} of {state.members} members sent a vector, {needed} are needed",
        "no-agreement": f"{count} members signed the survivors, {limits.quorum} are needed",
        "too-few-answers": f"{count} members with shares of one secret answered, {limits.threshold} are needed",
    }
    failure = f"{code}: {reasons[code]}"
    return replace(state, phase=Phase.FAILED, since_s=seen.now_s, failure=failure), Effect.FAIL

"""The cohort's state machine under any sequence of arrivals and waits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.rounds.machine import OVER, CohortState, Effect, Phase, Seen, advance
from shared.plan import Deadlines
from shared.secagg.parameters import CohortRules, thresholds

RULES: Final = CohortRules(3, 8, 0.0, 0.25)
DEADLINES: Final = Deadlines(
    forming_s=5.0, sharing_s=10.0, collecting_s=20.0, agreeing_s=10.0, unmasking_s=10.0, round_s=100.0
)
ALL_DEADLINES_S: Final = 50.0
ORDER: Final = list(Phase)


@dataclass
class Cohort:
    """A cohort whose devices do what a test says."""

    state: CohortState = field(default_factory=lambda: CohortState(Phase.FORMING, 0.0))
    seen: Seen = field(default_factory=lambda: Seen(0.0))
    effects: list[Effect] = field(default_factory=list)
    history: list[CohortState] = field(default_factory=list)

    def look(self, seconds: float = 0.0) -> None:
        """Let time pass, then look until nothing is due."""
        self.seen = replace(self.seen, now_s=self.seen.now_s + seconds)
        while True:
            state, effect = advance(self.state, self.seen, RULES, DEADLINES)
            if state == self.state:
                assert effect is Effect.NONE
                return
            self.state = state
            self.history.append(state)
            self.effects.append(effect)

    def act(self, device: int) -> None:
        """Let a device do what the phase takes from it."""
        phase, seen = self.state.phase, self.seen
        if phase is Phase.FORMING and seen.joined < RULES.largest:
            self.seen = replace(seen, joined=seen.joined + 1, last_join_s=seen.now_s)
        elif phase is Phase.SHARING and device < self.state.members:
            self.seen = replace(seen, shared=seen.shared | {device})
        elif phase is Phase.COLLECTING and device in self.state.sharers:
            self.seen = replace(seen, uploaded=seen.uploaded | {device})
        elif phase in {Phase.AGREEING, Phase.UNMASKING} and device in self.state.survivors - seen.agreed:
            self.seen = replace(seen, agreed=seen.agreed | {device})
        elif phase is Phase.UNMASKING and device in self.state.survivors:
            self.seen = replace(seen, answered=seen.answered | {device})


# A device that acts, or None: time passes.
events = st.lists(st.one_of(st.integers(0, 7), st.none()), max_size=120)


def play(story: list[int | None], step_s: float = 3.0) -> Cohort:
    cohort = Cohort()
    for event in story:
        if event is not None:
            cohort.act(event)
        cohort.look(step_s if event is None else 0.01)
    return cohort


@given(events)
def test_a_cohort_that_formed_ends_by_its_deadlines(story: list[int | None]) -> None:
    cohort = play(story)
    if cohort.state.phase is not Phase.FORMING:
        began_s = cohort.history[0].since_s
        for _ in range(5):
            cohort.look(20.0)
        assert cohort.state.phase in OVER
        assert cohort.state.since_s - began_s <= max(ALL_DEADLINES_S + 100, cohort.seen.now_s)
        for before, after in zip(cohort.history, cohort.history[1:], strict=False):
            assert after.since_s >= before.since_s


@given(events)
def test_phases_only_go_forward_and_the_end_is_the_end(story: list[int | None]) -> None:
    cohort = play(story)
    phases = [ORDER.index(state.phase) for state in cohort.history]
    assert phases == sorted(set(phases))
    assert [effect in {Effect.UNMASK, Effect.FAIL} for effect in cohort.effects].count(True) <= 1
    if cohort.state.phase in OVER:
        everybody = frozenset(range(8))
        later = Seen(1e9, 8, 1e9, everybody, everybody, everybody, everybody)
        assert advance(cohort.state, later, RULES, DEADLINES) == (cohort.state, Effect.NONE)


@given(events)
def test_sharers_and_survivors_never_change_once_frozen(story: list[int | None]) -> None:
    cohort = play(story)
    for before, after in zip(cohort.history, cohort.history[1:], strict=False):
        if before.phase not in {Phase.FORMING, Phase.SHARING}:
            assert after.sharers == before.sharers
            assert after.members == before.members
        if before.phase in {Phase.AGREEING, Phase.UNMASKING}:
            assert after.survivors == before.survivors
        assert after.survivors <= after.sharers


@given(events)
def test_nothing_is_unmasked_below_the_threshold_or_the_required_survivors(story: list[int | None]) -> None:
    cohort = play(story)
    for state, effect in zip(cohort.history, cohort.effects, strict=True):
        if state.phase in {Phase.AGREEING, Phase.UNMASKING, Phase.SUMMED}:
            limits = thresholds(state.members, RULES)
            assert len(state.survivors) >= max(limits.threshold, limits.survivors, RULES.min_survivors)
        if effect is Effect.UNMASK:
            assert len(cohort.seen.answered) >= limits.threshold
            assert len(cohort.seen.agreed) >= limits.quorum
    assert (Effect.UNMASK in cohort.effects) == (cohort.state.phase is Phase.SUMMED)


@given(events)
def test_a_failed_cohort_says_why(story: list[int | None]) -> None:
    cohort = play(story)
    cohort.look(1000.0)
    if cohort.state.phase is Phase.FAILED:
        code, _, reason = cohort.state.failure.partition(": ")
        assert code in {"too-few-shares", "too-few-survivors", "no-agreement", "too-few-answers"}
        assert reason


def test_a_cohort_waits_for_more_devices_while_they_keep_coming() -> None:
    cohort = Cohort()
    for _ in range(RULES.largest - 1):
        cohort.act(0)
        cohort.look(DEADLINES.forming_s - 0.1)
        assert cohort.state.phase is Phase.FORMING
    cohort.look(0.2)
    assert (cohort.state.phase, cohort.state.members) == (Phase.SHARING, RULES.largest - 1)


def test_a_full_cohort_starts_at_once() -> None:
    cohort = Cohort()
    for _ in range(RULES.largest):
        cohort.act(0)
    cohort.look()
    assert (cohort.state.phase, cohort.state.members) == (Phase.SHARING, RULES.largest)


@pytest.mark.parametrize("joined", range(RULES.min_survivors))
def test_too_few_devices_form_no_cohort_however_long_they_wait(joined: int) -> None:
    cohort = Cohort()
    for _ in range(joined):
        cohort.act(0)
    cohort.look(1e6)
    assert cohort.state.phase is Phase.FORMING


def test_unmasking_that_failed_is_tried_again_only_with_more_answers() -> None:
    everybody = frozenset(range(4))
    state = CohortState(Phase.UNMASKING, 0.0, 4, everybody, everybody)
    seen = Seen(1.0, shared=everybody, uploaded=everybody, agreed=everybody, answered=frozenset({0, 1, 2}))
    assert advance(state, seen, RULES, DEADLINES)[1] is Effect.UNMASK
    failed = replace(seen, unmask_failed=3)
    assert advance(state, failed, RULES, DEADLINES) == (state, Effect.NONE)
    assert advance(state, replace(failed, answered=everybody), RULES, DEADLINES)[1] is Effect.UNMASK
    last = advance(state, replace(failed, answered=everybody, unmask_failed=4), RULES, DEADLINES)
    assert (last[0].phase, last[1]) == (Phase.FAILED, Effect.FAIL)

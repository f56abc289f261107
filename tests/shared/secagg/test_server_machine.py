"""A server that may send anything to any device in any order, and what it can never collect.

It owns one of five members (gamma = 20 %), shows different rosters, inboxes and survivors to different devices, mixes
material of two cohorts of the same devices, repeats and reorders steps. Whatever it does:

- one session never masks two inputs and never answers twice;
- no holder reveals both shares of one owner;
- honest members of one session never answer over two different sets of survivors;
- with the help of its own member it never has t shares of both secrets of an honest device;
- no sum that it can open, by what was masked and answered, is over fewer honest members than the fewest survivors
  without its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shared.errors import FedloomError
from shared.secagg.parameters import CohortRules
from shared.secagg.roster import to_bitmap
from shared.secagg.session import DeviceSession, UnmaskAnswer, agreement_message
from shared.secagg.signed_inbox import sign_inbox
from tests.shared.cohort_simulation import NOW_S, STEPS, Identity, binding_for, new_session
from tests.shared.cohort_simulation import CohortSimulation as Cohort
from tests.shared.secagg.openable import openable_sums

DEVICES = range(5)
CORRUPT = 4  # does what the server wants
HONEST = range(4)
COHORTS = ("cohort-a", "cohort-b")
RULES = CohortRules(min_survivors=3, largest=5, corrupt_share=0.2, dropout_share=0.2)

cohorts = st.sampled_from(COHORTS)
devices = st.sampled_from(DEVICES)
any_step = st.sampled_from(STEPS)
groups = st.one_of(st.just(frozenset(DEVICES)), st.frozensets(devices))
few = st.one_of(devices.map(lambda device: frozenset({device})), st.frozensets(devices))


class MaliciousServer(RuleBasedStateMachine):
    """Any step, any material, any device, any order."""

    answers_seen: ClassVar[Counter[type]] = Counter()

    @initialize(honest_steps=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def open_cohorts(self, honest_steps: tuple[int, int]) -> None:
        """Both cohorts begin honestly for some steps, so that attacks meet late phases as often as early ones."""
        self.cohorts: dict[str, Cohort] = {}
        self.views: dict[tuple[str, int], list[int]] = {}
        self.outputs: dict[tuple[str, int, str], list[Any]] = defaultdict(list)
        self.used: dict[tuple[str, int], frozenset[int]] = {}
        for name in COHORTS:
            cohort = Cohort(len(DEVICES), RULES, binding_for(name))
            cohort.sessions = [self.new_session(name, device) for device in DEVICES]
            cohort.run_to("join")
            self.cohorts[name] = cohort
        for name, steps in zip(COHORTS, honest_steps, strict=True):
            for _ in range(steps):
                self.bring_forward(name, frozenset(DEVICES))

    def new_session(self, name: str, device: int) -> DeviceSession:
        return new_session(device, RULES, binding_for(name))

    def send(self, name: str, device: int, step: str, material: Any) -> None:  # noqa: ANN401  # one type per step
        """Ask for ``step`` and keep whatever comes out."""
        cohort = self.cohorts[name]
        session = cohort.sessions[device]
        asks: dict[str, Callable[[], Any]] = {
            "join": session.join,
            "share": lambda: session.share(material, NOW_S),
            "mask": lambda: session.mask(material, np.zeros(4, dtype=np.uint64)),
            "agree": lambda: session.agree(material),
            "unmask": lambda: session.unmask(*material),
        }
        try:
            output = asks[step]()
        except FedloomError:
            return
        self.outputs[name, device, step].append(output)
        kept: dict[str, dict[int, Any]] = {
            "share": cohort.shares,
            "mask": cohort.masked,
            "agree": cohort.signatures,
            "unmask": cohort.answers,
        }
        kept[step][device] = output
        if step == "mask":
            cohort.inboxes[device] = session.signed_inbox
            self.used[name, device] = frozenset(material)
        if step == "share":
            names = [member.device for member in session._roster.members]
            self.views[name, device] = [number for number in DEVICES if f"device-{number:03}" in names]

    def place(self, name: str, viewer: int, other: int) -> int | None:
        """Return the index of ``other`` in the roster that ``viewer`` was shown."""
        view = self.views.get((name, viewer), [])
        return view.index(other) if other in view else None

    def seen_by(self, name: str, viewer: int, values: Mapping[int, Any]) -> dict[int, Any]:
        """Return ``values`` by the indices of the viewer's roster instead of by device."""
        places = {other: self.place(name, viewer, other) for other in values}
        return {place: values[other] for other, place in places.items() if place is not None}

    def boxes_for(self, name: str, device: int) -> dict[int, Any]:
        """Return what each device sealed for ``device``, wherever that was in the sender's roster."""
        places = {sender: self.place(name, sender, device) for sender in self.cohorts[name].shares if sender != device}
        boxes = {sender: message.boxes for sender, message in self.cohorts[name].shares.items()}
        return {
            sender: boxes[sender][place]
            for sender, place in places.items()
            if place is not None and place in boxes[sender]
        }

    def right_material(self, name: str, device: int, step: str) -> Any:  # noqa: ANN401  # one type per step
        """Return what an honest server would send now; its own member signs whatever survivors help."""
        cohort = self.cohorts[name]
        if step == "share":
            return cohort.roster.to_json()
        if step == "mask":
            return self.seen_by(name, device, self.boxes_for(name, device))
        if step == "agree":
            places = self.seen_by(name, device, cohort.masked)
            return to_bitmap(frozenset(places), len(self.views.get((name, device), DEVICES)))
        session = cohort.sessions[device]
        message = agreement_message(getattr(session, "_sid", b""), getattr(session, "_bitmap", b""))
        own = Identity.enrolled(CORRUPT).key.sign(message)
        signatures = self.seen_by(name, device, {**cohort.signatures, CORRUPT: own})
        return signatures, self.seen_by(name, device, cohort.inboxes | self.own_inbox(name, device))

    def own_inbox(self, name: str, viewer: int) -> dict[int, bytes]:
        """Let the server's own member sign that it used everybody's boxes, in the session that ``viewer`` is in."""
        session, place = self.cohorts[name].sessions[viewer], self.place(name, viewer, CORRUPT)
        if place is None:
            return {}
        neighbours = session._graph.neighbours_of(place)
        key = Identity.enrolled(CORRUPT).key
        return {CORRUPT: sign_inbox(key, session.sid, place, neighbours, neighbours)}

    def wrong_material(self, name: str, device: int, step: str, chosen: frozenset[int], foreign: str) -> Any:  # noqa: ANN401  # one type per step
        """Return material with ``chosen`` left out, or taken from the other cohort."""
        if step == "agree":
            return to_bitmap(frozenset(DEVICES) - chosen, len(DEVICES))
        if step == "share":
            joined, others = self.cohorts[name].joined, self.cohorts[foreign].joined
            members = [joined[i] for i in DEVICES if i not in chosen]
            return {"members": [m.to_json() for m in (*members, *(others[i] for i in chosen if foreign != name))]}
        own, other = self.right_material(name, device, step), self.right_material(foreign, device, step)
        if step == "unmask":
            return tuple(
                {index: value for index, value in mine.items() if index not in chosen}
                | {index: value for index, value in theirs.items() if index in chosen and foreign != name}
                for mine, theirs in zip(own, other, strict=True)
            )
        kept = {index: value for index, value in own.items() if index not in chosen}
        return kept | {index: value for index, value in other.items() if index in chosen and foreign != name}

    def next_step(self, name: str, device: int) -> str | None:
        phase = self.cohorts[name].sessions[device].phase
        return STEPS[phase] if phase < len(STEPS) else None

    @rule(name=cohorts, group=groups)
    def go_on_honestly(self, name: str, group: frozenset[int]) -> None:
        self.bring_forward(name, group)

    def bring_forward(self, name: str, group: frozenset[int]) -> None:
        """Let a group do one step, those that are behind first."""
        behind = min((step for d in group if (step := self.next_step(name, d))), key=STEPS.index, default=None)
        for device in sorted(group):
            if behind and self.next_step(name, device) == behind:
                self.send(name, device, behind, self.right_material(name, device, behind))

    @rule(name=cohorts, device=devices, chosen=few, foreign=cohorts)
    def lie_in_the_step_that_is_due(self, name: str, device: int, chosen: frozenset[int], foreign: str) -> None:
        step = self.next_step(name, device)
        if step:
            self.send(name, device, step, self.wrong_material(name, device, step, chosen, foreign))

    @rule(name=cohorts, group=groups, left_out=devices)
    def show_a_group_a_smaller_roster(self, name: str, group: frozenset[int], left_out: int) -> None:
        for device in sorted(group - {left_out}):
            if self.next_step(name, device) == "share":
                material = self.wrong_material(name, device, "share", frozenset({left_out}), name)
                self.send(name, device, "share", material)

    @rule(name=cohorts, victims=groups, one=devices)
    def show_some_another_set_of_survivors(self, name: str, victims: frozenset[int], one: int) -> None:
        for device in sorted(victims - {one}):
            if self.next_step(name, device) == "agree":
                members = len(self.views[name, device])
                self.send(name, device, "agree", to_bitmap(frozenset(range(members)) - {one}, members))

    @rule(name=cohorts, device=devices, bitmap=st.binary(max_size=2))
    def show_any_octets_as_survivors(self, name: str, device: int, bitmap: bytes) -> None:
        if self.next_step(name, device) == "agree":
            self.send(name, device, "agree", bitmap)

    @rule(name=cohorts, device=devices, step=any_step)
    def repeat_or_skip_a_step(self, name: str, device: int, step: str) -> None:
        material = None if step == "join" else self.right_material(name, device, step)
        if step == "join" or self.next_step(name, device) != step:
            self.send(name, device, step, material)

    @invariant()
    def each_session_masks_once_and_answers_once(self) -> None:
        for outputs in self.outputs.values():
            assert len(outputs) == 1

    @invariant()
    def no_holder_reveals_both_shares_of_an_owner(self) -> None:
        for cohort in self.cohorts.values():
            for answer in cohort.answers.values():
                assert not answer.self_mask.keys() & answer.mask_key.keys()

    @invariant()
    def honest_answers_of_one_session_are_over_the_same_survivors(self) -> None:
        for (name, _), answers in self.honest_answers_by_sid().items():
            assert len({self.cohorts[name].sessions[device]._survivors for device in answers}) == 1

    @invariant()
    def never_both_secrets_of_an_honest_device(self) -> None:
        for (name, _), answers in self.honest_answers_by_sid().items():
            any_holder = next(iter(answers))
            for owner in HONEST:
                place = self.place(name, any_holder, owner)
                self_mask = sum(place in answer.self_mask for answer in answers.values())
                mask_key = sum(place in answer.mask_key for answer in answers.values())
                threshold = self.cohorts[name].sessions[any_holder]._thresholds.threshold
                # The server's own member adds one share to each.
                assert min(self_mask, mask_key) + 1 < threshold

    @invariant()
    def no_sum_over_too_few_can_be_opened(self) -> None:
        for (name, sid), answers in self.honest_answers_by_sid().items():
            cohort = self.cohorts[name]
            session = cohort.sessions[next(iter(answers))]
            corrupt = self.seen_by(name, next(iter(answers)), {CORRUPT: None}).keys()
            members = [d for d in DEVICES if d in cohort.shares and cohort.sessions[d]._sid == sid]
            index_of = {d: cohort.sessions[d]._index for d in members}
            sums = openable_sums(
                session._graph,
                session._thresholds.threshold,
                corrupt,
                index_of.values(),
                {index_of[d]: self.used[name, d] for d in members if (name, d) in self.used},
                {index_of[d]: answer for d, answer in answers.items()},
            )
            for opened in sums:
                assert len(opened) >= session._thresholds.survivors - len(corrupt)

    def honest_answers_by_sid(self) -> dict[tuple[str, bytes], dict[int, UnmaskAnswer]]:
        groups: dict[tuple[str, bytes], dict[int, UnmaskAnswer]] = defaultdict(dict)
        for name, cohort in self.cohorts.items():
            for device in HONEST:
                if device in cohort.answers:
                    groups[name, cohort.sessions[device]._sid][device] = cohort.answers[device]
        return groups

    def teardown(self) -> None:
        if hasattr(self, "cohorts"):
            self.answers_seen[type(self)] += sum(len(cohort.answers) for cohort in self.cohorts.values())


class SessionWithoutAgreement(DeviceSession):
    """What the protocol would be without its consistency check."""

    def _accepts(self, index: int, signature: bytes) -> bool:
        del index, signature
        return True


class MaliciousServerAgainstNoAgreement(MaliciousServer):
    """The same server against devices that believe every signature."""

    def new_session(self, name: str, device: int) -> DeviceSession:
        session = super().new_session(name, device)
        session.__class__ = SessionWithoutAgreement
        return session


SEARCH = settings(
    max_examples=120, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def test_no_order_of_messages_reveals_one_device() -> None:
    run_state_machine_as_test(MaliciousServer, settings=SEARCH)
    assert MaliciousServer.answers_seen[MaliciousServer] > 50  # many sessions did come to their end


def test_the_same_server_does_succeed_where_nobody_checks_the_agreement() -> None:
    """The search is strong enough to find the attack that the agreement is there for."""
    quick = settings(SEARCH, phases=[Phase.generate], print_blob=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(MaliciousServerAgainstNoAgreement, settings=quick)

"""A millisecond decides: a step just before its deadline counts, and just after it, it is refused by name."""

from __future__ import annotations

import pytest

from shared.errors import FedloomError
from shared.wire.requests import JSON, OCTETS
from tests.cloud_server.local import HOUR_S, Local, small_plan
from tests.cloud_server.members import STEPS, Member

MEMBERS = 4
PHASE = {"share": "sharing", "upload": "collecting", "agree": "agreeing", "answer": "unmasking"}


def wait_for_the_last(local: Local, step: str) -> list[Member]:
    """Bring a cohort to where it waits for its last member's ``step``, at the moment when that phase began."""
    members = local.cohort(small_plan("point", MEMBERS, dropout_share=0.25), MEMBERS)
    for earlier in STEPS[: STEPS.index(step)]:
        local.do(members, earlier)
    assert local.rows("SELECT phase FROM cohort") == [(PHASE[step],)]
    return members


def pass_time(local: Local, seconds: float) -> None:
    ((since_s,),) = local.rows("SELECT since_s FROM cohort")
    local.clock.time_s = since_s + seconds
    local.settle()


@pytest.mark.parametrize("step", ["share", "upload"])
def test_a_step_before_the_deadline_counts(local: Local, step: str) -> None:
    members = wait_for_the_last(local, step)
    local.do(members[1:], step)
    pass_time(local, HOUR_S - 0.001)
    assert local.rows("SELECT phase FROM cohort") == [(PHASE[step],)]
    members[0].do(step)
    local.settle()
    frozen = {"share": "sharers", "upload": "survivors"}[step]
    assert local.rows(f"SELECT {frozen} FROM cohort") == [(b"\x0f",)]  # noqa: S608  # a constant


@pytest.mark.parametrize("step", ["share", "upload"])
def test_a_step_after_the_deadline_is_refused_and_changes_nothing(local: Local, step: str) -> None:
    members = wait_for_the_last(local, step)
    local.do(members[1:], step)
    _, body = members[0].prepare(step)
    pass_time(local, HOUR_S + 0.001)
    before = local.rows("SELECT cohort, device, step, body FROM step ORDER BY 1, 2, 3")
    route = {"share": "shares", "upload": "vector"}[step]
    content_type = OCTETS if route == "vector" else JSON
    with pytest.raises(FedloomError) as refused:
        members[0].transport.send("PUT", members[0].target(route), body, content_type=content_type)
    assert refused.value.code == "phase-over"
    assert local.rows("SELECT cohort, device, step, body FROM step ORDER BY 1, 2, 3") == before


@pytest.mark.parametrize(("step", "code"), [("agree", "no-agreement"), ("answer", "too-few-answers")])
def test_a_cohort_that_fails_at_its_deadline_says_why_to_who_is_late(local: Local, step: str, code: str) -> None:
    members = wait_for_the_last(local, step)
    prepared = [member.prepare(step) for member in members]
    pass_time(local, HOUR_S - 0.001)
    assert local.rows("SELECT phase FROM cohort") == [(PHASE[step],)]
    pass_time(local, HOUR_S + 0.001)
    for member, (route, body) in zip(members, prepared, strict=True):
        with pytest.raises(FedloomError) as refused:
            member.transport.send("PUT", member.target(route), body)
        assert refused.value.code == code

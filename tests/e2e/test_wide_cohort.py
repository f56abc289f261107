"""Two hundred members on a sparse graph over HTTPS, ten of whom vanish once their keys are shared: the sum is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from tests.cloud_server.local import small_plan
from tests.cloud_server.members import STEPS, one_hot
from tests.e2e.servers import Deployment, run_steps

MEMBERS: Final = 200
GONE: Final = 10


@pytest.mark.long
def test_two_hundred_members_and_ten_that_vanish(running: Deployment) -> None:
    small = small_plan("two-hundred", MEMBERS, dropout_share=0.1)
    plan = replace(small, cohort=replace(small.cohort, corrupt_share=0.05))
    running.create_task(plan, MEMBERS)
    members = running.enrol(plan, MEMBERS)
    model = members[0].release(0).model_sha256
    for member in members:
        member.values = one_hot(member.number, MEMBERS)
        member.meet(model)
    run_steps(members, ["join", "share"])
    present = members[GONE:]
    run_steps(present, ["upload"])
    running.let_deadline_pass(members[0].cohort, "collecting")
    run_steps(present, STEPS[STEPS.index("agree") :])
    assert all(member.counted() for member in present)
    expected = np.ones(MEMBERS)
    expected[:GONE] = 0
    np.testing.assert_allclose(load(present[0].weights(1))["theta"], expected, rtol=0, atol=1e-5)

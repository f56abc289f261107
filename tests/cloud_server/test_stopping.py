"""A task that an operator stops is over at once, wherever its round is, and stays so whatever a driver is at."""

from __future__ import annotations

import pytest

from cloud_server.cli import main
from cloud_server.operators.accounts import By
from cloud_server.rounds.driver import Driver
from cloud_server.rounds.stopping import stop_task
from cloud_server.storage.leases import LEASE_S
from edge_client.problems import CohortOver
from shared.errors import Conflict, Missing
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS
from tests.cloud_server.signed_in import SignedIn
from tests.cloud_server.test_selection import check_in
from tests.shared.refusals import refused

PLAN = small_plan("point")


def stop(local: Local, name: str = "point", reason: str = "wrong labels") -> None:
    with local.parts.recorded() as connection:
        stop_task(connection, name, reason, By("operator:ada", local.clock.now_s()))


@pytest.mark.parametrize("after", range(len(STEPS)))
def test_a_round_of_any_phase_is_given_up(local: Local, after: int) -> None:
    members = local.cohort(PLAN, 4)
    for step in STEPS[:after]:
        local.do(members, step)
    stop(local)
    local.settle()
    why = "an operator stopped it: wrong labels"
    assert local.rows("SELECT state, reason FROM task") == [("done", why)]
    assert local.rows("SELECT phase, reason FROM round") == [("abandoned", why)]
    assert local.rows("SELECT phase FROM cohort") == [("failed",)]
    assert local.rows("SELECT number FROM version") == [(0,)]
    assert local.rows("SELECT actor FROM audit WHERE action = 'task-stopped'") == [("operator:ada",)]
    with refused("round-abandoned", CohortOver):
        members[0].do(STEPS[after])
    assert check_in(members[0]).action == "done"


def test_a_driver_between_two_rounds_opens_none_for_it(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create(PLAN)
    real = Driver._open_round

    def stopped_before(self: Driver, look: object) -> bool:
        monkeypatch.undo()
        stop(local)
        return real(self, look)  # type: ignore[arg-type]

    monkeypatch.setattr(Driver, "_open_round", stopped_before)
    local.driver.tick()
    local.clock.time_s += LEASE_S + 1
    local.settle()
    assert local.rows("SELECT count(*) FROM round") == [(0,)]


def test_only_what_runs_can_be_stopped(local: Local) -> None:
    local.create(PLAN)
    with refused("task-unknown", Missing):
        stop(local, "pont")
    stop(local, reason="")
    assert local.rows("SELECT reason FROM task") == [("an operator stopped it",)]
    with refused("task-over", Conflict):
        stop(local)


def test_it_is_stopped_from_the_shell_and_from_the_page(local: Local, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("point", "line"):
        local.create(small_plan(name))
    signed_in = SignedIn(local)
    viewer, operator = signed_in.browser("eve", "viewer"), signed_in.browser("ada", "operator")
    assert viewer.post("/console/tasks/point/stop", reason="out of spite").status_code == 403
    assert "/stop" not in viewer.get("/console/tasks/point").get_data(as_text=True)
    assert "/stop" in operator.get("/console/tasks/point").get_data(as_text=True)
    answer = operator.post("/console/tasks/point/stop", reason="<b>wrong</b>")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/console/tasks/point?done=task-stopped.")
    text = operator.get(answer.headers["Location"]).get_data(as_text=True)
    assert "an operator stopped it: &lt;b&gt;wrong" in text
    assert "/stop" not in text
    assert operator.post("/console/tasks/point/stop").status_code == 409
    words = ["task", "stop", "line", "--reason", "season is over", "--data", str(local.parts.folder.path)]
    assert main(words) == 0
    assert "season is over" in capsys.readouterr().out
    assert main(words) == 3
    assert local.rows("SELECT name, state FROM task ORDER BY name") == [("line", "done"), ("point", "done")]

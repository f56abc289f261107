"""Several tasks on one device take turns; one that fails or ends leaves the others alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge_client.agent import open_agent
from edge_client.cli import main
from edge_client.state_folder import StateFolder
from edge_client.turns import take_turns
from shared.clock import SystemClock
from shared.errors import Unauthenticated
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import ManualClock, enrolled
from tests.edge_client.loopback import Answer, Request, refusal, serve
from tests.shared.refusals import refused


@contextmanager
def companion(path: Path) -> Iterator[None]:
    """Let another enrolled device take part meanwhile."""

    def contribute() -> None:
        with open_agent(StateFolder(path / "state"), log=lambda _line: None) as agent:
            agent.once()

    thread = threading.Thread(target=contribute, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.timeout(60)
def test_one_process_works_on_two_tasks(tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Aggregator(certificates, 2), Aggregator(certificates, 2)
    with serve(certificates, first) as one, serve(certificates, second) as other:
        for number, pair in enumerate(("ac", "bd")):
            aggregator, url = ((first, one), (second, other))[number]
            for device, name in enumerate(pair):
                enrolled(tmp_path / name, aggregator, url, device)
        states = [str(tmp_path / name / "state") for name in "ab"]
        words = [word for state in states for word in ("--state", state)]
        with companion(tmp_path / "c"), companion(tmp_path / "d"):
            assert main(["run", "--exit-when-done", "--json", *words]) == 0
    printed = capsys.readouterr()
    assert printed.out.count('"version": 1') >= 2
    assert "point: round 1" in printed.err  # lines say whose they are


@pytest.mark.timeout(60)
def test_a_device_that_is_no_longer_accepted_does_not_stop_the_other_task(tmp_path: Path, certificates: Path) -> None:
    first, second = Aggregator(certificates, 2), Aggregator(certificates, 2)

    def revoked(request: Request) -> Answer:
        return refusal(401, "device-revoked") if "check-in" in request.path else first(request)

    lines: list[str] = []
    with (
        serve(certificates, revoked) as one,
        serve(certificates, second) as other,
        ExitStack() as opened,
    ):
        enrolled(tmp_path / "a", first, one)
        enrolled(tmp_path / "b", second, other)
        enrolled(tmp_path / "c", second, other, number=1)
        opened.enter_context(companion(tmp_path / "c"))
        agents = [
            opened.enter_context(open_agent(StateFolder(tmp_path / name / "state"), log=lambda _line: None))
            for name in "ab"
        ]
        with refused("device-revoked", Unauthenticated):
            take_turns(agents, SystemClock(), lines.append, exit_when_done=True)
        assert agents[1].finished
    assert any("device-revoked" in line for line in lines)


class Waiting:
    """An agent that always waits for a minute."""

    ruled_out = None
    finished = False
    task = "point"

    def __init__(self, clock: ManualClock, turns: int) -> None:
        self.clock = clock
        self.left = turns

    def turn(self) -> float:
        """Return how long to wait, and set the clock back by a day on the way."""
        self.left -= 1
        self.finished = not self.left
        self.clock.time_s -= 86_400
        return 60.0


def test_a_clock_that_is_set_back_makes_nobody_wait_for_longer() -> None:
    clock = ManualClock()
    take_turns([Waiting(clock, 5)], clock, lambda _line: None, exit_when_done=True)  # type: ignore[list-item]
    assert clock.slept_s == [60.0] * 4

"""One agent's whole round in this process, on a server without a network: the others act while it waits.

Nothing here takes time or a second thread, so that a round can be repeated for each call that may fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load

from cloud_server.rounds.machine import Phase
from edge_client.agent import Agent, open_agent
from edge_client.enrolment import enrol
from edge_client.identity import Enrolment
from edge_client.state_folder import StateFolder
from shared.plan import Cohort, Deadlines, Plan, Server, Stop, Training, Update
from shared.root import EnrolmentCode
from shared.secagg.floors import DeviceFloors
from tests.cloud_server.local import HOUR_S, URL, Local, LocalPool
from tests.cloud_server.members import Member, one_hot

OTHERS: Final = 2
DIMENSION: Final = 4
OWN: Final = slice(OTHERS, DIMENSION)
EXAMPLE: Final = np.array([0, 0, 0.75, -0.5], np.float32)
UPDATE: Final = 0.5 * EXAMPLE[OWN]  # one batch of equal examples pulls by half the way
_STEPS: Final = {
    Phase.FORMING: "join",
    Phase.SHARING: "share",
    Phase.COLLECTING: "upload",
    Phase.AGREEING: "agree",
    Phase.UNMASKING: "answer",
}


def round_plan(task: str) -> Plan:
    """Return a plan of one round, whose sum is exact, and which a device may leave."""
    return Plan(
        task,
        training=Training(method="fedavg", epochs=1, learning_rate=0.25),
        update=Update(max_l2_norm=1.0, lane_bits=32),
        cohort=Cohort(min_survivors=2, largest=OTHERS + 1, corrupt_share=0.0, dropout_share=0.34),
        deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
        server=Server(combine="sum"),
        stop=Stop(rounds=1),
    )


def write_examples(folder: Path) -> None:
    """Write the device's examples."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = np.tile(EXAMPLE, (6, 1)), np.zeros(6, np.int32)
    np.savez(folder / "examples.npz", x=x, y=y, held_out=np.arange(6) > 3)


@dataclass
class AgentRound:
    """A task's only round.

    Attributes:
        local: the server.
        folder: of the device.
        task: its name.
        lines: that the agent said.
    """

    local: Local
    folder: Path
    task: str
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = round_plan(self.task)
        self.local.create(self.plan, DIMENSION)
        write_examples(self.folder / "examples")
        secrets = self.local.authority.mint(self.task, count=1, valid_s=HOUR_S)
        self.code = EnrolmentCode(URL, self.local.parts.root.fingerprint, secrets[0]).to_text()
        self.members: list[Member] = []
        self._done: dict[int, str] = {}

    # The agent's clock: others act while it waits.
    def now_s(self) -> float:
        """Return the time."""
        return self.local.clock.now_s()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.local.clock.time_s += seconds
        self.others_act()

    @property
    def state(self) -> StateFolder:
        """The device's state."""
        return StateFolder(self.folder / "state")

    def enrol(self) -> Enrolment:
        """Redeem the device's code."""
        return enrol(
            self.code,
            self.state,
            self.folder / "examples",
            floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
            name="",
            clock=self,
            random_bytes=os.urandom,
            jitter=lambda: 0.5,
        )

    def others_meet(self) -> None:
        """Let the others come to the cohort that forms."""
        self.local.settle()
        self.members = self.local.enrol(self.plan, OTHERS)
        self.local.meet(self.members, dimension=DIMENSION)
        for member in self.members:
            member.values = one_hot(member.number, DIMENSION)

    def others_act(self) -> bool:
        """Let the others do what can be done now, and say whether there was something."""
        acted = False
        self.local.settle()
        for member in self.members:
            phase = self.local.rows(f"SELECT phase FROM cohort WHERE id = '{member.cohort}'")[0][0]  # noqa: S608
            step = _STEPS.get(phase)
            if step and self._done.get(member.number) != step:
                member.do(step)
                self._done[member.number] = step
                acted = True
        self.local.settle()
        return acted

    def others_finish(self) -> None:
        """Let the others come to the end of their cohort without the device."""
        while any(phase in _STEPS for (phase,) in self._phases()):
            if not self.others_act():
                self.local.clock.time_s += HOUR_S + 1  # the phase is over

    def _phases(self) -> list[tuple[Any, ...]]:
        return self.local.rows(f"SELECT phase FROM cohort WHERE id = '{self.members[0].cohort}'")  # noqa: S608

    @contextmanager
    def agent(self, on_state: Callable[[str, int], None] = lambda _state, _round: None) -> Iterator[Agent]:
        """Open the agent."""
        with open_agent(
            self.state, log=self.lines.append, on_state=on_state, clock=self, jitter=lambda: 0.5, memory_mib=1000
        ) as agent:
            yield agent

    def acknowledged(self, device: str) -> bool:
        """Say whether the server has the device's vector."""
        query = f"SELECT 1 FROM step WHERE device = '{device}' AND step = 'vector'"  # noqa: S608
        return bool(self.local.rows(query))

    def check_sum(self, *, counted: bool) -> None:
        """See that the sum is exact."""
        assert all(member.counted() for member in self.members)
        theta = load(self.members[0].weights(1))["theta"]
        tolerance = 4 * self.plan.grid(OTHERS + 1).step
        np.testing.assert_allclose(theta[:OTHERS], 1.0, atol=tolerance)
        np.testing.assert_allclose(theta[OWN], UPDATE if counted else 0.0, atol=tolerance)


def without_a_network(local: Local, monkeypatch: Any) -> None:  # noqa: ANN401  # pytest's
    """Let agents in this process find the server there."""
    for name in ("agent.pinned_pool", "authority.pinned_pool", "enrolment.unverified_pool"):
        monkeypatch.setattr(f"edge_client.{name}", lambda *_: LocalPool(local.app))

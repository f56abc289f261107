"""Several tasks on one device: one agent each, with a pseudonym and a state of its own, which take turns.

They share the processor, so one trains at a time; whoever is due first has the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_client.agent import Agent
from shared.clock import Clock
from shared.errors import BrokenState, FedloomError, Refused


def take_turns(agents: Sequence[Agent], clock: Clock, log: Callable[[str], None], *, exit_when_done: bool) -> None:
    """Let agents work for ever, or until each one's task is done and its last version installed.

    One that cannot go on does not keep the others from it; its error is raised when none is left.

    Raises:
        Refused: if the server does not accept a device (any more), or its budget or a plan rules it out.
        BrokenState: if a device's own state is damaged.
    """
    due_s = dict.fromkeys(agents, float("-inf"))
    pause_s = dict.fromkeys(agents, 0.0)
    failed: FedloomError | None = None
    while due_s:
        agent = min(due_s, key=lambda one: due_s[one])
        # A clock that is set back, as when the network tells a board the time, must not make anybody wait for longer.
        if (wait_s := min(due_s[agent] - clock.now_s(), pause_s[agent])) > 0:
            clock.sleep(wait_s)
        try:
            pause_s[agent] = agent.turn()
            due_s[agent] = clock.now_s() + pause_s[agent]
            if exit_when_done and agent.ruled_out is not None:
                raise agent.ruled_out
        except (Refused, BrokenState) as error:
            failed = failed or error
            del due_s[agent]
            if due_s:
                log(f"{agent.task}: {error}")
        else:
            if exit_when_done and agent.finished:
                del due_s[agent]
    if failed is not None:
        raise failed

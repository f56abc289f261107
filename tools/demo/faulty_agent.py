"""An agent that stops dead in one state of one round, so that the demo can kill it exactly there.

Runs in a device's environment; it is the ordinary agent with a hook on its states.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from edge_client.agent import open_agent
from edge_client.state_folder import StateFolder
from edge_client.turns import take_turns
from shared.clock import SystemClock


def main() -> None:
    """Run the agent until it reaches the state, then write the marker and wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the device's state folder")
    parser.add_argument("--stop-in", required=True, help="name of the state, see edge_client/journal.py")
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--marker", type=Path, required=True, help="file to write once there")
    arguments = parser.parse_args()

    def stop(state: str, round_number: int) -> None:
        if state == arguments.stop_in and round_number == arguments.round:
            arguments.marker.write_text(state)
            time.sleep(3600)

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with open_agent(StateFolder(arguments.state), log=log, on_state=stop) as agent:
        take_turns([agent], SystemClock(), log, exit_when_done=True)


if __name__ == "__main__":
    main()

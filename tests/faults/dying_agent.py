"""Agents that die, fail or hang at a place that is named: ``python -m tests.faults.dying_agent``.

It reads one job per line, a JSON object, runs it as a process of its own, and writes a line with the process's number
and another one with how that ended. Agents are forked from this process, so that none has to load everything again.

    {"state": DIR, "log": FILE, "sent": FILE, "place": "joined", "moment": "before", "fault": "kill"}

Without a place the agent is an honest one. What goes into cohorts is noted in ``sent``: path, and hash of the body.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edge_client import cli
from edge_client.agent import Agent
from edge_client.journal import Journal, State
from edge_client.model_store import ModelStore
from edge_client.transport import Transport
from shared.errors import TryLater
from shared.wire.requests import COHORTS

MOMENTS: Final = ("before", "after")
FAULTS: Final = ("kill", "error", "hang")
WAY: Final = tuple(state for state in State if state not in {State.NOT_COUNTED, State.ABANDONED, State.REFUSED})
# Those with a number belong to the version that is installed.
PLACES: Final = (
    "idle",
    "checked-in",
    "downloading-0",
    "verified-0",
    "activated-0",
    *map(str, WAY),
    str(State.ABANDONED),
    "downloading-1",
    "verified-1",
    "activated-1",
)


def main() -> None:
    """Run jobs until there are none left."""
    importlib.import_module("edge_client.commands")  # what `run` needs, once for all
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if not process:
            _child(job)
        _say(process)
        _, ended = os.waitpid(process, 0)
        _say(os.waitstatus_to_exitcode(ended))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _child(job: Mapping[str, Any]) -> None:
    code = 70
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(job.get("environment", {}))
        _note_what_leaves(Path(job["sent"]))
        if "place" in job:
            _plant(job["place"], job["moment"], _fault(job))
        code = cli.main(["run", "--state", job["state"], "--exit-when-done"])
    except BaseException as error:  # noqa: BLE001  # as an interpreter that ends by it
        sys.stderr.write(f"Traceback: {error!r}\n")
        sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)


def _fault(job: Mapping[str, Any]) -> Callable[[], None]:
    def strike() -> None:
        Path(job["state"]).parent.joinpath("struck").touch()
        if job["fault"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if job["fault"] == "error":
            raise RuntimeError("this should not have happened")
        while True:
            time.sleep(1.0)

    return strike


def _plant(place: str, moment: str, strike: Callable[[], None]) -> None:
    if place == State.ABANDONED:
        _give_up_at(State.AGREEING)
    kind, _, version = place.partition("-")
    if place in {"idle", "checked-in"}:
        _around(Agent, "_check_in", lambda *_: True, moment, strike)
    elif version.isdigit():
        method = {"downloading": "_file", "verified": "_keep", "activated": "_activate"}[kind]
        wanted = int(version)
        _around(ModelStore, method, lambda _store, one, *_: getattr(one, "version", one) == wanted, moment, strike)
    elif place == State.TRAINING:
        _around(Journal, "begin", lambda *_: True, moment, strike)
    else:
        _around(Journal, "record", lambda _journal, _entry, state, *_: state == place, moment, strike)


def _around(owner: type, method: str, here: Callable[..., bool], moment: str, strike: Callable[[], None]) -> None:
    """Strike the first time that a method is called with what ``here`` wants."""
    real = getattr(owner, method)
    struck = False

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  # the method's
        nonlocal struck
        strikes, struck = here(*arguments) and not struck, struck or here(*arguments)
        if strikes and moment == "before":
            strike()
        result = real(*arguments, **named)
        if strikes and moment == "after":
            strike()
        return result

    setattr(owner, method, call)


def _give_up_at(state: State) -> None:
    """Let the network fail for good before that message."""
    real = Journal.record

    def record(self: Journal, entry: int, now: State, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        if now is state:
            raise TryLater("no-connection", "The server cannot be reached.")
        real(self, entry, now, *arguments, **named)

    Journal.record = record  # type: ignore[assignment,method-assign]


def _note_what_leaves(path: Path) -> None:
    real = Transport.open

    def call(  # as the real one
        self: Transport,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        **named: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if method == "PUT" and target.startswith(COHORTS):
            line = json.dumps({"target": target, "sha256": hashlib.sha256(body).hexdigest(), "length": len(body)})
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        return real(self, method, target, headers, body, **named)

    Transport.open = call  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

"""The ``fedloom-agent`` command. Data goes to standard output, everything for people in between to standard error."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from edge_client import report
from edge_client.agent import open_agent
from edge_client.enrolment import enrol
from edge_client.identity import LARGEST_PRIVACY_FLOOR, LARGEST_RENEW_KEY_DAYS, RENEW_KEY_DAYS, load_enrolment
from edge_client.state_folder import StateFolder
from edge_client.turns import take_turns
from shared.clock import SystemClock
from shared.errors import FedloomError, TryLater, UsageError
from shared.privacy.charges import PrivacyFloors
from shared.secagg.session import DeviceFloors

_PROGRAM = "fedloom-agent"
_LARGEST_FLOOR = 1000


class _Stopped(BaseException):
    """The process was asked to end."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that usage errors look like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", f"{message[:1].upper()}{message[1:]}.", f"{self.prog} --help")


_LARGEST_DELTA = 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 usage, 3 refused, 4 try later, 1 our fault."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _execute(_parser().parse_args(words))
    except FedloomError as error:
        if "--json" in words:
            print(json.dumps({"error": error.to_json()}))
        else:
            _say(f"{_PROGRAM}: {error}")
        return error.exit_code
    return 0


def _execute(arguments: argparse.Namespace) -> None:
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except ModuleNotFoundError as error:
        raise FedloomError(
            "missing-package",
            f"The Python package {error.name} is not installed here.",
            "pip install --require-hashes -r requirements/edge.txt (or edge-tflite.txt)",
        ) from error
    except (_Stopped, KeyboardInterrupt) as stop:
        if command is not _run:  # which has no other end
            raise TryLater("stopped", "It was stopped before it was done.", "run it again") from stop
        _say("stopped")


def _parser() -> argparse.ArgumentParser:
    about = "Train a shared model on this device's own data."
    parser = _Parser(prog=_PROGRAM, description=about, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        subparser.set_defaults(command=command)
        many = "append" if command is _run else "store"
        subparser.add_argument(
            "--state", type=Path, action=many, required=True, metavar="DIR", help="this device's state"
        )
        subparser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        return subparser

    enrolling = add("enroll", _enroll, "redeem a code; once per device")
    enrolling.add_argument("code", metavar="CODE", help="from the operator")
    enrolling.add_argument("--examples", type=Path, required=True, metavar="DIR", help="folder with examples.npz")
    enrolling.add_argument("--name", default="", help="your name for this device; it stays here")
    enrolling.add_argument(
        "--allow-cohorts-of", type=_floor, metavar="N", help="take part in sums of only N devices (default 10)"
    )
    enrolling.add_argument(
        "--allow-semi-honest",
        action="store_true",
        help="take part where only a server that lies to nobody is withstood",
    )
    enrolling.add_argument(
        "--min-corrupt-share",
        type=_share,
        default=DeviceFloors().min_corrupt_share,
        metavar="G",
        help="refuse plans whose thresholds withstand a smaller share of colluding members than G (0.05; 0 for any)",
    )
    enrolling.add_argument(
        "--min-noise", type=_demand, default=0.0, metavar="Z", help="refuse plans with less noise_multiplier than Z"
    )
    enrolling.add_argument(
        "--max-participations", type=_count, default=0, metavar="N", help="send at most N masked vectors, ever"
    )
    enrolling.add_argument("--max-epsilon", type=_demand, default=0.0, metavar="E", help="reveal at most E, ever")
    enrolling.add_argument(
        "--delta", type=_delta, default=1e-6, metavar="D", help="count epsilon at D, or a plan's smaller delta (1e-6)"
    )
    enrolling.add_argument(
        "--max-clip-norm",
        type=_demand,
        default=1000.0,
        metavar="C",
        help="refuse plans that clip to more than C (1000)",
    )
    enrolling.add_argument(
        "--renew-key-days",
        type=_days,
        default=RENEW_KEY_DAYS,
        metavar="DAYS",
        help=f"renew this device's key by itself once it is so old ({RENEW_KEY_DAYS}; 0 for never)",
    )
    add("once", _once, "contribute once, then exit")
    running = add("run", _run, "contribute to every round; with --state more than once, to several tasks in turn")
    running.add_argument(
        "--exit-when-done", action="store_true", help="exit once the task is done, or rules this device out"
    )
    add("status", _status, "show how this device stands, and why it is not training")
    add("ledger", _ledger, "show what left this device")
    renewing = add("renew", _renew_key, "renew this device's key now, as the agent does by itself from time to time")
    renewing.add_argument("--renew-key-days", type=_days, metavar="DAYS", help="and from now on once it is so old")
    leaving = add("leave", _leave, "delete this device's key and state, and no other file; it cannot be undone")
    leaving.add_argument("--yes", action="store_true", help="do it")
    return parser


def _floor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 2 <= int(text[:9]) <= _LARGEST_FLOOR):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 2 to {_LARGEST_FLOOR}")
    return int(text)


def _demand(text: str) -> float:
    wanted = f"a number above 0 and up to {LARGEST_PRIVACY_FLOOR}"
    return _number(text, lambda value: 0 < value <= LARGEST_PRIVACY_FLOOR, wanted)


def _share(text: str) -> float:
    return _number(text, lambda value: 0 <= value < 1 / 2, "a share from 0 to below 0.5")


def _delta(text: str) -> float:
    return _number(text, lambda value: 0 < value <= _LARGEST_DELTA, f"a number above 0 and up to {_LARGEST_DELTA:g}")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which fits nowhere
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LARGEST_PRIVACY_FLOOR):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {LARGEST_PRIVACY_FLOOR}")
    return int(text)


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= LARGEST_RENEW_KEY_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days up to {LARGEST_RENEW_KEY_DAYS}")
    return int(text)


def _enroll(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _stop)
    floors = DeviceFloors(
        max_l2_norm=arguments.max_clip_norm,
        semi_honest=arguments.allow_semi_honest,
        min_corrupt_share=arguments.min_corrupt_share,
    )
    if arguments.allow_cohorts_of is not None:
        floors = replace(floors, min_survivors=arguments.allow_cohorts_of)
    enrolment = enrol(
        arguments.code,
        StateFolder(arguments.state),
        arguments.examples,
        floors=floors,
        privacy_floors=PrivacyFloors(
            arguments.min_noise, arguments.max_participations, arguments.max_epsilon, arguments.delta
        ),
        name=arguments.name,
        renew_key_days=arguments.renew_key_days,
        clock=SystemClock(),
        random_bytes=os.urandom,
        jitter=random.random,
    )
    if floors.min_survivors < DeviceFloors().min_survivors:
        others = floors.min_survivors - 1
        _say(
            f"Sums of {floors.min_survivors} devices are allowed: together, the other {others} could compute"
            " what this device contributed."
        )
    _say(f"Enrolled in {enrolment.task} as {enrolment.device}.")
    if arguments.json:
        print(json.dumps({"device": enrolment.device, "task": enrolment.task}))


def _once(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _stop)
    with open_agent(StateFolder(arguments.state), log=_say) as agent:
        row = agent.once()
    if row is None:
        _say("The task is done; nothing was contributed.")
    if arguments.json:
        print(json.dumps({"contribution": report.contribution_report(row) if row else None}))


def _renew_key(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _stop)
    with open_agent(StateFolder(arguments.state), log=_say) as agent:
        certificate = agent.renew_key(arguments.renew_key_days)
    if arguments.json:
        print(json.dumps({"device": certificate.device, "serial": certificate.serial}))


def _run(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _stop)
    folders = [StateFolder(path) for path in dict.fromkeys(path.resolve() for path in arguments.state)]
    with ExitStack() as opened:
        agents = [opened.enter_context(open_agent(folder, log=_log_of(folder, folders))) for folder in folders]
        take_turns(agents, SystemClock(), _say, exit_when_done=arguments.exit_when_done)
    if arguments.json:
        for folder in folders:
            print(json.dumps(report.status(folder)))


def _log_of(folder: StateFolder, folders: Sequence[StateFolder]) -> Callable[[str], None]:
    """Return what tells lines of one of several tasks apart."""
    if len(folders) == 1:
        return _say
    task = load_enrolment(folder).task
    return lambda text: _say(f"{task}: {text}")


def _status(arguments: argparse.Namespace) -> None:
    result = report.status(StateFolder(arguments.state))
    print(json.dumps(result) if arguments.json else report.status_text(result))


def _ledger(arguments: argparse.Namespace) -> None:
    result = report.ledger(StateFolder(arguments.state))
    print(json.dumps(result) if arguments.json else report.ledger_text(result))


def _leave(arguments: argparse.Namespace) -> None:
    folder = StateFolder(arguments.state)
    if not (folder.key_file.exists() or folder.enrolment_file.exists()):
        load_enrolment(folder)
    if not arguments.yes:
        raise UsageError("not-confirmed", f"This deletes the key in {folder.path} for good.", "add --yes to do it")
    with folder.lock():
        folder.erase()
    rest = "; other files in it were left alone" if folder.path.exists() else ""
    _say(f"This device's state in {folder.path} is deleted{rest}; the server keeps the contributions that it has.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main())

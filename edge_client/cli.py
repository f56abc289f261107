"""The ``fedloom-agent`` command. Data goes to standard output, everything for people in between to standard error.

What a command does is imported once it is asked for: ``status`` does not wait for NumPy and a runtime.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_client.cli_values import count, days, delta, demand, duration_s, floor, norm, share
from edge_client.identity import RENEW_KEY_DAYS
from edge_client.texts import LANGUAGES
from shared.command_line import CommandParser
from shared.errors import FedloomError, TryLater

_PROGRAM = "fedloom-agent"
_OWNERS = "edge_client.owner_commands"
_AGENTS = "edge_client.commands"
_WITH_SETTINGS = frozenset({"run", "once", "status", "doctor", "config"})
_IN_LANGUAGES = frozenset({"status", "doctor"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 usage, 3 refused, 4 try later, 1 our fault."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _execute(_parser().parse_args(words))
    except FedloomError as error:
        if "--json" in words:
            print(json.dumps({"error": error.to_json()}))
        else:
            _say(f"{_PROGRAM}: {error}")
        return error.exit_code


def _execute(arguments: argparse.Namespace) -> int:
    module, name = arguments.command
    stops: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    try:
        loaded = importlib.import_module(module)
        stops = (getattr(loaded, "Stopped", KeyboardInterrupt), KeyboardInterrupt)
        return getattr(loaded, name)(arguments) or 0
    except ModuleNotFoundError as error:
        raise FedloomError(
            "missing-package",
            f"The Python package {error.name} is not installed here.",
            "pip install --require-hashes -r requirements/edge.txt (or edge-tflite.txt)",
        ) from error
    except stops as stop:
        if name != "run":  # which has no other end
            raise TryLater("stopped", "It was stopped before it was done.", "run it again") from stop
        _say("stopped")
        return 0


def _parser() -> argparse.ArgumentParser:
    about = "Train a shared model on this device's own data."
    parser = CommandParser(prog=_PROGRAM, description=about)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)

    def add(name: str, module: str, text: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(command=(module, name))
        many = "append" if name == "run" else "store"
        subparser.add_argument(
            "--state", type=Path, action=many, required=True, metavar="DIR", help="this device's state"
        )
        subparser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        if name in _WITH_SETTINGS:
            where = "this device's settings (agent.toml in --state)"
            subparser.add_argument("--config", type=Path, metavar="FILE", help=where)
        if name in _IN_LANGUAGES:
            subparser.add_argument("--lang", choices=sorted(LANGUAGES), help="language; else that of LANG, or English")
        return subparser

    enrolling = add("enroll", _AGENTS, "redeem a code; once per device")
    enrolling.add_argument("code", metavar="CODE", help="from the operator")
    enrolling.add_argument("--examples", type=Path, required=True, metavar="DIR", help="folder with examples.npz")
    enrolling.add_argument(
        "--models", type=Path, metavar="DIR", help="keep the released model in DIR, too, for users of DIR's group"
    )
    enrolling.add_argument("--name", default="", help="your name for this device; it stays here")
    _add_demands(enrolling)
    enrolling.add_argument(
        "--renew-key-days",
        type=days,
        default=RENEW_KEY_DAYS,
        metavar="DAYS",
        help=f"renew this device's key by itself once it is so old ({RENEW_KEY_DAYS}; 0 for never)",
    )
    allowing = add("allow", _OWNERS, "change what this device demands of plans; an agent begins with it when it starts")
    _add_demands(allowing)
    add("once", _AGENTS, "contribute once, then exit")
    running = add("run", _AGENTS, "contribute to every round; with --state more than once, to several tasks in turn")
    running.add_argument(
        "--exit-when-done", action="store_true", help="exit once the task is done, or rules this device out"
    )
    running.add_argument(
        "--wait-for-enrolment", action="store_true", help="stay idle while the state has no enrolment, then begin"
    )
    add("status", _OWNERS, "show how this device stands, and why it is not training")
    add("doctor", _OWNERS, "check everything that training needs, and say what is to be done")
    add("ledger", _AGENTS, "show what left this device")
    add("data", _OWNERS, "describe this device's examples, and what is wrong with them")
    configuring = add(
        "config", _OWNERS, "show every setting with its value, unit and origin; or `config set KEY VALUE`"
    )
    configuring.add_argument(
        "change", nargs="*", metavar="set KEY VALUE", help="set one, such as train.hours 22:00-07:00"
    )
    pausing = add("pause", _OWNERS, "train no more, until `pause --off`; a running agent follows within 5 s")
    for_or_off = pausing.add_mutually_exclusive_group()
    for_or_off.add_argument("--for", type=duration_s, dest="duration_s", metavar="TIME", help="for 45m, 2h or 3d only")
    for_or_off.add_argument("--off", action="store_true", help="go on")
    pausing.add_argument(
        "--drop-update", action="store_true", help="and destroy a trained update that waits for a cohort"
    )
    renewing = add("renew", _AGENTS, "renew this device's key now, as the agent does by itself from time to time")
    renewing.add_argument("--renew-key-days", type=days, metavar="DAYS", help="and from now on once it is so old")
    resetting = add(
        "reset", _OWNERS, "forget downloaded models, which are fetched again; key, journal and settings stay"
    )
    resetting.add_argument("--yes", action="store_true", help="do it")
    leaving = add(
        "leave", _AGENTS, "have this device revoked, and delete its key and state, no other file; it cannot be undone"
    )
    leaving.add_argument("--yes", action="store_true", help="do it")
    leaving.add_argument(
        "--prepare", action="store_true", help="delete nothing: write down what `apt purge` tells the server later"
    )
    return parser


def _add_demands(parser: argparse.ArgumentParser) -> None:
    """Add what owners demand of plans, whatever these say; what is not given stays as it is, at first the default."""
    parser.add_argument(
        "--allow-cohorts-of", type=floor, metavar="N", help="take part in sums of only N devices (default 10)"
    )
    parser.add_argument(
        "--allow-semi-honest",
        action=argparse.BooleanOptionalAction,
        help="take part where only a server that lies to nobody is withstood",
    )
    parser.add_argument(
        "--min-corrupt-share",
        type=share,
        metavar="G",
        help="refuse plans whose thresholds withstand a smaller share of colluding members than G (0.05; 0 for any)",
    )
    parser.add_argument("--min-noise", type=demand, metavar="Z", help="refuse plans with less noise_multiplier than Z")
    parser.add_argument("--max-participations", type=count, metavar="N", help="send at most N masked vectors, ever")
    parser.add_argument("--max-epsilon", type=demand, metavar="E", help="reveal at most E, ever")
    parser.add_argument("--delta", type=delta, metavar="D", help="count epsilon at D, or a plan's smaller delta (1e-6)")
    parser.add_argument("--max-clip-norm", type=norm, metavar="C", help="refuse plans that clip to more than C (1000)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

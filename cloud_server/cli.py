"""The command ``fedloom-server``: for people tables, for programs ``--json``, errors with a way out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from cloud_server.authority_cli import add_authority, add_certify, certify_key, serve_authority
from cloud_server.blobs_cli import add_blobs
from cloud_server.code_cli import add_codes
from cloud_server.database_cli import add_database
from cloud_server.device_cli import change_device, list_devices, show_device
from cloud_server.devices import State
from cloud_server.models_cli import add_models
from cloud_server.operator_cli import add_operators, add_tokens
from cloud_server.parameters import add_parameters, show_parameters
from cloud_server.serve_cli import add_driver, add_serve, drive, serve
from cloud_server.spoken import require_texts
from cloud_server.storage.failures import failure_of
from cloud_server.tables import described, plain, plain_lines
from cloud_server.task_cli import add_audit, add_privacy, add_tasks
from shared.command_line import CommandParser
from shared.errors import FedloomError, TryLater
from shared.wire.canonical import Json

Command = Callable[[argparse.Namespace], Json]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(0o077)  # databases, uploads and logs are the operator's alone
    try:
        arguments = command_line().parse_args(words)
        require_texts(vars(arguments))
        result = _run(arguments)
    except FedloomError as error:
        if "--json" in words:
            print(json.dumps({"error": error.to_json()}))
        else:
            print(f"fedloom-server: {plain(error.message)}", file=sys.stderr)
            if error.remedy:
                print(f"  try: {plain(error.remedy)}", file=sys.stderr)
            print(f"  code: {error.code}", file=sys.stderr)
        return error.exit_code
    if isinstance(result, int) and not isinstance(result, bool):
        return result
    if getattr(arguments, "json", False):
        print(json.dumps(result))
    else:
        print(plain_lines(result) if isinstance(result, str) else described(result))
    return 0


def _run(arguments: argparse.Namespace) -> Json:
    try:
        result: Json = arguments.run(arguments)
    except ModuleNotFoundError as error:
        raise FedloomError(
            "missing-package",
            f"The Python package {error.name} is not installed here.",
            "pip install --require-hashes -r requirements/server.txt, and requirements/scale.txt for object stores",
        ) from error
    except (OSError, DBAPIError) as error:
        file = f", at {error.filename}" if isinstance(error, OSError) and error.filename else ""
        raise TryLater(
            "storage-unavailable", f"The command broke off: {failure_of(error)}{file}.", "mend it and run it again"
        ) from error
    return result


def command_line() -> argparse.ArgumentParser:
    """Return every command with its options."""
    parser = CommandParser(prog="fedloom-server", description="The Fedloom aggregator.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve(_add(commands, "serve", "run the aggregator", serve, json_option=False))
    add_authority(
        _add(commands, "authority", "run the enrolment authority by itself", serve_authority, json_option=False)
    )
    add_certify(_add(commands, "certify", "at an authority: certify its aggregator's next release key", certify_key))
    add_driver(_add(commands, "driver", "run only the driver (serve starts one by itself)", drive, json_option=False))
    task = commands.add_parser("task", help="tasks and their rounds").add_subparsers(required=True, metavar="VERB")
    add_tasks(lambda name, text, run: _add(task, name, text, run))
    code = commands.add_parser("code", help="enrolment codes").add_subparsers(required=True, metavar="VERB")
    add_codes(lambda name, text, run: _add(code, name, text, run))
    _add_devices(commands)
    operator = commands.add_parser("operator", help="who may sign in to the page")
    accounts = operator.add_subparsers(required=True, metavar="VERB")
    add_operators(lambda name, text, run: _add(accounts, name, text, run))
    token = accounts.add_parser("token", help="tokens of programs").add_subparsers(required=True, metavar="VERB")
    add_tokens(lambda name, text, run: _add(token, name, text, run))
    auditing = commands.add_parser("audit", help="what operators and drivers did")
    entries = auditing.add_subparsers(required=True, metavar="VERB")
    add_audit(lambda name, text, run: _add(entries, name, text, run))
    privacy = commands.add_parser("privacy", help="privacy budgets").add_subparsers(required=True, metavar="VERB")
    add_privacy(lambda name, text, run: _add(privacy, name, text, run))
    db = commands.add_parser("db", help="the database: upgrade, check, backup, restore")
    verbs = db.add_subparsers(required=True, metavar="VERB")
    add_database(lambda name, text, run: _add(verbs, name, text, run))
    blobs = commands.add_parser("blobs", help="where files of releases are kept")
    stores = blobs.add_subparsers(required=True, metavar="VERB")
    add_blobs(lambda name, text, run: _add(stores, name, text, run))
    model = commands.add_parser("model", help="versions and releases").add_subparsers(required=True, metavar="VERB")
    add_models(lambda name, text, run: _add(model, name, text, run))
    add_parameters(_add(commands, "parameters", "show k and t for a cohort", show_parameters, data_option=False))
    return parser


def _add_devices(commands: argparse._SubParsersAction[CommandParser]) -> None:
    device = commands.add_parser("device", help="enrolled devices").add_subparsers(required=True, metavar="VERB")
    _add(device, "list", "list the devices, when they were seen and what they use", list_devices)
    one = _add(device, "show", "show a device and the keys that it had", show_device)
    one.add_argument("device")
    verbs_of_states: tuple[tuple[str, str, State], ...] = (
        ("revoke", "let a device take part no more, for good", "revoked"),
        ("quarantine", "let a device take part no more for now", "quarantined"),
        ("reinstate", "let a quarantined device take part again", "active"),
    )
    for verb, text, state in verbs_of_states:
        changing = _add(device, verb, text, partial(change_device, state=state))
        changing.add_argument("device")
        changing.add_argument("--reason", default="", help="for the audit log")


def _add(
    commands: argparse._SubParsersAction[CommandParser],
    name: str,
    help_text: str,
    run: Command,
    *,
    json_option: bool = True,
    data_option: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    if data_option:
        parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the aggregator's folder")
    if json_option:
        parser.add_argument("--json", action="store_true", help="print one JSON value on standard output")
    parser.set_defaults(run=run)
    return parser

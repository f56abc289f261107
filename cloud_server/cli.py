"""The command ``fedloom-server``: for people tables, for programs ``--json``, errors with a way out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from sqlalchemy.exc import DBAPIError

from cloud_server import audit
from cloud_server.app import open_existing
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.authority_cli import add_authority, is_authority, mint_at_authority, serve_authority
from cloud_server.blobs_cli import add_blobs
from cloud_server.cautions import cautions
from cloud_server.codes import make_codes
from cloud_server.database_cli import add_database
from cloud_server.device_cli import change_device, list_devices, show_device
from cloud_server.devices import State
from cloud_server.durations import seconds_of
from cloud_server.listening import read_text
from cloud_server.models_cli import add_models
from cloud_server.operator_cli import add_operators, add_tokens
from cloud_server.operators.accounts import AT_THE_MACHINE, By
from cloud_server.parameters import add_parameters, show_parameters
from cloud_server.privacy import paid_cohorts, privacy_report
from cloud_server.releases.keys import newest_key
from cloud_server.rounds.rounds import list_rounds
from cloud_server.serve_cli import add_driver, add_serve, drive, serve
from cloud_server.settings import DataFolder
from cloud_server.storage.failures import failure_of
from cloud_server.storage.opening import open_blobs, open_database
from cloud_server.stored_numbers import stored_number
from cloud_server.tasks import (
    create_task,
    load_task,
    newest_version,
    task_names,
)
from shared.bundle import read_bundle
from shared.clock import SystemClock
from shared.errors import FedloomError, TryLater, UsageError
from shared.layout import Layout
from shared.plan import Plan
from shared.root import EnrolmentCode
from shared.wire.canonical import Json, decode

Command = Callable[[argparse.Namespace], Json]


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that usage errors look like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", f"{message[:1].upper()}{message[1:]}.", f"{self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(0o077)  # databases, uploads and logs are the operator's alone
    try:
        arguments = command_line().parse_args(words)
        result = _run(arguments)
    except FedloomError as error:
        if "--json" in words:
            print(json.dumps({"error": error.to_json()}))
        else:
            print(f"fedloom-server: {error.message}", file=sys.stderr)
            if error.remedy:
                print(f"  try: {error.remedy}", file=sys.stderr)
            print(f"  code: {error.code}", file=sys.stderr)
        return error.exit_code
    if isinstance(result, int) and not isinstance(result, bool):
        return result
    if getattr(arguments, "json", False):
        print(json.dumps(result))
    elif isinstance(result, str):
        print(result)
    else:
        print(_for_people(result))
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
    parser = _Parser(prog="fedloom-server", description="The Fedloom aggregator.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve(_add(commands, "serve", "run the aggregator", serve, json_option=False))
    add_authority(
        _add(commands, "authority", "run the enrolment authority by itself", serve_authority, json_option=False)
    )
    add_driver(_add(commands, "driver", "run only the driver (serve starts one by itself)", drive, json_option=False))
    _add_task(commands)
    code = commands.add_parser("code", help="enrolment codes").add_subparsers(required=True, metavar="VERB")
    create = _add(code, "create", "make one-time enrolment codes", _code_create)
    create.add_argument("--task", required=True)
    create.add_argument("--count", type=int, default=1)
    create.add_argument("--expires", default="24h", help="like 30m, 24h or 7d")
    create.add_argument("--group", default="", help="that the devices will belong to; plans choose by it")
    create.add_argument("--url", help="the aggregator's address for devices, if serve has never run here")
    create.add_argument(
        "--root", type=Path, metavar="FILE", help="in an authority's folder: its aggregator's root.json"
    )
    operator = commands.add_parser("operator", help="who may sign in to the page")
    accounts = operator.add_subparsers(required=True, metavar="VERB")
    add_operators(lambda name, text, run: _add(accounts, name, text, run))
    token = accounts.add_parser("token", help="tokens of programs").add_subparsers(required=True, metavar="VERB")
    add_tokens(lambda name, text, run: _add(token, name, text, run))
    add_parameters(_add(commands, "parameters", "show k and t for a cohort", show_parameters, data_option=False))
    return parser


def _add_task(commands: argparse._SubParsersAction[_Parser]) -> None:
    task = commands.add_parser("task", help="tasks and their rounds").add_subparsers(required=True, metavar="VERB")
    create = _add(task, "create", "make a task from a bundle and a plan", _task_create)
    create.add_argument("--bundle", type=Path, required=True)
    create.add_argument("--plan", type=Path, required=True, help="TOML file")
    _add(task, "list", "list the tasks", _task_list)
    show = _add(task, "show", "show a task and its rounds", _task_show)
    show.add_argument("task")
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
    auditing = commands.add_parser("audit", help="what operators and drivers did")
    listing = _add(auditing.add_subparsers(required=True, metavar="VERB"), "list", "list the audit log", _audit_list)
    listing.add_argument("--after", type=stored_number, default=0, metavar="N", help="only entries after number N")
    privacy = commands.add_parser("privacy", help="privacy budgets").add_subparsers(required=True, metavar="VERB")
    budget = _add(privacy, "show", "show a task's privacy budget and what was spent of it", _privacy_show)
    budget.add_argument("task")
    db = commands.add_parser("db", help="the database: upgrade, check, backup, restore")
    verbs = db.add_subparsers(required=True, metavar="VERB")
    add_database(lambda name, text, run: _add(verbs, name, text, run))
    blobs = commands.add_parser("blobs", help="where files of releases are kept")
    stores = blobs.add_subparsers(required=True, metavar="VERB")
    add_blobs(lambda name, text, run: _add(stores, name, text, run))
    model = commands.add_parser("model", help="versions and releases").add_subparsers(required=True, metavar="VERB")
    add_models(lambda name, text, run: _add(model, name, text, run))


def _add(
    commands: argparse._SubParsersAction[_Parser],
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


def _for_people(value: Json, indent: str = "") -> str:
    if isinstance(value, dict):
        return "\n".join(
            f"{indent}{key}:\n{_for_people(item, indent + '  ')}"
            if isinstance(item, dict | list) and item
            else f"{indent}{key}: {item if item not in ({}, []) else '-'}"
            for key, item in value.items()
        )
    if isinstance(value, list):
        return "\n".join(
            indent + ", ".join(f"{key} {item}" for key, item in entry.items() if item not in (None, ""))
            if isinstance(entry, dict)
            else f"{indent}{entry}"
            for entry in value
        )
    return f"{indent}{value}"


def _task_create(arguments: argparse.Namespace) -> Json:
    if not arguments.plan.is_file():
        raise UsageError("no-plan", f"{arguments.plan} is not a file.", "give the plan's TOML file")
    plan = Plan.from_toml(read_text(arguments.plan, "utf-8", "bad-plan", "the plan as UTF-8 text"))
    bundle = read_bundle(arguments.bundle)
    folder = DataFolder.open(arguments.data)
    # Not the whole context: TLS files are made by the first serve, which knows the host name.
    database = open_database(folder, keep_connections=False)
    with database.write() as connection:
        key = newest_key(folder, connection)
        create_task(connection, open_blobs(folder), bundle, plan, key, SystemClock().now_s())
    with database.read() as connection:
        Anchor(folder.path / ANCHOR_FILE).extend(connection)
    notes = cautions(plan, paid_cohorts(plan, Layout.of(bundle.manifest.tensors)))
    if not arguments.json:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return {"task": plan.task, "notes": [*notes]} if arguments.json else f"task: {plan.task}"


def _task_list(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        return {"tasks": list(task_names(connection))}


def _task_show(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        task = load_task(connection, arguments.task)
        return {
            "task": task.name,
            "state": task.state,
            "reason": task.reason,
            "version": newest_version(connection, task.name),
            "plan": decode(task.plan.to_bytes()),
            "rounds": list(list_rounds(connection, task.name)),
        }


def _audit_list(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        return {"entries": list(audit.entries(connection, after=arguments.after))}


def _privacy_show(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        return privacy_report(connection, load_task(connection, arguments.task).plan)


def _code_create(arguments: argparse.Namespace) -> Json:
    valid_s = seconds_of(arguments.expires, "--expires")
    if is_authority(arguments.data):
        secrets, url, root = mint_at_authority(arguments, valid_s)
        codes = [EnrolmentCode(url, root.fingerprint, secret).to_text() for secret in secrets]
    else:
        parts = open_existing(arguments.data)
        codes = make_codes(
            parts,
            arguments.task,
            By(AT_THE_MACHINE, parts.clock.now_s()),
            count=arguments.count,
            valid_s=valid_s,
            group=arguments.group,
            url=arguments.url,
        )
    return {"codes": [*codes]} if arguments.json else "\n".join(codes)

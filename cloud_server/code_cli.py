"""``fedloom-server code``: enrolment codes, made, listed and taken back, here or in an authority's own folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cloud_server import codes
from cloud_server.app import open_existing
from cloud_server.authority import codes as authority_codes
from cloud_server.authority.codes import CODE_STATES
from cloud_server.authority.registry import Authority
from cloud_server.authority_cli import is_authority, mint_at_authority
from cloud_server.cautions import enrolment_options
from cloud_server.durations import seconds_of
from cloud_server.operators.accounts import AT_THE_MACHINE, By
from cloud_server.tables import nothing, since, table, when, word
from cloud_server.tasks import load_task
from shared.clock import SystemClock
from shared.root import EnrolmentCode
from shared.wire.canonical import Json

Add = Callable[[str, str, Callable[[argparse.Namespace], Json]], argparse.ArgumentParser]


def add_codes(add: Add) -> None:
    """Declare the verbs; ``add`` makes a parser of a name, a sentence and what runs it."""
    create = add("create", "make one-time enrolment codes", _create)
    create.add_argument("--task", required=True)
    create.add_argument("--count", type=int, default=1)
    create.add_argument("--expires", default="24h", help="like 30m, 24h or 7d")
    create.add_argument("--group", default="", help="that the devices will belong to; plans choose by it")
    create.add_argument("--url", help="the aggregator's address for devices, if not the one that serve had last")
    create.add_argument(
        "--root", type=Path, metavar="FILE", help="in an authority's folder: its aggregator's root.json"
    )
    listing = add("list", "list the codes and how each stands; a code itself is never shown again", _list)
    listing.add_argument("--task", default="", help="only this task's")
    listing.add_argument(
        "--state", default="", choices=("", *CODE_STATES), metavar="STATE", help=", ".join(CODE_STATES)
    )
    add("revoke", "let a code be good for nothing any more", _revoke).add_argument("code", metavar="ID")


def _create(arguments: argparse.Namespace) -> Json:
    valid_s = seconds_of(arguments.expires, "--expires")
    if is_authority(arguments.data):
        secrets, url, root = mint_at_authority(arguments, valid_s)
        made = [EnrolmentCode(url, root.fingerprint, secret).to_text() for secret in secrets]
        options = ""
    else:
        parts = open_existing(arguments.data)
        with parts.database.read() as connection:
            options = enrolment_options(load_task(connection, arguments.task).plan)
        made = codes.make_codes(
            parts,
            arguments.task,
            By(AT_THE_MACHINE, parts.clock.now_s()),
            count=arguments.count,
            valid_s=valid_s,
            group=arguments.group,
            url=arguments.url,
        )
    read = [EnrolmentCode.from_text(text) for text in made]
    ids = [authority_codes.id_of_code(one) for one in read]
    if arguments.json:
        return {"codes": [*made], "ids": [*ids]}
    names = ", ".join(ids)
    if options:
        print(f"owners who agree with the plan enrol with {options}; other devices decline its rounds", file=sys.stderr)
    print(
        f"each code enrols one device at {read[0].url}, once; to list or revoke they are called {names}",
        file=sys.stderr,
    )
    return "\n".join(made)


def _list(arguments: argparse.Namespace) -> Json:
    now_s = SystemClock().now_s()
    if is_authority(arguments.data):
        with _authority(arguments.data).database.read() as connection:
            found = authority_codes.list_codes(connection, now_s, task=arguments.task, state=arguments.state)
    else:
        parts = open_existing(arguments.data)
        if arguments.task:
            with parts.database.read() as connection:
                load_task(connection, arguments.task)  # its name may be mistyped
        found = codes.list_codes(parts, task=arguments.task, state=arguments.state)
    return {"codes": [*found]} if arguments.json else _text(found, arguments, now_s)


def _text(found: list[dict[str, Json]], arguments: argparse.Namespace, now_s: float) -> str:
    if not found:
        what = "No code is like that." if arguments.task or arguments.state else "No code was made yet."
        return nothing(what, f"fedloom-server code create --task TASK --data {arguments.data}")
    rows = [
        (
            *(word(one[name]) for name in ("id", "task", "group", "state")),
            when(one["created_s"]),
            since(one["expires_s"], now_s),
            word(one["device"]),
        )
        for one in found
    ]
    return table(("id", "task", "group", "state", "created", "expires", "device"), rows)


def _revoke(arguments: argparse.Namespace) -> Json:
    if is_authority(arguments.data):
        with _authority(arguments.data).database.write() as connection:
            authority_codes.revoke_code(connection, arguments.code, SystemClock().now_s())
    else:
        parts = open_existing(arguments.data)
        codes.revoke_code(parts, arguments.code, By(AT_THE_MACHINE, parts.clock.now_s()))
    return {"code": arguments.code, "state": "revoked"}


def _authority(folder: Path) -> Authority:
    return Authority(folder.resolve(), SystemClock(), os.urandom)

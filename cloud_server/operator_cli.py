"""``fedloom-server operator``: who may sign in to the page, and the tokens of programs."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, select

from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.durations import seconds_of
from cloud_server.operators import accounts, sessions, tokens
from cloud_server.operators.accounts import AT_THE_MACHINE, By
from cloud_server.operators.roles import ROLES
from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_database
from cloud_server.storage.schema import setting
from cloud_server.tables import nothing, plain, since, table, when, word, yes_or_no
from shared.clock import SystemClock
from shared.errors import UsageError
from shared.limits import MAX_PASSWORD_CHARACTERS
from shared.wire.canonical import Json

_PAGE: Final = "/console"
Command = Callable[[argparse.Namespace], Json]
Add = Callable[[str, str, Command], argparse.ArgumentParser]


def add_operators(add: Add) -> None:
    """Declare the commands of accounts; ``add`` makes one."""
    adding = add("add", "let somebody sign in; the password is asked for, or read from standard input", _add)
    adding.add_argument("name")
    adding.add_argument("--role", choices=ROLES, default="viewer", help="what they may do (default %(default)s)")
    adding.add_argument(
        "--no-password", action="store_true", help="for who signs in through a proxy, or whose programs have tokens"
    )
    add("list", "list who may sign in", _list)
    add("remove", "remove an account with its sessions and tokens", _remove).add_argument("name")
    changing = add("set-role", "change what somebody may do", _set_role)
    changing.add_argument("name")
    changing.add_argument("role", choices=ROLES)
    add("set-password", "set a password anew, and end the sessions", _set_password).add_argument("name")


def add_tokens(add: Add) -> None:
    """Declare the commands of tokens; ``add`` makes one."""
    creating = add("create", "make a token for a program; it is shown once", _token_create)
    creating.add_argument("operator", metavar="NAME", help="for whom it acts")
    creating.add_argument("--role", choices=ROLES, default="viewer", help="what it may do (default %(default)s)")
    creating.add_argument("--expires", default="90d", help="like 12h or 90d (default %(default)s)")
    creating.add_argument("--label", default="", help="what it is for")
    add("list", "list the tokens", _token_list)
    add("revoke", "let a token be good for nothing any more", _token_revoke).add_argument("token")


@contextmanager
def _writing(arguments: argparse.Namespace) -> Iterator[tuple[Connection, By]]:
    """Run a transaction whose audit entries are anchored afterwards."""
    folder = DataFolder.existing(arguments.data)
    database = open_database(folder, keep_connections=False)
    with database.write() as connection:
        yield connection, By(AT_THE_MACHINE, SystemClock().now_s())
    with database.read() as connection:
        Anchor(folder.path / ANCHOR_FILE).extend(connection)


@contextmanager
def _reading(arguments: argparse.Namespace) -> Iterator[Connection]:
    with open_database(DataFolder.existing(arguments.data), keep_connections=False).read() as connection:
        yield connection


def _password() -> str:
    """Ask for a password, or read the line that is piped in: a command line is everybody's to see."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(4 * MAX_PASSWORD_CHARACTERS).rstrip("\r\n")
    first = getpass.getpass("password: ")
    if getpass.getpass("once more: ") != first:
        raise UsageError("bad-password", "The two passwords differ.", "try again")
    return first


def _add(arguments: argparse.Namespace) -> Json:
    password = None if arguments.no_password else _password()
    with _writing(arguments) as (connection, by):
        accounts.add_operator(connection, arguments.name, arguments.role, password, by)
        address = connection.execute(select(setting.c.value).where(setting.c.name == "url")).scalar_one_or_none()
    if not arguments.json:
        where = f"at {address}{_PAGE}" if address else f"at {_PAGE} of the address that `fedloom-server serve` prints"
        how = "through the proxy" if password is None else "with this name and password"
        print(f"sign in {how} {plain(where)}; Overview there says what to do next", file=sys.stderr)
    return {"operator": arguments.name, "role": arguments.role}


def _list(arguments: argparse.Namespace) -> Json:
    with _reading(arguments) as connection:
        found = accounts.list_operators(connection)
    if arguments.json:
        return {"operators": [*found]}
    if not found:
        command = f"fedloom-server operator add NAME --role admin --data {arguments.data}"
        return nothing("Nobody can sign in to the page yet.", command)
    rows = [
        (word(one["name"]), word(one["role"]), yes_or_no(one["password"]), word(one["tokens"]), when(one["created_s"]))
        for one in found
    ]
    return table(("name", "role", "password", "tokens", "created"), rows)


def _remove(arguments: argparse.Namespace) -> Json:
    with _writing(arguments) as (connection, by):
        accounts.remove_operator(connection, arguments.name, by)
    return {"operator": arguments.name, "removed": True}


def _set_role(arguments: argparse.Namespace) -> Json:
    with _writing(arguments) as (connection, by):
        accounts.set_role(connection, arguments.name, arguments.role, by)
    return {"operator": arguments.name, "role": arguments.role}


def _set_password(arguments: argparse.Namespace) -> Json:
    password = _password()
    with _writing(arguments) as (connection, by):
        accounts.set_password(connection, arguments.name, password, by)
        sessions.forget_attempts(connection, arguments.name)
    return {"operator": arguments.name, "password_set": True}


def _token_create(arguments: argparse.Namespace) -> Json:
    valid_s = seconds_of(arguments.expires, "--expires")
    with _writing(arguments) as (connection, by):
        text = tokens.create_token(
            connection,
            arguments.operator,
            arguments.role,
            arguments.label,
            valid_s,
            by,
            random_bytes=os.urandom,
        )
    return {"token": text} if arguments.json else text


def _token_list(arguments: argparse.Namespace) -> Json:
    with _reading(arguments) as connection:
        found = tokens.list_tokens(connection)
    if arguments.json:
        return {"tokens": [*found]}
    if not found:
        return nothing("No program has a token.", f"fedloom-server operator token create NAME --data {arguments.data}")
    now_s = SystemClock().now_s()
    rows = [
        (
            *(word(one[name]) for name in ("id", "operator", "role", "label")),
            when(one["created_s"]),
            since(one["expires_s"], now_s),
            when(one["revoked_s"]),
        )
        for one in found
    ]
    return table(("token", "operator", "role", "label", "created", "expires", "revoked"), rows)


def _token_revoke(arguments: argparse.Namespace) -> Json:
    with _writing(arguments) as (connection, by):
        tokens.revoke_token(connection, arguments.token, by)
    return {"token": arguments.token, "revoked": True}

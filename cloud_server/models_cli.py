"""``fedloom-server model``: versions, what devices use of them, and their files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from cloud_server.api.context import Context
from cloud_server.app import open_existing
from cloud_server.authority.registry import Authority
from cloud_server.authority.release_keys import CERTIFIED, REQUEST
from cloud_server.listening import read_text
from cloud_server.models_text import release_text, versions_text
from cloud_server.progress import progress
from cloud_server.releases import actions
from cloud_server.releases.card import card_text, model_card
from cloud_server.releases.catalogue import FORMS, SUFFIXES, file_in_form, list_versions, release_report
from cloud_server.releases.gate import Rule, parse_stages
from cloud_server.releases.importing import import_weights
from cloud_server.releases.keys import adopt, next_key, rotate, signing_key
from cloud_server.releases.state import ReleaseState
from cloud_server.settings import AUTHORITY_KEY_FILE, load_or_create_key
from cloud_server.stored_numbers import stored_number
from cloud_server.tables import bytes_of, facts
from cloud_server.tasks import file_of_release, load_task, newest_version, release_of
from shared.errors import UsageError
from shared.limits import MAX_BLOB_BYTES
from shared.release import RELEASE_FILE, SIGNATURE_FILE, key_id
from shared.release_key import request_release_key
from shared.wire.canonical import Json, decode
from shared.wire.messages import read_signed, write_signed
from shared.wire.signed import SigningKey

Add = Callable[[str, str, Callable[[argparse.Namespace], Json]], argparse.ArgumentParser]
OPERATOR = "operator"
_RULE = Rule()


def add_models(add: Add) -> None:
    """Declare the verbs; ``add`` makes a parser of a name, a sentence and what runs it."""
    _of_task(add("list", "list a task's versions", _list))
    _of_task(add("show", "show what a task's devices use, and how that came about", _show))
    _changing(add("hold", "let devices stay with today's newest version until one is promoted", _plainly(actions.hold)))
    promote = _changing(add("promote", "release a version, in stages with a gate", _promote), version=True)
    promote.add_argument("--stages", type=_stages, default=_RULE.shares, help="shares of the devices (1%%,10%%,100%%)")
    promote.add_argument("--wait", action="store_true", help="wait for `proceed` after each stage that passed")
    promote.add_argument("--tolerance", type=float, default=_RULE.tolerance, help="drop that is accepted (0.01)")
    promote.add_argument(
        "--largest-drop", type=float, default=_RULE.largest_drop, help="never accepted, however few measured (0.1)"
    )
    _changing(add("proceed", "let a promotion that waits go on", _plainly(actions.proceed)))
    _changing(add("pin", "let all devices use a version, whatever is promoted", _pin), version=True, reason=True)
    _changing(add("unpin", "let devices use what is released again", _plainly(actions.unpin)))
    _changing(add("roll-back", "let devices use the previous release again", _roll_back), reason=True)
    importing = _changing(add("import", "publish weights from elsewhere as the next version", _import))
    importing.add_argument("--weights", type=Path, required=True, metavar="FILE", help="safetensors, by tensor path")
    rotating = add(
        "rotate-key", "replace the key that signs versions and releases; with every process stopped", _rotate_key
    )
    rotating.add_argument("--certified", type=Path, metavar="FILE", help="what an authority elsewhere handed back")
    download = _of_task(add("download", "write a version as one file", _download), version=True)
    download.add_argument("--as", dest="form", choices=FORMS, default="float")
    download.add_argument("--out", type=Path, help="default: TASK-VERSION with the form's suffix")
    card = _of_task(add("card", "print a version's model card, as Markdown or JSON", _card), version=True)
    card.add_argument("--out", type=Path, help="write it there instead")
    export = _of_task(add("export", "write a version's files into a folder", _export), version=True)
    export.add_argument("--out", type=Path, required=True)


def _of_task(parser: argparse.ArgumentParser, *, version: bool = False) -> argparse.ArgumentParser:
    parser.add_argument("task")
    if version:
        parser.add_argument("--version", type=stored_number, help="default: the newest")
    return parser


def _changing(
    parser: argparse.ArgumentParser, *, version: bool = False, reason: bool = False
) -> argparse.ArgumentParser:
    parser.add_argument("task")
    if version:
        parser.add_argument("version", type=stored_number)
    if reason:
        parser.add_argument("--reason", default="", help="for the audit log")
    parser.add_argument(
        "--revision", type=stored_number, help="that `model show` told; somebody else's change since then is a conflict"
    )
    return parser


def _stages(text: str) -> tuple[float, ...]:
    try:
        return parse_stages(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message} {error.remedy}") from error


def _signing_key(parts: Context, connection: Connection) -> SigningKey:
    return signing_key(parts.folder, connection, parts.authority.public_key)


def _list(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        versions = list_versions(connection, arguments.task, parts.clock.now_s())
    if arguments.json:
        return {"task": arguments.task, "versions": [dict(one) for one in versions]}
    return versions_text(versions)


def _show(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    if not arguments.json:
        return _shown(parts, arguments)
    with parts.database.read() as connection:
        return release_report(connection, arguments.task)


def _shown(parts: Context, arguments: argparse.Namespace) -> str:
    with parts.database.read() as connection:
        report = release_report(connection, arguments.task)
        return release_text(report, newest_version(connection, arguments.task), arguments.data)


def _change(arguments: argparse.Namespace, change: Callable[[Connection, Context], ReleaseState]) -> Json:
    parts = open_existing(arguments.data)
    with parts.recorded() as connection:
        state = change(connection, parts)
    if arguments.json:
        return {"task": state.task, "revision": state.revision, "released": state.released, "pinned": state.pinned}
    return _shown(parts, arguments)


def _plainly(
    action: Callable[..., ReleaseState],
) -> Callable[[argparse.Namespace], Json]:
    """Return what runs an action that needs no more than a task."""
    return lambda arguments: _change(
        arguments,
        lambda connection, parts: action(
            connection, OPERATOR, arguments.revision, arguments.task, now_s=parts.clock.now_s()
        ),
    )


def _promote(arguments: argparse.Namespace) -> Json:
    rule = Rule(arguments.stages, not arguments.wait, arguments.tolerance, arguments.largest_drop)

    def promote(connection: Connection, parts: Context) -> ReleaseState:
        key, now_s = _signing_key(parts, connection).public, parts.clock.now_s()
        state = actions.promote(
            connection,
            OPERATOR,
            arguments.revision,
            arguments.task,
            arguments.version,
            rule,
            release_key=key,
            now_s=now_s,
        )
        if arguments.version < (newest := newest_version(connection, state.task)) and not arguments.json:
            print(f"note: version {arguments.version} is not the newest one, which is {newest}", file=sys.stderr)
        return state

    return _change(arguments, promote)


def _pin(arguments: argparse.Namespace) -> Json:
    return _change(
        arguments,
        lambda connection, parts: actions.pin(
            connection,
            OPERATOR,
            arguments.revision,
            arguments.task,
            arguments.version,
            release_key=_signing_key(parts, connection).public,
            reason=arguments.reason,
            now_s=parts.clock.now_s(),
        ),
    )


def _roll_back(arguments: argparse.Namespace) -> Json:
    return _change(
        arguments,
        lambda connection, parts: actions.roll_back(
            connection,
            OPERATOR,
            arguments.revision,
            arguments.task,
            reason=arguments.reason,
            now_s=parts.clock.now_s(),
        ),
    )


def _import(arguments: argparse.Namespace) -> Json:
    if not arguments.weights.is_file() or arguments.weights.stat().st_size > MAX_BLOB_BYTES:
        raise UsageError("no-weights", f"{arguments.weights} is not a file of weights.", "give a safetensors file")
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        key = _signing_key(parts, connection)
    with progress(sys.stderr) as report:
        made = import_weights(
            parts.database,
            parts.blobs,
            OPERATOR,
            arguments.revision,
            arguments.task,
            arguments.weights.read_bytes(),
            key=key,
            now_s=parts.clock.now_s(),
            report=report,
        )
    parts.anchor_audit()
    return {"task": arguments.task, "version": made.version, "revision": made.state.revision}


def _rotate_key(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    now_s, authority_key = parts.clock.now_s(), parts.authority.public_key
    if arguments.certified is not None:
        word = read_signed(_file(arguments.certified, "what the authority's operator handed back"), CERTIFIED)
        key = adopt(parts.database, parts.folder, word, authority_key, OPERATOR, now_s)
    elif isinstance(parts.authority, Authority):
        secret = load_or_create_key(parts.folder.authority / AUTHORITY_KEY_FILE)
        key = rotate(parts.database, parts.folder, secret, OPERATOR, now_s)
    else:
        return _ask_for_certificate(parts, arguments)
    parts.anchor_audit()
    return {"number": key.number, "key_id": key_id(key.public_key)}


def _ask_for_certificate(parts: Context, arguments: argparse.Namespace) -> Json:
    """Write what an authority elsewhere certifies; nothing is signed anew yet."""
    number, new = next_key(parts.database, parts.folder, parts.authority.public_key)
    path = parts.folder.path / f"release_key_{number}_request.json"
    path.write_bytes(write_signed(REQUEST, request_release_key(new, number, parts.root.fingerprint)))
    if arguments.json:
        return {"number": number, "key_id": key_id(new.public), "request": str(path)}
    return facts(
        [
            ("key", f"number {number}, {key_id(new.public)}; not in use yet"),
            ("request", str(path)),
            ("next", "stop every process here, and hand the request to the authority's operator, who runs"),
            ("", "fedloom-server certify REQUEST --data AUTHORITY --out CERTIFIED, and compares the key's id;"),
            ("", f"then fedloom-server model rotate-key --certified CERTIFIED --data {arguments.data}"),
        ]
    )


def _file(path: Path, what: str) -> bytes:
    return read_text(path, "utf-8", "bad-release-key", what).encode("utf-8")


def _number_of(connection: Connection, arguments: argparse.Namespace) -> int:
    load_task(connection, arguments.task)
    return newest_version(connection, arguments.task) if arguments.version is None else int(arguments.version)


def _download(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        number = _number_of(connection, arguments)
        data = file_in_form(connection, parts.blobs, arguments.task, number, arguments.form)
    out = arguments.out or Path(f"{arguments.task}-{number}{SUFFIXES[arguments.form]}")
    out.write_bytes(data)
    if not arguments.json:
        return facts([("version", f"{number} of {arguments.task}"), ("file", str(out)), ("size", bytes_of(len(data)))])
    return {"task": arguments.task, "version": number, "file": str(out), "bytes": len(data)}


def _card(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        card = model_card(connection, parts.blobs, arguments.task, _number_of(connection, arguments))
    if arguments.out is not None:
        arguments.out.write_text(card_text(card) + "\n", "utf-8")
        return {"task": arguments.task, "version": card["version"], "file": str(arguments.out)}
    return card if arguments.json else card_text(card)


def _export(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        number = _number_of(connection, arguments)
        body, signature = release_of(connection, arguments.task, number)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / RELEASE_FILE).write_bytes(body)
    (arguments.out / SIGNATURE_FILE).write_bytes(signature)
    files = decode(body)["files"]
    names = sorted(files) if isinstance(files, dict) else []
    for name in names:
        (arguments.out / name).write_bytes(parts.blobs.get(file_of_release(body, name).sha256))
    return {"task": arguments.task, "version": number, "files": list(names)}

"""``fedloom-server authority``: an authority in a process and a folder of its own, and the codes made there.

Its operator starts it and hands ``authority.json`` to the aggregator's, who starts ``serve --authority`` and hands
back ``root.json``; ``code create --root`` keeps that, and codes can be made and redeemed from then on.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from cloud_server.authority.app import AGGREGATOR_FILE, read_root
from cloud_server.authority.registry import Authority
from cloud_server.authority.release_keys import certify
from cloud_server.authority.remote import DESCRIPTION_FILE, Description
from cloud_server.listening import add_listening, limits, public_url, read_text, tls_files
from cloud_server.logs import choose_form
from cloud_server.serve import Supervisor, web_command
from cloud_server.settings import FOLDER_MODE, write_private
from shared.clock import SystemClock
from shared.errors import UsageError
from shared.release import key_id
from shared.root import Root, require_url
from shared.wire.canonical import Json, sha256


def add_authority(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_listening(parser, 8444)


def add_certify(parser: argparse.ArgumentParser) -> None:
    """Declare the options of what certifies a release key."""
    parser.add_argument("request", type=Path, metavar="REQUEST", help="that `model rotate-key` wrote at the aggregator")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="to hand back; nothing in it is secret")


def certify_key(arguments: argparse.Namespace) -> Json:
    """Certify the next release key of the aggregator that this authority serves.

    Raises:
        UsageError: ``no-authority-folder``, ``bad-release-key``; else as ``release_keys.certify``.
    """
    folder: Path = arguments.data.resolve()
    if not is_authority(folder):
        raise UsageError(
            "no-authority-folder", f"{arguments.data} is no separate authority's folder.", "give the authority's --data"
        )
    request = read_text(arguments.request, "utf-8", "bad-release-key", "the aggregator's request").encode("utf-8")
    authority = Authority(folder, SystemClock(), os.urandom)
    key, word = certify(authority, folder, request, read_root(folder))
    arguments.out.write_bytes(word)
    return {"number": key.number, "key_id": key_id(key.public_key), "certified": str(arguments.out)}


def is_authority(folder: Path) -> bool:
    """Say whether a folder is a separate authority's."""
    return (folder / DESCRIPTION_FILE).is_file()


def serve_authority(arguments: argparse.Namespace) -> int:
    """Run the authority until it is told to stop.

    Raises:
        UsageError: ``bad-data-folder`` for an aggregator's folder or one that cannot be used.
    """
    folder: Path = arguments.data.resolve()
    if (folder / "server.db").exists():
        raise UsageError("bad-data-folder", f"{folder} is an aggregator's.", "give the authority a folder of its own")
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("bad-data-folder", f"{folder} cannot be used ({type(error).__name__}).") from error
    choose_form(arguments.log)
    allowed = limits(arguments)
    url, host = public_url(arguments)
    tls = tls_files(arguments, folder, host)
    public_key = Authority(folder, SystemClock(), os.urandom).public_key
    described = Description(public_key, url, tls.root_pem)
    _require_unchanged(folder / DESCRIPTION_FILE, described)
    write_private(folder / DESCRIPTION_FILE, described.to_bytes())
    logging.getLogger("fedloom").info("authority at %s; its description is %s", url, folder / DESCRIPTION_FILE)
    command = web_command(
        "cloud_server.authority.app",
        folder,
        arguments.listen,
        tls.certificate,
        tls.key,
        workers=1,
        **allowed.options(),
    )
    return Supervisor({"web": command}).run()


def _read_root(data: bytes, path: Path) -> Root:
    try:
        return Root.verified(data, sha256(data))
    except UsageError as error:
        remedy = "give the root.json in the aggregator's folder"
        raise UsageError("bad-root", f"{path} is no root document: {error.message}", remedy) from error


def _require_unchanged(path: Path, described: Description) -> None:
    """Refuse to be found elsewhere than the aggregator's root document says: enrolled devices pin that document."""
    if not path.is_file() or not (path.parent / AGGREGATOR_FILE).exists():
        return
    before = Description.from_bytes(path.read_bytes())
    if before != described:
        what = "address" if before.url != described.url else "TLS certificate's root"
        raise UsageError(
            "authority-changed",
            f"This authority's {what} is not the one that its aggregator's devices pin ({before.url}).",
            "start it as before; a new address or root means enrolling every device anew, at a new authority",
        )


def mint_at_authority(arguments: argparse.Namespace, valid_s: float) -> tuple[list[bytes], str, Root]:
    """Return secrets of codes, the aggregator's address and its root document.

    Raises:
        UsageError: ``no-url``, ``bad-root``, ``other-authority``, or ``no-root`` where ``--root`` was never given.
    """
    folder: Path = arguments.data.resolve()
    authority = Authority(folder, SystemClock(), os.urandom)
    if arguments.root is not None:
        data = read_text(arguments.root, "utf-8", "bad-root", "the aggregator's root.json").encode()
        if _read_root(data, arguments.root).authority_key != authority.public_key:
            raise UsageError("other-authority", "The aggregator trusts another authority.", "check --root and --data")
        write_private(folder / AGGREGATOR_FILE, data)
    if arguments.url is None:
        raise UsageError(
            "no-url",
            "Codes carry the aggregator's address.",
            "give --url https://HOST:PORT, the first time with --root FILE",
        )
    if not (folder / AGGREGATOR_FILE).exists():
        raise UsageError(
            "no-root",
            "This authority does not know its aggregator yet.",
            "give --root FILE, the aggregator's root.json",
        )
    root = read_root(folder)
    if (known := authority.tasks()) and arguments.task not in known:
        note = f"note: the first codes for task {arguments.task}; so far there were codes for {', '.join(known)}."
        print(note, file=sys.stderr)
    secrets = authority.mint(arguments.task, count=arguments.count, valid_s=valid_s, group=arguments.group)
    return secrets, require_url(arguments.url), root

"""``fedloom-server serve`` and ``driver``: the aggregator's processes, and what must not change under its devices."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from cloud_server.api.operator import AUDIENCES
from cloud_server.app import RELEASE_KEY_FILE, authority_of, description_of, make_context
from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import DESCRIPTION_FILE, Description
from cloud_server.dashboard.guard import SignInHeader
from cloud_server.listening import add_listening, limits, public_url, read_text, tls_files
from cloud_server.logs import choose_form
from cloud_server.metrics import share_between_processes
from cloud_server.operators.accounts import any_operator
from cloud_server.proxies import Proxies
from cloud_server.rounds.pacing import CHECK_INS_PER_S
from cloud_server.rounds.retention import Retention
from cloud_server.serve import Supervisor, run_driver, web_command
from cloud_server.settings import DataFolder, load_or_create_key, write_private
from cloud_server.storage.leases import LEASE_S, LONGEST_LEASE_S, SHORTEST_LEASE_S
from cloud_server.storage.opening import open_database
from cloud_server.storage.schema import device, setting
from cloud_server.stored_numbers import stored_number
from cloud_server.tls import ROOT_FILE, fingerprint
from shared.clock import SystemClock
from shared.errors import UsageError
from shared.root import Root
from shared.wire.canonical import sha256

ROOT_DOCUMENT: Final = "root.json"  # for the operator of an authority elsewhere
MAX_PROCESSES: Final = 64
MOST_CHECK_INS_PER_S: Final = 1e6
log = logging.getLogger("fedloom")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``serve``."""
    add_listening(parser, 8443)
    parser.add_argument("--workers", type=int, default=1, help="web processes")
    parser.add_argument(
        "--drivers",
        type=int,
        default=1,
        help="driver processes, which divide the tasks; 0 where `fedloom-server driver` runs elsewhere",
    )
    _add_driving(parser)
    parser.add_argument(
        "--metrics", choices=AUDIENCES, default="local", help="who may read /metrics: this machine only"
    )
    parser.add_argument(
        "--check-ins-per-s",
        type=float,
        default=CHECK_INS_PER_S,
        metavar="RATE",
        help="check-ins per second that this deployment is planned for: devices are spread so that there are no more"
        " (default %(default)g)",
    )
    parser.add_argument(
        "--sign-in-header",
        default="",
        metavar="NAME",
        help="header in which a proxy says which operator asks, as proxies for OpenID Connect do; off by default",
    )
    parser.add_argument(
        "--sign-in-proxy",
        action="append",
        default=[],
        metavar="ADDRESS[/BITS]",
        help="the proxy that sets --sign-in-header; of anybody else it means nothing; may be given again",
    )
    parser.add_argument("--authority", type=Path, metavar="FILE", help="authority.json of an authority elsewhere")


def add_driver(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``driver``."""
    parser.add_argument("--supervisor", type=int, default=os.getppid(), help="end with this process")
    _add_driving(parser)


def _add_driving(parser: argparse.ArgumentParser) -> None:
    kept = Retention()
    parser.add_argument(
        "--keep-versions",
        type=stored_number,
        default=kept.versions,
        metavar="N",
        help="how many of each task's newest versions are kept (default %(default)d)",
    )
    parser.add_argument(
        "--keep-cohorts-days",
        type=float,
        default=kept.cohort_days,
        metavar="DAYS",
        help="how long the messages of a cohort that is over are kept (default %(default)g)",
    )
    parser.add_argument(
        "--lease-s",
        type=float,
        default=LEASE_S,
        metavar="SECONDS",
        help="how long the work of a driver that died waits for another one (default %(default)g)",
    )


def _require_lease(lease_s: float) -> float:
    if not SHORTEST_LEASE_S <= lease_s <= LONGEST_LEASE_S:
        raise UsageError("bad-lease", f"--lease-s must lie between {SHORTEST_LEASE_S:g} and {LONGEST_LEASE_S:g}.")
    return lease_s


def drive(arguments: argparse.Namespace) -> int:
    """Drive rounds until told to stop."""
    kept = Retention(arguments.keep_versions, arguments.keep_cohorts_days)
    run_driver(arguments.data, arguments.supervisor, _require_lease(arguments.lease_s), kept)
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """Run the aggregator until it is told to stop.

    Raises:
        UsageError: ``bad-lease``, ``bad-count``, ``bad-rate``, ``bad-retention``, ``bad-sign-in``, ``root-changed``, or
            what else is wrong with an option.
    """
    choose_form(arguments.log)
    allowed = limits(arguments)
    sign_in = SignInHeader(arguments.sign_in_header, Proxies.from_text(",".join(arguments.sign_in_proxy)))
    _require_lease(arguments.lease_s)
    if not 0 < arguments.check_ins_per_s <= MOST_CHECK_INS_PER_S:
        raise UsageError("bad-rate", f"--check-ins-per-s must lie above 0 and be at most {MOST_CHECK_INS_PER_S:g}.")
    kept = Retention(arguments.keep_versions, arguments.keep_cohorts_days)
    if not 0 <= arguments.drivers <= MAX_PROCESSES or not 1 <= arguments.workers <= MAX_PROCESSES:
        raise UsageError("bad-count", f"--workers must lie between 1 and {MAX_PROCESSES}, --drivers from 0 on.")
    folder = DataFolder.open(arguments.data)
    is_new = not (folder.path / ROOT_DOCUMENT).exists()
    url, public_host = public_url(arguments)
    tls = tls_files(arguments, folder.keys, public_host)
    described = _described(arguments.authority) if arguments.authority else description_of(folder)
    release_key = load_or_create_key(folder.keys / RELEASE_KEY_FILE)
    root = authority_of(folder, release_key.sign, SystemClock(), described).root(release_key.public, tls.root_pem)
    _require_same_root(folder, root)
    write_private(folder.keys / ROOT_FILE, tls.root_pem.encode("ascii"))
    if described is not None:
        write_private(folder.keys / DESCRIPTION_FILE, described.to_bytes())
    parts = make_context(folder.path, SystemClock(), keep_connections=False)
    with parts.database.write() as connection:
        before = connection.execute(select(setting.c.value).where(setting.c.name == "url")).scalar_one_or_none()
        connection.execute(setting.delete().where(setting.c.name == "url"))
        connection.execute(setting.insert().values(name="url", value=url))
        has_operator = any_operator(connection)
    write_private(folder.path / ROOT_DOCUMENT, parts.root.to_bytes())
    if is_new:
        log.info("a new deployment begins in %s: no device knows its root yet", folder.path)
    if before not in {None, url}:
        log.warning("new enrolment codes lead to %s from now on; those from before lead to %s", url, before)
    log.info("serving %s from %s, root fingerprint %s", url, folder.path, parts.root.fingerprint.hex())
    shown = fingerprint(tls.certificate.read_text("ascii"))
    log.info("TLS root, SHA-256: %s; TLS certificate, SHA-256: %s", fingerprint(tls.root_pem), shown)
    if not has_operator:
        log.info(
            "the page at %s/console has no operator yet: fedloom-server operator add NAME --role admin --data %s",
            url,
            folder.path,
        )
    if isinstance(parts.authority, Authority):
        log.warning(
            "this process is also the enrolment authority: whoever runs it could invent devices, so members are"
            " protected from outsiders, and from an honest operator's mistakes, but not from a lying operator"
        )
    share_between_processes(folder.metrics)
    driver = [sys.executable, "-m", "cloud_server", "driver", "--data", str(folder.path)]
    driver += ["--lease-s", str(arguments.lease_s), "--supervisor", str(os.getpid())]
    driver += ["--keep-versions", str(kept.versions), "--keep-cohorts-days", str(kept.cohort_days)]
    return Supervisor(
        {
            "web": web_command(
                "cloud_server.app",
                folder.path,
                arguments.listen,
                tls.certificate,
                tls.key,
                workers=arguments.workers,
                metrics=arguments.metrics,
                check_ins_per_s=arguments.check_ins_per_s,
                **allowed.options(),
                **sign_in.options(),
            ),
            **{f"driver {number}": driver for number in range(1, arguments.drivers + 1)},
        }
    ).run()


def _described(path: Path) -> Description:
    data = read_text(path, "utf-8", "bad-authority", "the authority.json that fedloom-server authority wrote").encode()
    try:
        return Description.from_bytes(data)
    except UsageError as error:
        remedy = "give the authority.json that fedloom-server authority wrote"
        raise UsageError("bad-authority", f"{path} describes no authority: {error.message}", remedy) from error


def _require_same_root(folder: DataFolder, root: Root) -> None:
    """Refuse to serve with other keys than the enrolled devices pin: they would all be locked out."""
    path = folder.path / ROOT_DOCUMENT
    if not path.is_file():
        return
    data = path.read_bytes()
    before = Root.verified(data, sha256(data))
    if before == root:
        return
    with open_database(folder, keep_connections=False).read() as connection:
        enrolled = connection.execute(select(func.count()).select_from(device)).scalar_one()
    if not enrolled:
        return
    changed = {
        "its authority": (before.authority_key, root.authority_key),
        "its authority's address": (before.authority_url, root.authority_url),
        "its authority's TLS root": (before.authority_tls_root_pem, root.authority_tls_root_pem),
        "its release key": (before.release_key, root.release_key),
        "its TLS root": (before.tls_root_pem, root.tls_root_pem),
    }
    what = " and ".join(name for name, (old, new) in changed.items() if old != new)
    raise UsageError(
        "root-changed",
        f"The {enrolled} devices enrolled here pin this aggregator with another root: {what} changed.",
        "start it with the files of before (keys/ is in your backup), or a new deployment in another --data folder",
    )

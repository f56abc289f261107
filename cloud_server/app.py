"""The Flask application: parts, routes, limits."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flask import Flask

from cloud_server.api import cohorts, enrolment, health, openapi, operator, problems, work
from cloud_server.api.context import EXTENSION, Context
from cloud_server.api.limiting import Limits, limit
from cloud_server.api.observing import observe
from cloud_server.api.operator import Audience
from cloud_server.api.paths import check_paths
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import DESCRIPTION_FILE, Description, RemoteAuthority
from cloud_server.beside import in_web_process
from cloud_server.dashboard import register as dashboard
from cloud_server.dashboard.guard import SignInHeader
from cloud_server.device_keys import IdentityKeys
from cloud_server.devices import Acceptor
from cloud_server.metrics import RequestMetrics, StateCollector, read_metrics, registry_for_values
from cloud_server.proxies import Proxies
from cloud_server.releases.keys import newest_key
from cloud_server.rounds.assigning import Assigner
from cloud_server.rounds.pacing import CHECK_INS_PER_S, Pacer
from cloud_server.settings import FOLDER_MODE, DataFolder, load_or_create_key
from cloud_server.storage.blobs import UploadStore
from cloud_server.storage.database import Revisions
from cloud_server.storage.opening import open_blobs, open_database
from cloud_server.tls import ROOT_FILE
from shared.clock import Clock, SystemClock
from shared.errors import UsageError
from shared.limits import MAX_VECTOR_BYTES, POLL_INTERVAL_S, REMOTE_POLL_INTERVAL_S

RELEASE_KEY_FILE = "release.key"
DEFAULT_LIMITS: Final = Limits()
NO_SIGN_IN_HEADER: Final = SignInHeader()


def make_context(
    data: Path,
    clock: Clock,
    *,
    jitter: Callable[[], float] = random.random,
    check_ins_per_s: float = CHECK_INS_PER_S,
    keep_connections: bool = True,
) -> Context:
    """Open the parts of the aggregator whose data folder is ``data``.

    Args:
        data: the folder.
        clock: the time.
        jitter: random numbers in [0, 1) that spread devices in time.
        check_ins_per_s: that the server is planned for.
        keep_connections: see ``Database``.

    Raises:
        UsageError: ``no-root`` before ``serve`` has made or been given TLS files; ``database-behind``.
    """
    folder = DataFolder.open(data)
    tls_root = folder.keys / ROOT_FILE
    if not tls_root.exists():
        raise UsageError(
            "no-root",
            f"{data} has no TLS certificate yet.",
            "start `fedloom-server serve` with this --data once; it makes one",
        )
    release_key = load_or_create_key(folder.keys / RELEASE_KEY_FILE)
    database = open_database(folder, keep_connections=keep_connections)
    anchor = Anchor(folder.path / ANCHOR_FILE)

    def sign(message: bytes) -> bytes:
        with database.read() as connection:
            return newest_key(folder, connection).sign(message)

    authority = authority_of(folder, sign, clock, description_of(folder))
    with database.read() as connection:
        anchor.require_contained(connection)
        anchor.extend(connection)
    return Context(
        folder=folder,
        database=database,
        revisions=Revisions(database, POLL_INTERVAL_S / 2 if database.is_sqlite else REMOTE_POLL_INTERVAL_S),
        blobs=open_blobs(folder),
        uploads=UploadStore(folder.uploads),
        authority=authority,
        root=authority.root(release_key.public, tls_root.read_text("ascii")),
        anchor=anchor,
        clock=clock,
        assigner=Assigner(database, clock, Pacer(database, clock, jitter, check_ins_per_s)),
        acceptor=Acceptor(open_database(folder) if in_web_process() else database),
        identity_keys=IdentityKeys(database),
    )


def open_existing(data: Path) -> Context:
    """Open the aggregator in a folder that is there, for a command; raises as ``make_context``, and ``no-data``."""
    DataFolder.existing(data)
    return make_context(data, SystemClock(), keep_connections=False)


def description_of(folder: DataFolder) -> Description | None:
    """Return the authority elsewhere that ``serve --authority`` was told of, now or before."""
    path = folder.keys / DESCRIPTION_FILE
    return Description.from_bytes(path.read_bytes()) if path.exists() else None


def authority_of(
    folder: DataFolder, sign: Callable[[bytes], bytes], clock: Clock, described: Description | None
) -> Authority | RemoteAuthority:
    """Return the authority that is ``described``, which ``sign`` signs requests for, else the one in this folder."""
    if described is not None:
        return RemoteAuthority(described, sign)
    folder.authority.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return Authority(folder.authority, clock, os.urandom)


def create_app(
    parts: Context,
    metrics: Audience = "local",
    limits: Limits = DEFAULT_LIMITS,
    sign_in: SignInHeader = NO_SIGN_IN_HEADER,
) -> Flask:
    """Return the WSGI application over ``parts``.

    Args:
        parts: of the aggregator.
        metrics: who may read them.
        limits: what one asker may have.
        sign_in: the proxy whose word tells who an operator is.
    """
    app = Flask("fedloom", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_VECTOR_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # every answer comes from a view that states its policy
    app.url_map.merge_slashes = False  # a second spelling of a path is no path, instead of a redirect
    app.extensions[EXTENSION] = parts
    problems.register(app)
    for blueprint in (enrolment.blueprint, work.blueprint, cohorts.blueprint):
        app.register_blueprint(blueprint)
    checks: dict[str, health.Check] = {
        "database": health.database_answers(parts.database),
        parts.blobs.kind: parts.blobs.missing,
        "folder of uploads": health.folder_writable(parts.folder.uploads),
        "driver": health.driver_alive(parts.database, parts.clock),
    }
    health.register(app, checks)
    registry, state = registry_for_values(), StateCollector(parts.database, parts.clock)
    operator.register(app, metrics, lambda: read_metrics(registry, state))
    openapi.register(app)
    dashboard.register(app, parts, checks, sign_in)
    observe(app, os.urandom, RequestMetrics(registry).record)
    limit(app, limits)
    check_paths(app)
    return app


def application(
    data: str,
    metrics: Audience = "local",
    check_ins_per_s: float = CHECK_INS_PER_S,
    sign_in_header: str = "",
    sign_in_proxies: str = "",
    **limits: float | str,
) -> Flask:
    """Entry point of a web worker."""
    parts = make_context(Path(data), SystemClock(), check_ins_per_s=check_ins_per_s)
    sign_in = SignInHeader(sign_in_header, Proxies.from_text(sign_in_proxies))
    return create_app(parts, metrics, Limits.of(limits), sign_in)

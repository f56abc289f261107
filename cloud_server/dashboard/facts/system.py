"""The deployment itself: its program, stores, processes and keys."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from cryptography import x509
from sqlalchemy import Connection, select

from cloud_server.api.context import Context
from cloud_server.api.health import Check
from cloud_server.authority.registry import Authority
from cloud_server.storage.revisions import AGGREGATOR
from cloud_server.storage.schema import lease, setting
from cloud_server.tls import CERTIFICATE_FILE, fingerprint
from shared.wire.canonical import Json


def show_system(connection: Connection, parts: Context, checks: Mapping[str, Check]) -> dict[str, Json]:
    """Return what runs, what it stores where, and what is missing."""
    disk = shutil.disk_usage(parts.folder.path)
    now_s = parts.clock.now_s()
    leases = connection.execute(select(lease).where(lease.c.expires_s > now_s).order_by(lease.c.name)).all()
    return {
        "fedloom": _version(),
        "python": platform.python_version(),
        "database": "SQLite" if parts.database.is_sqlite else "PostgreSQL",
        "revision": AGGREGATOR.newest,
        "database_bytes": parts.folder.database.stat().st_size if parts.database.is_sqlite else None,
        "blobs": parts.blobs.kind,
        "disk": {
            "total_bytes": disk.total,
            "free_bytes": disk.free,
            "free_percent": round(100 * disk.free / disk.total),
        },
        "drivers": sorted({row.owner for row in leases}),
        "leases": [{"name": row.name, "owner": row.owner} for row in leases],
        "checks": [{"name": name, "missing": check()} for name, check in checks.items()],
    }


def show_keys(connection: Connection, parts: Context) -> dict[str, Json]:
    """Return the public halves of what devices pin, to be compared by hand; nothing secret."""
    root, own = parts.root, _own_certificate(parts)
    address = connection.execute(select(setting.c.value).where(setting.c.name == "url")).scalar_one_or_none()
    return {
        "url": address,
        "authority_here": isinstance(parts.authority, Authority),
        "authority_url": root.authority_url or None,
        "root_fingerprint": root.fingerprint.hex(),
        "release_key": root.release_key.hex(),
        "authority_key": root.authority_key.hex(),
        "tls_root_sha256": fingerprint(root.tls_root_pem),
        "certificate_sha256": fingerprint(own) if own else None,
        "certificate_expires_s": x509.load_pem_x509_certificate(own.encode()).not_valid_after_utc.timestamp()
        if own
        else None,
    }


def _version() -> str:
    try:
        return version("fedloom")
    except PackageNotFoundError:
        return "-"


def _own_certificate(parts: Context) -> str:
    """Return the certificate of the aggregator's own making, empty with one of the operator's."""
    path = parts.folder.keys / CERTIFICATE_FILE
    return path.read_text("ascii") if path.is_file() else ""

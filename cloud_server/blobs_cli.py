"""``fedloom-server blobs``: keep the files of releases in an object store."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from cloud_server.progress import progress
from cloud_server.settings import DataFolder, write_private
from cloud_server.storage.blobs import is_digest
from cloud_server.storage.opening import open_blobs
from shared.errors import Conflict, UsageError
from shared.ids import random_id
from shared.wire.canonical import Json

Add = Callable[[str, str, Callable[[argparse.Namespace], Json]], argparse.ArgumentParser]


def add_blobs(add: Add) -> None:
    """Declare the verbs; ``add`` makes a parser of a name, a sentence and what runs it."""
    using = add("use", "keep them in an S3 bucket from now on; what there is is copied", _use)
    using.add_argument("url", metavar="s3://BUCKET/PREFIX")
    using.add_argument("--endpoint", default="", metavar="URL", help="of another server than Amazon's")
    using.add_argument("--region", default="")
    using.add_argument(
        "--virtual-host", action="store_true", help="the bucket is a part of the host's name, not of the path"
    )
    using.add_argument(
        "--credentials",
        action="store_true",
        help="keep those that standard input has in two lines, id and secret; else every process takes them from its"
        " environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on)",
    )
    using.add_argument("--take-over", action="store_true", help="from a deployment that is no more, after a restore")


def _use(arguments: argparse.Namespace) -> Json:
    from cloud_server.storage.object_store import Address, ObjectBlobs  # noqa: PLC0415  # obstore; folders need none

    folder = DataFolder.open(arguments.data)
    address = Address.from_url(arguments.url, arguments.endpoint, arguments.region, virtual_host=arguments.virtual_host)
    if arguments.credentials:
        name, secret = sys.stdin.readline().strip(), sys.stdin.readline().strip()
        if not name or not secret:
            raise UsageError("bad-credentials", "Standard input has no two lines.", "write the id, then the secret")
        address = replace(address, access_key_id=name, secret_access_key=secret)
    mark, before = _own_mark(folder), open_blobs(folder)
    owner = ObjectBlobs(address).owner()
    if owner and owner != mark and not arguments.take_over:
        raise Conflict(
            "blobs-in-use",
            f"{arguments.url} has the files of another deployment, whose housekeeping would delete this one's.",
            "give another prefix; --take-over if that deployment is no more, for instance after a restore",
        )
    address = replace(address, owner=mark or random_id("deployment", os.urandom))
    blobs = ObjectBlobs(address)
    blobs.claim()
    copied = 0
    with progress(sys.stderr) as report:
        for stored in before.stored():
            if is_digest(stored.digest) and not stored.is_difference:
                blobs.put(before.get(stored.digest))
                copied += 1
                report("files copied", copied)
    write_private(folder.object_store_file, address.to_bytes())
    return {"blobs": arguments.url, "copied": copied}


def _own_mark(folder: DataFolder) -> str:
    from cloud_server.storage.object_store import Address  # noqa: PLC0415  # as above

    path = folder.object_store_file
    return Address.from_bytes(path.read_bytes()).owner if path.exists() else ""

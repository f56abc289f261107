"""An authority and an aggregator as two real deployments that share no file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cloud_server.app import RELEASE_KEY_FILE
from cloud_server.authority.remote import Description, RemoteAuthority
from cloud_server.settings import DataFolder, load_or_create_key
from cloud_server.storage.blobs import FolderBlobs
from cloud_server.storage.opening import open_database
from cloud_server.tasks import create_task, prepare_task
from shared.plan import Plan
from shared.root import Root
from shared.wire.canonical import sha256
from shared.wire.signed import SigningKey
from tests.cloud_server.local import small_plan
from tests.e2e.servers import quadratic_bundle
from tools.fleet import Server


@dataclass
class Pair:
    """Both deployments."""

    authority: Server
    aggregator: Server

    @property
    def url(self) -> str:
        """The aggregator's address."""
        return f"https://127.0.0.1:{self.aggregator.port}"

    @property
    def root(self) -> Root:
        """What devices trust."""
        data = (self.aggregator.data / "root.json").read_bytes()
        return Root.verified(data, sha256(data))

    @property
    def release_key(self) -> SigningKey:
        """The aggregator's own key."""
        return load_or_create_key(DataFolder(self.aggregator.data).keys / RELEASE_KEY_FILE)

    def seeds(self, key: SigningKey) -> RemoteAuthority:
        """Return the authority as somebody with ``key`` asks it."""
        described = Description.from_bytes((self.authority.data / "authority.json").read_bytes())
        return RemoteAuthority(described, key.sign)

    def create_task(self, plan: Plan, dimension: int) -> None:
        """Make a task with the textbook model."""
        data = DataFolder(self.aggregator.data)
        database = open_database(data)
        with database.write() as connection:
            bundle = quadratic_bundle(dimension)
            create_task(
                connection,
                prepare_task(FolderBlobs(data.blobs), bundle, plan, self.release_key, time.time()),
                time.time(),
            )
        database.close()

    def codes(self, count: int, task: str = "point") -> list[str]:
        """Make codes where they are made."""
        words = ("--task", task, "--count", str(count), "--url", self.url)
        root = str(self.aggregator.data / "root.json")
        made: list[str] = self.authority.run("code", "create", *words, "--root", root)["codes"]
        return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    authority = Server(folder / "authority", folder / "authority.log", command=("authority",))
    authority.start()
    description = str(authority.data / "authority.json")
    aggregator = Server(folder / "server", folder / "server.log", command=("serve", "--authority", description))
    try:
        aggregator.start()
        both = Pair(authority, aggregator)
        both.create_task(small_plan("point", members=2), 6)
        yield both
    finally:
        aggregator.stop()
        authority.stop()

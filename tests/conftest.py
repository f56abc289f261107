"""Which database the aggregators of the tests use: a file, unless ``--database postgresql`` is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import s3 as object_stores
from tests.s3 import S3
from tools import own_postgres
from tools.own_postgres import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--database", choices=("sqlite", "postgresql"), default="sqlite", help="of the tests' aggregators")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """Return a real PostgreSQL of this worker's own."""
    with own_postgres.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """Return a real S3 server of this worker's own."""
    with object_stores.server() as running:
        yield running


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> Callable[[], str | None]:
    """Return what makes an empty database and returns its address; None stands for a file in the data folder."""
    if request.config.getoption("--database") == "sqlite":
        return lambda: None
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.new_database

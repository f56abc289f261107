"""A running server for the tests of one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bundles import personal_bundle
from tests.e2e.pair import pair
from tests.e2e.servers import Deployment, deployment

__all__ = ["pair", "personal_bundle", "running"]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str | None]) -> Iterator[Deployment]:
    """Return a server whose processes run while tests do; every test makes tasks of its own."""
    with deployment(tmp_path_factory.mktemp("deployment"), database_url=new_database()) as server:
        yield server

"""A running server for the tests of one worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bundles import personal_bundle
from tests.e2e.servers import Deployment, deployment

__all__ = ["personal_bundle", "running"]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server whose processes run while tests do; every test makes tasks of its own."""
    with deployment(tmp_path_factory.mktemp("deployment")) as server:
        yield server

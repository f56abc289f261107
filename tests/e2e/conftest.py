"""A running server for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.servers import Deployment, deployment


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Return a server whose processes run while the module's tests do."""
    with deployment(tmp_path_factory.mktemp("deployment")) as server:
        yield server

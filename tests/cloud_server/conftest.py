"""What several tests of the aggregator start from, and the same hypothesis profile as in the tests of ``shared``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bundles import activity_bundle, activity_folder
from tests.cloud_server.local import Local
from tests.shared import conftest

__all__ = ["activity_bundle", "activity_folder", "conftest", "local"]


@pytest.fixture
def local(tmp_path: Path, new_database: Callable[[], str | None]) -> Iterator[Local]:
    """Return an aggregator in this process."""
    made = Local(tmp_path / "data", new_database())
    yield made
    made.close()

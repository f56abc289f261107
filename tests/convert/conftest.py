"""Fixtures that these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import activity_bundle, activity_folder, personal_bundle

__all__ = ["activity_bundle", "activity_folder", "folder", "personal_bundle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a module's conversions go."""
    return tmp_path_factory.mktemp("bundles")

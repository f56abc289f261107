"""What several tests of the device start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import activity_bundle, activity_folder, personal_bundle
from tests.edge_client.loopback import make_certificates

__all__ = ["activity_bundle", "activity_folder", "certificates", "personal_bundle"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a TLS root and a server certificate below it."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder

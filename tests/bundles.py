"""The bundle of the task ``activity``, converted once per test run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bundle import Bundle, read_bundle


@pytest.fixture(scope="session")
def activity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle folder; workers of one parallel run share it, and writing it is atomic."""
    base = tmp_path_factory.getbasetemp()
    # A worker's folder lies in that of its run; without workers the one above would outlive the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "activity-bundle"
    if not folder.exists():
        command = [sys.executable, "-m", "tools.convert", "models.activity:build", "--out", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def activity_bundle(activity_folder: Path) -> Bundle:
    """Return the bundle, verified."""
    return read_bundle(activity_folder)
